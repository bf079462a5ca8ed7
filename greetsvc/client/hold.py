"""How long may a connection be silent? What came of each silence, and which to try next. Pure."""

from __future__ import annotations

from attrs import define, field, frozen

from greetsvc.client.result import GreetFailed
from greetsvc.client.words import Closed
from greetsvc.visit import Address

__all__ = ["DEFAULT_MOST", "Held", "HoldResult", "Search"]

DEFAULT_MOST = 7200.0
"""The longest silence that a search tries, in seconds: after as long, most systems send a TCP keepalive by themselves
(RFC 9293 3.8.4), and a NAT has to keep an established connection a little longer (RFC 5382 REQ-5).
"""

_GROWTH = 1.5
"""Each silence of a first round, by the one before."""
_PARTS = 16
"""How many silences a later round tries, at equal distances."""
_EXACT = 1.0
_SHARE = 0.05
"""A limit is found when it is known to a second, or to this share of itself."""


@frozen
class Held:
    """One connection that was silent for ``silence`` seconds: until we spoke or, if not ``spoken``, until it ended.

    ``closed`` is how it ended; None: our message was answered, after ``reply`` seconds. For TCP on Linux, the kernel
    tells how many times our message was ``sent_again``, whether it was ``acknowledged`` all the same, and how many
    ``packets`` came during the silence. ``pinged``: WebSocket asked for a sign of life during it, and got one.
    ``said`` is the last that the server said without being asked, such as why it closes, and ``part`` is what came of
    an answer that is not whole.
    """

    silence: float
    closed: Closed | None = None
    spoken: bool = True
    reply: float | None = None
    sent_again: int | None = None
    acknowledged: bool | None = None
    packets: int | None = None
    pinged: bool = False
    said: str = ""
    part: str = ""

    @property
    def survived(self) -> bool:
        """Whether the connection was still good after its silence: an answer came, or a part of one."""
        return self.closed is None or bool(self.part)

    @property
    def idle(self) -> bool:
        """Whether nothing came or went during the silence, by all we know."""
        return not self.packets and not self.pinged


@frozen
class HoldResult:
    """What is known of silence on connections to ``peer``.

    ``asked`` is the longest silence in question, in seconds. ``held`` is the connection that decides: the one with
    the shortest silence that was not survived, or else with the longest that was. ``tried`` are all connections. The
    limit is ``between`` two silences, or the same one twice: then it was seen. ``active`` is how a connection ended
    that was not silent: where the silent one ended too, the reason is not known. ``stopped``: there was more to try.
    """

    peer: Address
    asked: float
    held: Held | None = None
    between: tuple[float, float] | None = None
    tried: tuple[Held, ...] = ()
    active: GreetFailed | None = None
    stopped: bool = False

    @property
    def limit(self) -> float | None:
        """How long a connection may be silent, in seconds: the middle between what was survived and what was not."""
        return None if self.between is None else sum(self.between) / 2

    @property
    def survived(self) -> bool | None:
        """Whether the longest silence was survived; None: not known."""
        if self.held is None or self.is_ambiguous or (self.stopped and self.held.survived):
            return None
        return self.held.survived

    @property
    def is_ambiguous(self) -> bool:
        """Whether a connection that was not silent ended as well as the silent one."""
        return self.active is not None and self.held is not None and not self.held.survived


@define
class Search:
    """Finds how long a connection may be silent, up to ``most`` seconds, round by round.

    Each round tries several silences at once. The first one goes from a second to ``most`` with steps that grow; the
    later ones go between the longest that was survived and the shortest that was not, until that is exact. Without
    ``search`` there is one silence, ``most``.
    """

    most: float
    search: bool = True
    tried: list[Held] = field(factory=list)

    @property
    def survived(self) -> Held | None:
        """The longest silence that was survived."""
        return max((held for held in self.tried if held.survived), key=_silence, default=None)

    @property
    def ended(self) -> Held | None:
        """The shortest silence that was not, among those that are longer than any that was."""
        least = self.survived.silence if self.survived else 0.0
        late = (held for held in self.tried if not held.survived and held.silence > least)
        return min(late, key=_silence, default=None)

    @property
    def between(self) -> tuple[float, float] | None:
        """What is known of the limit; a connection that ended during its silence has shown it."""
        if self.ended is None:
            return None
        if not self.ended.spoken:
            return self.ended.silence, self.ended.silence
        if not self.search:
            return None
        return (self.survived.silence if self.survived else 0.0), self.ended.silence

    def next_round(self) -> list[float]:
        """The silences to try next, the shortest first; none when it is known well enough."""
        if not self.tried:
            return self._first_round() if self.search else [self.most]
        if not self.search or self.between is None:
            return []
        least, most = self.between
        if most - least <= max(_EXACT, _SHARE * most):
            return []
        return [least + (most - least) * part / (_PARTS + 1) for part in range(1, _PARTS + 1)]

    def _first_round(self) -> list[float]:
        silences = [1.0]
        while silences[-1] * _GROWTH < self.most:
            silences.append(silences[-1] * _GROWTH)
        return [*(silence for silence in silences if silence < self.most), self.most]

    def needless(self, silence: float) -> bool:
        """Whether it is known already what will come of a silence."""
        return self.ended is not None and silence >= self.ended.silence


def _silence(held: Held) -> float:
    return held.silence
