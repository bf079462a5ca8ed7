"""Which packets of a TCP handshake were lost, and in which direction: what both kernels counted, compared. Pure.

Each end sends again what is not answered within 1 s (RFC 6298 2.1): we our SYN, the server its SYN-ACK. The server
does so on a timer, and for each SYN of ours that comes again. Its count is in its path record.

- A lost SYN is not seen by the server: it repeats nothing.
- A lost SYN-ACK makes both ends repeat.
- After a lost ACK we are connected and the server is not: it repeats its SYN-ACK, and greets after a second or more.
  A SYN that arrives twice makes it repeat, too, but nothing is late.
- A round trip longer than the second makes both ends repeat, although nothing is lost.
- A SYN proxy (a firewall that answers SYNs itself, and connects to the server afterwards) sends us packets of its own
  before the server can know that we are connected.
"""

from __future__ import annotations

from typing import Any

from attrs import asdict, frozen

from greetsvc.client.path import Sent
from greetsvc.client.words import decimal
from greetsvc.net.linux.tcp_info import TcpInfo

__all__ = ["UNKNOWN", "Handshake", "judge"]

_TIMER = 0.95
"""Seconds: a bit less than the 1 s after which a SYN or a SYN-ACK is sent again."""

_SOON = 0.5
"""Seconds: less than any repetition takes, and more than a busy host is late."""

_QUEUE = "or the server dropped it, because its accept queue was full"


@frozen
class Handshake:
    """How many SYNs of ours, SYN-ACKs and ACKs of ours were lost; None where it is not known.

    ``words`` say it for people; they are empty when nothing was sent twice.
    """

    syn_lost: int | None = None
    synack_lost: int | None = None
    ack_lost: int | None = None
    words: str = ""

    def __add__(self, other: Handshake) -> Handshake:
        """The sums of what is known of the two, without words."""
        pairs = zip(self.as_json().values(), other.as_json().values(), strict=True)
        return Handshake(*(one if two is None else (one or 0) + two for one, two in pairs))

    @property
    def lost(self) -> int:
        """How many packets were lost, as far as that is known."""
        return sum(filter(None, self.as_json().values()))

    def as_json(self) -> dict[str, Any]:
        """The object that `greet --json` gives as ``direction`` for TCP."""
        return asdict(self, filter=lambda attribute, _: attribute.name != "words")


UNKNOWN = Handshake()


def judge(
    sent: Sent | None,
    *,
    connect: float | None,
    first_byte: float | None,
    server_rtt: float | None = None,
    server_repeats: int | None = None,
) -> Handshake:
    """Say what was lost before we were connected and greeted.

    :param sent: our side, with the state of the connection when it was established and when the first byte came.
    :param connect: seconds from our first SYN to the connection.
    :param first_byte: seconds from then to the first byte of a server that speaks first.
    :param server_rtt: the round trip that the server measured, in seconds; None where its record does not tell.
    :param server_repeats: how often it sent its SYN-ACK again; None where its record does not tell.
    """
    if sent is None or sent.tcp is None or connect is None:
        return UNKNOWN
    repeats = sent.tcp.retransmits
    known = [sent.tcp.rtt_us / 1e6, first_byte, server_rtt]
    round_trip = min((seconds for seconds in known if seconds), default=0.0)
    if not repeats and not server_repeats:
        return Handshake(0, 0, None if server_repeats is None else 0)
    if round_trip >= _TIMER:
        return _slow(connect, first_byte, round_trip, known=server_repeats is not None)
    if repeats and server_repeats is None:
        return Handshake(words=_without_record(sent.tcp))
    # The kernel's own measurement, where there is one: a busy host sees the first byte late, or the connection.
    took = server_rtt or first_byte
    late = took is None or took - round_trip >= _TIMER
    if not repeats:
        return _no_ack(sent, server_repeats or 0, late=late)
    if not server_repeats:
        return Handshake(repeats, 0, 0, f"SYN: lost {_times(repeats)} on the way there, {_QUEUE}")
    if repeats == 1 and not late:
        return Handshake(0, 1, 0, "SYN-ACK: lost once on the way back")
    return Handshake(words="SYN-ACKs are lost on the way back, and perhaps SYNs and ACKs on the way there")


def _without_record(tcp: TcpInfo) -> str:
    """What our own side alone tells: a SYN-ACK has the time stamp of the SYN that came first (RFC 7323 4.3)."""
    if not tcp.timestamps or not tcp.rtt_us:
        return "a SYN was lost on the way there, or a SYN-ACK on the way back"
    if tcp.rtt_us < _TIMER * 1e6:
        return f"likely a SYN was lost on the way there, {_QUEUE}: the answer is to a later one"
    return "likely a SYN-ACK was lost on the way back: the answer is to the first SYN"


def _slow(connect: float, first_byte: float | None, round_trip: float, *, known: bool) -> Handshake:
    """Both ends have sent again before an answer could come. What took no longer than one round trip lost nothing."""
    slow = f"the round trip takes {decimal(round_trip)} s, longer than the 1 s after which SYNs are sent again"
    if connect - round_trip >= _SOON or first_byte is None or first_byte - round_trip >= _SOON:
        return Handshake(words=f"slow: {slow}; packets may be lost, too")
    return Handshake(0, 0, 0 if known else None, f"slow: {slow}; nothing is lost")


def _no_ack(sent: Sent, server_repeats: int, *, late: bool) -> Handshake:
    """We were connected by our first SYN, and the server repeated its SYN-ACK."""
    if _others(sent, server_repeats):
        return Handshake(
            words="a SYN proxy on the path has answered our SYN, and connected to the server later: "
            "which packets were lost between them is not known"
        )
    if late:
        return Handshake(0, 0, server_repeats, f"ACK: lost {_times(server_repeats)} on the way there, {_QUEUE}")
    return Handshake(
        0, 0, None, "the server sent its SYN-ACK again, though nothing was late: our SYN may have arrived twice"
    )


def _others(sent: Sent, server_repeats: int) -> bool:
    """Whether segments came that the server cannot have sent: it had no ACK of ours.

    Until it had one, it sent SYN-ACKs only. A segment more may be the FIN behind its greeting.
    """
    if sent.tcp is None or sent.later is None:
        return False
    early, all_in, data = sent.tcp.segments_in, sent.later.segments_in, sent.later.data_segments_in
    if early is None or all_in is None or data is None:
        return False
    return early > 1 or all_in - data - 1 - server_repeats > 1


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
