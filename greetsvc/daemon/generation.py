"""The listeners of one set of settings: bound all or none, served, and followed by those of the next settings."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from greetsvc.daemon.listeners import DatagramListening, OwnError, Premises, Spot, StreamListening, TakenError, taken
from greetsvc.daemon.settings.start_checks import GreeterRaised, sample_greeting
from greetsvc.daemon.settings.table import ONCE, Listener
from greetsvc.errors import ConfigError, reason_of
from greetsvc.net.bound import BoundSockets, BoundTo, NotHeldError
from greetsvc.plugins import tell_failure
from greetsvc.printable import escaped

__all__ = ["Generation"]

_log = Logger(namespace="greetsvc")


class Generation:
    """Serves ``listeners`` with what is in ``premises``.

    With ``before``, the generation that serves now, it takes over the sockets that stay, with what waits in their
    queues; its own ``premises`` differ in these. ``listening`` has the listeners once they are bound. ``warnings`` is
    what is wrong all the same, and ``notes`` what else an operator should know.
    """

    def __init__(self, premises: Premises, listeners: Iterable[Listener], before: Generation | None = None) -> None:
        self.listening: list[StreamListening | DatagramListening] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self._listeners = tuple(listeners)
        self._before = before.listening if before is not None else []
        self._heirless = list(self._before)
        self._taken: dict[int, str] = {}
        self._late: Callable[[ConfigError], object]
        endpoints = [listener.endpoint for listener in self._listeners]
        self.premises: Premises = evolve(
            premises,
            ipv4_tcp={one.ipv4_port for one in endpoints if one.ipv4_port and not one.is_datagram},
            ipv4_udp={one.ipv4_port for one in endpoints if one.ipv4_port and one.is_datagram},
            samples=self._sample_greetings(),
            sockets=BoundSockets(
                [*(before.bound if before is not None else ()), *premises.inherited.held],
                makes=not premises.inherited.complete,
                clear=premises.clear if before is None else None,
            ),
        )

    def bind(self, late: Callable[[ConfigError], object], *, check: bool = False) -> None:
        """Bind every listener, or none. Raises `ConfigError`; see `StreamListening.bind` for ``late``.

        With ``check`` a socket that another program has bound is no error.
        """
        self._late = late
        try:
            for listener in self._listeners:
                self._bind(listener, late, check)
        except ConfigError:
            self.unbind()
            raise
        for one in self.listening:
            self.warnings += one.warnings()

    def _bind(self, listener: Listener, late: Callable[[ConfigError], object], check: bool) -> None:
        for old in self._before:
            if old.is_foreign and old.listener.endpoint == listener.endpoint:
                self.listening.append(old)
                self.warnings.append(f"{listener.endpoint.text} keeps its settings until a restart")
                return
        before = next((old for old in self._heirless if old.listener.endpoint == listener.endpoint), None)
        if before is not None:
            self._heirless.remove(before)
        kind = DatagramListening if listener.endpoint.is_datagram else StreamListening
        one = kind(self.premises, listener, before)
        self.listening.append(one)
        try:
            one.bind(late)
        except NotHeldError:
            self.listening.remove(one)  # another worker serves it
        except TakenError as error:
            others = [other.listener for other in self.listening[:-1]]
            if isinstance(error, OwnError):  # of one that may come later
                others = [other for other in self._listeners if other is not listener]
            self._taken[id(one)] = taken(error, listener, others, check=check)

    def unbind(self) -> None:
        """Undo `bind`."""
        for one in self.listening:
            if one not in self._before:
                _stop(one, self.premises.sockets.inherited)
        self.listening.clear()

    def begin(self, announce: Callable[[Spot], object], *, serve: bool = True) -> None:
        """Serve, in place of the generation before. ``announce`` is called with each spot that is new.

        Without ``serve`` others do that with these sockets. A listener whose protocol raises now serves nobody: it is
        stopped, and ``late`` of `bind` is called.
        """
        kept = {str(spot) for old in self._before for spot in old.spots()}
        inherited = self.premises.sockets.inherited
        for old in self._before:
            if old not in self.listening:
                _stop(old, set(inherited.values()))
        modes = {old.listener.endpoint.path: old.listener.endpoint.mode for old in self._before}
        for one in tuple(self.listening):
            if one not in self._before:
                endpoint = one.listener.endpoint
                if endpoint.path is not None and modes.get(endpoint.path, endpoint.mode) != endpoint.mode:
                    self._change_mode(endpoint.path, endpoint.mode)
                begin = one.begin if serve else partial(_tell, one.spots())
                try:
                    begin(lambda spot: None if str(spot) in kept else announce(spot))
                except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and the others serve
                    tell_failure("protocol", one.listener.protocol_option)
                    self.listening.remove(one)
                    _stop(one, ())
                    self._late(
                        ConfigError(
                            f"{one.listener.where}: the protocol {one.listener.protocol_option!r} does not start:"
                            f" {reason_of(error)}"
                        )
                    )
        self._before, self._heirless = [], []
        inherited.clear()

    @property
    def foreign(self) -> list[Listener]:
        """Those whose sockets are not ours."""
        return [one.listener for one in self.listening if one.is_foreign]

    @property
    def bound(self) -> list[tuple[BoundTo, socket.socket]]:
        """Its sockets, with what they are bound to."""
        return [each for each in self.premises.sockets.bound if each[1].fileno() >= 0]

    def _change_mode(self, path: str, mode: int) -> None:
        try:
            Path(path).chmod(mode)
        except OSError as error:
            self.warnings.append(f"{escaped(path)} keeps its mode: {error.strerror}")

    def ends_before(self, now: Generation) -> bool:
        """End for good if none of its listeners lives on in ``now``, and none of its connections is open."""
        own = [one for one in self.listening if one.premises is self.premises]
        if self.premises.lingerers.count or any(one.is_busy or one in now.listening for one in own):
            return False
        self.abort()
        return True

    async def stop(self) -> None:
        """Stop listening; what waits in the queues is still greeted."""
        for one in self.listening:
            await one.stop()

    def finish(self) -> None:
        """End the connections that would go on."""
        for one in self.listening:
            if one.premises is self.premises and isinstance(one, StreamListening):
                one.factory.finish()

    def abort(self) -> None:
        """Abort every open connection."""
        for one in self.listening:
            if one.premises is self.premises:
                one.abort()
        self.premises.lingerers.stop()

    @property
    def lingering(self) -> int:
        """Connections that have been greeted, and wait for their peer to close."""
        return self.premises.lingerers.count

    @property
    def udp_ports(self) -> set[int]:
        """The UDP ports."""
        return {one.udp_port for one in self.listening if isinstance(one, DatagramListening)}

    def describe(self) -> list[str]:
        """One line for each listener with where it is and its greeter."""
        return [self._described(one) for one in self.listening]

    def _described(self, one: StreamListening | DatagramListening) -> str:
        says = f"says {escaped(one.listener.greeter_option)}"
        if one.listener.plugin is not ONCE:
            says += f" over {escaped(one.listener.protocol_option)}"
        if id(one) in self._taken:
            return f"{self._taken[id(one)]}; it {says}"
        spots = ", ".join(map(str, one.spots()))
        return f"{spots or f'{one.listener.endpoint.transport} not known yet: {one.listener.endpoint.text}'} {says}"

    def _sample_greetings(self) -> dict[int, bytes]:
        """What each greeter says for a made-up visit. Those that raise become warnings."""
        found: dict[int, bytes] = {}
        for listener in self._listeners:
            if id(listener.greeter) not in found:
                found[id(listener.greeter)] = b""
                try:
                    found[id(listener.greeter)], warning = sample_greeting(listener)
                    self.warnings += filter(None, [warning])
                except GreeterRaised as error:
                    self.warnings.append(str(error))
        return found


def _tell(spots: Iterable[Spot], announce: Callable[[Spot], object]) -> None:
    for spot in spots:
        announce(spot)


def _stop(one: StreamListening | DatagramListening, shared: Any) -> None:
    """Stop a listener, except that sockets with a duplicate elsewhere, which are in ``shared``, keep their queues."""
    stopping = Deferred.fromCoroutine(one.stop(shared))
    stopping.addErrback(lambda failure: _log.failure("A listener could not be stopped", failure))
