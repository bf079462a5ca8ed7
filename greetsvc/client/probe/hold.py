"""Connections that are silent for a while: do they survive that on their path? (docs/talk.md)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from greetsvc.client.hold import Held, HoldResult, Search
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.resolve import resolve
from greetsvc.client.probe.steps import Trace
from greetsvc.client.probe.stream.connection import run_stream
from greetsvc.client.probe.stream.talk import AnyState, TalkProbe, TalkState, Turn, new_state, turns_of
from greetsvc.client.probe.system import system_failed
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import GreetFailed
from greetsvc.client.tls import ClientTls
from greetsvc.client.words import decimal
from greetsvc.visit import Address

__all__ = ["Holding"]

_BEAT = 1.0
_PART = 0.05
"""The connection that is not silent waits for so many seconds before it speaks again, or for this part of its age if
that is longer. So it speaks often enough for a limit that others have survived, and not thousands of times in all.
"""


@define
class Holding:
    """Holds connections to one target as a `Search` has it, and beside them one that is not silent.

    That one tells a limit on silence from a server that was stopped, a path that went down, and a limit on the whole
    life of a connection. ``each`` is called with what came of each silence.
    """

    probe: Probe
    search: Search
    reactor: Any
    each: Callable[[Held], None] = lambda _: None
    trace: Trace | None = None
    peer: Address | None = None
    refused: list[GreetFailed] = field(factory=list)
    """Connections that failed before their silence."""
    _remote: SocketAddress | str = ""
    _active: _Active | None = None

    async def run(self) -> None:
        """Try silences until the limit is known. Also when this is cancelled, `result` has what is known.

        :raises GreetFailed: when no connection came to its silence.
        """
        timeline = self._timeline()
        try:
            await self._run(timeline)
        except GreetFailed:
            raise
        except OSError as error:  # this host failed where none of the steps expects it
            raise system_failed(timeline, error.errno or errno.EIO) from None

    async def _run(self, timeline: Timeline) -> None:
        target = self.probe.target
        self._remote = target.path if target.local else await resolve(timeline, self.reactor)
        self.peer = Address(self._remote, 0) if isinstance(self._remote, str) else self._remote.address
        active = self._active = _Active(self)
        try:
            await active.reply()
            while not active.failed and (silences := self.search.next_round()):
                known = self.search.between
                await self._round(silences)
                if not self.search.tried:
                    raise self.refused[0]
                if self.search.ended is not None:
                    with suppress(GreetFailed):  # `active.failed` has it
                        await active.reply()
                if known is not None and self.search.between == known:
                    return
        finally:
            active.stop()

    async def _round(self, silences: list[float]) -> None:
        """Hold a connection for each silence, all at once; those that cannot tell more are closed early."""
        holds = {silence: Deferred.fromCoroutine(self._hold(silence)) for silence in silences}

        def told(_: object) -> None:
            for silence, hold in holds.items():
                if self.search.needless(silence):
                    hold.cancel()

        for hold in holds.values():
            hold.addCallback(told)
        for (_, result), silence in zip(await DeferredList(holds.values(), consumeErrors=True), holds, strict=True):
            if isinstance(result, Failure) and not (result.check(CancelledError) and self.search.needless(silence)):
                result.raiseException()

    async def _hold(self, silence: float) -> None:
        """Speak, be silent, speak."""
        first, last = self.turns[0], evolve(self.turns[-1], pause=silence)
        state = self.state([first, last], TalkState, f"{decimal(silence, 4)} s: " if self.search.search else "")
        failed = None
        try:
            await self.connect(state)
        except GreetFailed as error:
            failed = error
            if not state.silent_since or state.bad_frame:
                self.refused.append(failed)
                return
        held = _held(state, failed)
        self.search.tried.append(held)
        self.each(held)

    @property
    def turns(self) -> list[Turn]:
        """What there is to say."""
        talk = self.probe.options.talk
        assert talk is not None
        return turns_of(talk, self.probe.options.encoding)

    def state(self, turns: list[Turn], kind: type[AnyState], mark: str) -> AnyState:
        """The state of another connection; the trace of its steps begins with ``mark``."""
        timeline = self._timeline(mark)
        timeline.peer = self.peer
        return new_state(timeline, turns, kind, tls=self.probe.target.transport == "tls", waits=False)

    async def connect(self, state: TalkState) -> None:
        """Carry out another connection."""
        tls = (self.probe.options.tls or ClientTls()) if state.tls else None
        await run_stream(state, self._remote, tls, self.reactor, TalkProbe)

    def _timeline(self, mark: str = "") -> Timeline:
        trace = self.trace
        return Timeline(
            self.probe.target,
            self.probe.options,
            trace=None if trace is None else lambda line: trace(line[:2] + mark + line[2:]),
        )

    def result(self, *, stopped: bool = False) -> HoldResult | None:
        """What is known; None before there is something."""
        search, active = self.search, self._active
        if self.peer is None or active is None or not active.heard:
            return None
        return HoldResult(
            peer=self.peer,
            asked=search.most,
            held=search.ended or search.survived,
            between=None if active.failed and search.ended is not None else search.between,
            tried=tuple(sorted(search.tried, key=lambda held: held.silence)),
            active=active.failed,
            stopped=stopped,
        )


@define(kw_only=True)
class _ActiveState(TalkState):
    """Says its message again and again; of its round trips only the latest is kept."""

    on_reply: Callable[[], None] = lambda: None

    def _replied(self, message: bytes) -> None:
        turn = self.waiting
        super()._replied(message)
        if turn is not None and not self.refused:
            self.timeline.talk = evolve(self.talked, round_trips=self.talked.round_trips[-1:])
            age = self.timeline.seconds().total
            self.turns.append(evolve(turn, pause=max(_BEAT, _PART * age)))
            self.on_reply()


class _Active:
    """The connection that is not silent. ``heard``: there was a reply; ``failed`` is how it ended."""

    def __init__(self, holding: Holding) -> None:
        self.heard = False
        self.failed: GreetFailed | None = None
        self._error: Failure | None = None
        self._waiting: list[Deferred[None]] = []
        state = holding.state(holding.turns[:1], _ActiveState, "active: ")
        state.on_reply = self._on_reply
        self._running = Deferred.fromCoroutine(holding.connect(state)).addErrback(self._lost)

    async def reply(self) -> None:
        """Wait for the next reply.

        :raises GreetFailed: when the connection has ended.
        """
        if self._error is None:
            waiting: Deferred[None] = Deferred(self._waiting.remove)
            self._waiting.append(waiting)
            await waiting
        if self._error is not None:
            self._error.raiseException()

    def _on_reply(self) -> None:
        self.heard = True
        self._tell()

    def _lost(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._error = failure
            self.failed = failure.value if isinstance(failure.value, GreetFailed) else None
            self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def stop(self) -> None:
        """Close it."""
        self._running.cancel()


def _held(state: TalkState, failed: GreetFailed | None) -> Held:
    """What came of the silence of a connection."""
    framing = state.framing
    part = state.text_of(framing.partial) if failed and not state.silent else ""
    told: Any = {"pinged": framing.pinged, "said": state.unasked or framing.farewell, "part": part}
    if state.silent:
        assert failed is not None
        return Held(state.ended_at - state.silent_since, failed.closed, spoken=False, **told)
    if state.refused:
        failed = None  # that is an answer
    before, after, end = state.info_silent, state.info_spoken, state.info_end
    packets = None
    if before and after and before.segments_in is not None and after.segments_in is not None:
        packets = after.segments_in - before.segments_in
    return Held(
        state.since - state.silent_since,
        failed.closed if failed else None,
        reply=None if failed else state.talked.round_trips[-1].seconds,
        sent_again=end.retransmits - after.retransmits if end and after else None,
        acknowledged=not end.unacked if end else None,
        packets=packets,
        **told,
    )
