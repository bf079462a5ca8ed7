"""Which packets of a handshake were lost: what both kernels counted, as it was measured in the lab."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.client.evidence.handshake import UNKNOWN, Handshake, judge
from greetsvc.client.path import Sent
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.visit import Address

INFO = TcpInfo(rtt_us=100, mss=1448, retransmits=0, advertised_mss=1448, timestamps=True, sack=True, wscale=True)


def ours(rtt: float, repeats: int, early: int = 1, segments: int = 2, data: int = 1) -> Sent:
    """Our side: round trip in seconds, repeated SYNs, and segments that came until connected, and until greeted."""
    info = INFO._replace(rtt_us=round(rtt * 1e6), retransmits=repeats, segments_in=early, data_segments_in=0)
    return Sent(Address("10.0.2.2", 8088), tcp=info, later=info._replace(segments_in=segments, data_segments_in=data))


@pytest.mark.parametrize(
    ("sent", "connect", "first_byte", "server", "counts", "words"),
    [
        pytest.param(ours(7e-5, 0), 0.0001, 0.028, (2e-5, 0), (0, 0, 0), "", id="nothing"),
        pytest.param(ours(0.001, 1), 1.01, 0.001, (3e-5, 0), (1, 0, 0), "SYN: lost once on the way there", id="SYN"),
        pytest.param(
            ours(0.001, 2), 2.05, 0.011, (3e-5, 0), (2, 0, 0), "SYN: lost 2 times on the way there", id="2 SYNs"
        ),
        pytest.param(ours(1.009, 1), 1.009, 0.001, (0.001, 2), (0, 1, 0), "SYN-ACK: lost once", id="SYN-ACK"),
        pytest.param(ours(2.033, 2), 2.032, 0.001, (0.001, 3), (None,) * 3, "SYN-ACKs are lost", id="3 SYN-ACKs"),
        pytest.param(
            ours(4e-5, 0, segments=3), 0.0001, 1.017, (1.012, 1), (0, 0, 1), "ACK: lost once on the way", id="ACK"
        ),
        pytest.param(
            ours(1.504, 1), 1.504, 1.503, (1.501, 2), (0, 0, 0), "slow: the round trip takes 1.5 s", id="slow"
        ),
        pytest.param(ours(1.504, 1), 2.504, 1.503, (1.501, 2), (None,) * 3, "slow: ", id="slow, and a loss"),
        pytest.param(
            ours(2e-4, 0, early=3, segments=5), 0.001, 1.029, (1.029, 1), (None,) * 3, "a SYN proxy", id="SYN proxy"
        ),
        pytest.param(
            ours(0.04, 0, segments=5), 0.04, 1.1, (1.029, 1), (None,) * 3, "a SYN proxy", id="SYN proxy far away"
        ),
        pytest.param(
            ours(4e-5, 0, segments=3), 0.9, 0.117, (1.012, 1), (0, 0, 1), "ACK: lost once", id="ACK, on a busy host"
        ),
        pytest.param(
            ours(4e-5, 0, segments=3), 0.0001, 1.017, (0, 1), (0, 0, 1), "ACK: lost once", id="ACK, no time stamps"
        ),
        pytest.param(ours(0.001, 0), 0.001, 0.01, (0.01, 1), (0, 0, None), "the server sent its SYN-ACK", id="odd"),
        pytest.param(ours(0.001, 1), 1.01, 1.2, (1.1, 1), (None,) * 3, "SYN-ACKs are lost", id="both"),
    ],
)
def test_each_loss_has_its_signature(
    sent: Sent,
    connect: float,
    first_byte: float,
    server: tuple[float, int],
    counts: tuple[int | None, ...],
    words: str,
) -> None:
    found = judge(sent, connect=connect, first_byte=first_byte, server_rtt=server[0], server_repeats=server[1])
    assert found.words.startswith(words)
    assert bool(found.words) == bool(words)
    assert found.as_json() == dict(zip(("syn_lost", "synack_lost", "ack_lost"), counts, strict=True))


@pytest.mark.parametrize(
    ("sent", "first_byte", "words"),
    [
        (ours(0.001, 1), 0.01, "likely a SYN was lost on the way there"),
        (ours(1.01, 1), 0.01, "likely a SYN-ACK was lost on the way back"),
        (ours(1.01, 1), None, "slow: "),
        (ours(0, 1), 0.01, "a SYN was lost on the way there, or a SYN-ACK on the way back"),
    ],
)
def test_without_the_record_of_the_server_our_side_tells_what_is_likely(
    sent: Sent, first_byte: float | None, words: str
) -> None:
    found = judge(sent, connect=1.01, first_byte=first_byte)
    assert found.words.startswith(words)
    assert evolve(found, words="") == UNKNOWN


def test_our_side_alone_knows_that_none_of_its_syns_was_lost() -> None:
    assert judge(ours(0.01, 0), connect=0.01, first_byte=0.01) == Handshake(0, 0, None)


def test_of_a_slow_path_without_a_record_the_last_ack_is_not_known() -> None:
    found = judge(ours(1.5, 1), connect=1.5, first_byte=1.5)
    assert (found.syn_lost, found.synack_lost, found.ack_lost) == (0, 0, None)


def test_nothing_is_said_where_the_system_does_not_tell() -> None:
    assert judge(None, connect=1.0, first_byte=1.0) is UNKNOWN
    assert judge(Sent(Address("10.0.2.2", 8088)), connect=1.0, first_byte=1.0) is UNKNOWN
    assert judge(ours(0.1, 1), connect=None, first_byte=None) is UNKNOWN


_SECONDS = st.none() | st.floats(0, 100)
_COUNTS = st.none() | st.integers(0, 2**32 - 1)


@given(_SECONDS, _SECONDS, _SECONDS, _COUNTS, st.integers(0, 9), st.floats(0, 100))
def test_no_server_can_make_us_claim_more_losses_than_it_or_we_sent(
    connect: float | None, first_byte: float | None, rtt: float | None, repeats: int | None, own: int, our_rtt: float
) -> None:
    sent = ours(our_rtt, own)
    found = judge(sent, connect=connect, first_byte=first_byte, server_rtt=rtt, server_repeats=repeats)
    assert (found.syn_lost or 0) <= own
    assert (found.synack_lost or 0) <= own
    assert (found.ack_lost or 0) <= (repeats or 0)
