"""The path greeting: what the server saw, for the client to read back."""

from __future__ import annotations

import pytest

from greetsvc import wire
from greetsvc.greeters.path import INSTANCE, PathGreeter
from greetsvc.net.linux.packets import Arrival, Syn
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.net.tls.endpoint import TlsFacts
from greetsvc.visit import Address, PathFacts, Visit

PEER, LOCAL, PROXY = Address("192.0.2.9", 61004), Address("192.0.2.1", 8088), Address("198.51.100.1", 5)
FACTS = PathFacts(
    syn=Syn(57, 2, 1, 1460, 7, sack=True, timestamps=False),
    tcp=TcpInfo(1500, 1448, 2, 1460, timestamps=True, sack=True, wscale=True),
    datagram=Arrival(64, 10),
    nonce="0123456789abcdef",
)
TLS = TlsFacts("TLSv1.3", "AES", "example.org", "h2", "client")


def _said(visit: Visit) -> wire.PathRecord:
    line = PathGreeter.from_argument("", "utf-8").greet(visit)
    assert line.endswith(b"\n")
    assert len(line) < 1200
    found = wire.decode_record(line)
    assert found is not None
    return found


def test_the_record_has_everything_the_server_saw() -> None:
    found = _said(Visit("udp", PEER, LOCAL, size=1200, tls=TLS, path=FACTS))
    assert (found.you, found.me, found.via) == (PEER, LOCAL, None)
    assert (found.instance, found.nonce, found.transport) == (INSTANCE, "0123456789abcdef", "udp")
    assert found.syn == Syn(57, 2, 1, 1460, 7, sack=True, timestamps=False)
    assert found.tcp == wire.Tcp(1500, 1448, 2)
    assert found.tls == wire.Tls("TLSv1.3", "AES", "example.org", "h2")
    assert found.datagram == wire.Datagram(ttl=64, dscp=10, ecn=None, size=1200)


def test_the_packets_of_a_proxy_are_left_out() -> None:
    found = _said(Visit("tcp", PEER, LOCAL, via=PROXY, path=FACTS))
    assert found.via == PROXY
    assert found.syn is None
    assert found.tcp is None


def test_what_was_not_seen_is_null() -> None:
    found = _said(Visit("unix", Address("", 0), Address("/run/x", 0)))
    assert (found.syn, found.tcp, found.tls, found.datagram, found.nonce) == (None,) * 5


def test_names_that_a_peer_chose_do_not_make_the_record_too_long_for_a_datagram() -> None:
    for byte in range(1, 256):
        evil = Address.of_path(bytes([byte]) * 108)
        _said(Visit("unixgram", evil, evil, size=9, path=FACTS))


def test_an_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="'full'"):
        PathGreeter.from_argument("full", "utf-8")
