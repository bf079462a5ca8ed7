"""Greeting over datagrams, with a transport that only notes what it is asked for."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from greetsvc import wire
from greetsvc.greeters.text import TextGreeter
from greetsvc.ledger import Ledger
from greetsvc.net.linux.packets import Arrival
from greetsvc.server import GreetingDatagramProtocol
from greetsvc.server.udp_policy import UdpRule
from greetsvc.visit import Address, Visit

PEER = ("192.0.2.7", 40000)
MARKED = wire.request("0123456789abcdef", 1200)


@define
class Port:
    """A stock port: it can be written to, and knows its own address."""

    host: Any = field(factory=lambda: IPv4Address("UDP", "0.0.0.0", 8088))
    sent: list[tuple[bytes, Any]] = field(factory=list)
    error: OSError | None = None

    def write(self, datagram: bytes, addr: Any = None) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((datagram, addr))

    def getHost(self) -> Any:
        return self.host


@define
class OurPort(Port):
    """One that tells what the kernel tells, as `greetsvc.net.datagram.port.DatagramPort` does."""

    tells_destination: bool = True
    asked: str | None = None
    group: bool = False
    arrival: Arrival | None = None


class Remembering:
    """A greeter that remembers the visits."""

    def __init__(self, *needs: str) -> None:
        self.needs = frozenset(needs)
        self.visits: list[Visit] = []

    def greet(self, visit: Visit) -> bytes:
        self.visits.append(visit)
        return b"hello %d" % len(self.visits)


def _protocol(greeter: Any = None, port: Port | None = None, **options: Any) -> tuple[GreetingDatagramProtocol, Port]:
    port = port or Port()
    options.setdefault("rule", UdpRule(lambda: 0.0, own_ports={8088}))
    protocol = GreetingDatagramProtocol(greeter or TextGreeter("Hi"), **options)
    protocol.makeConnection(port)  # type: ignore[arg-type]
    return protocol, port


@pytest.mark.parametrize("request_", [b"", b"x", MARKED])
def test_a_request_is_answered_to_where_it_came_from(request_: bytes) -> None:
    protocol, port = _protocol()
    protocol.datagramReceived(request_, PEER)
    assert port.sent == [(b"Hi", PEER)]
    assert protocol.ledger.greeted == {"udp": 1}
    assert protocol.ledger.latest[0].peer == Address(*PEER)


def test_an_ipv6_peer_is_answered_with_its_scope() -> None:
    protocol, port = _protocol()
    protocol.datagramReceived(b"", ("fe80::1%eth0", 40000, 0, 2))
    assert port.sent == [(b"Hi", ("fe80::1%eth0", 40000, 0, 2))]


@pytest.mark.parametrize("needs", [(), ("number",)])
@pytest.mark.parametrize(("port", "reason"), [(0, "port"), (53, "port"), (1023, "port"), (8088, "own-port")])
def test_services_and_our_own_ports_are_not_answered_but_counted(
    port: int, reason: str, needs: tuple[str, ...]
) -> None:
    greeter = Remembering(*needs)
    protocol, transport = _protocol(greeter)
    for _ in range(2):
        protocol.datagramReceived(MARKED, ("192.0.2.7", port))
    protocol.datagramReceived(MARKED, PEER)
    protocol.datagramReceived(MARKED, ("192.0.2.7", port))
    assert len(transport.sent) == 1
    assert protocol.ledger.refused == {reason: 3}
    assert protocol.ledger.visits == 1
    assert len(greeter.visits) == 1, "nothing is rendered for who is never answered"


def test_a_request_to_a_group_is_not_answered() -> None:
    port = OurPort(group=True)
    protocol, _ = _protocol(port=port)
    protocol.datagramReceived(MARKED, PEER)
    assert not port.sent
    assert protocol.ledger.refused == {"group": 1}
    port.group = False
    protocol.datagramReceived(MARKED, PEER)
    assert len(port.sent) == 1


@pytest.mark.parametrize(
    ("greeting", "request_", "reason"),
    [("GREET/1 hi", MARKED, "mark"), ("x" * 513, b"", "too-long"), ("x" * 1200, MARKED, "too-long")],
)
def test_an_answer_that_may_not_be_sent_is_counted_each_time(greeting: str, request_: bytes, reason: str) -> None:
    protocol, port = _protocol(TextGreeter(greeting))
    for _ in range(3):
        protocol.datagramReceived(request_, PEER)
    assert not port.sent
    assert protocol.ledger.refused == {reason: 3}


def test_the_ninth_unmarked_request_of_a_peer_is_refused_and_a_marked_one_is_not() -> None:
    protocol, port = _protocol()
    for _ in range(10):
        protocol.datagramReceived(b"", PEER)
    assert len(port.sent) == 8
    assert protocol.ledger.refused == {"loop": 2}
    protocol.datagramReceived(MARKED, PEER)
    assert len(port.sent) == 9


def test_a_greeting_that_needs_nothing_is_rendered_once_and_one_that_does_each_time() -> None:
    once, each = Remembering(), Remembering("number")
    for greeter, rendered in ((once, 1), (each, 3)):
        protocol, port = _protocol(greeter)
        for _ in range(3):
            protocol.datagramReceived(b"", PEER)
        assert len(port.sent) == 3
        assert len(greeter.visits) == rendered
    assert [visit.number for visit in each.visits] == [1, 2, 3]
    protocol, _ = _protocol(Remembering())
    assert [protocol.greeting(Address(*PEER), b"") for _ in range(2)] == [b"hello 1"] * 2


def test_a_visit_tells_the_address_that_was_asked_and_the_size_of_the_request() -> None:
    greeter = Remembering("local", "size", "path")
    protocol, _ = _protocol(greeter, OurPort(asked="127.0.0.2", arrival=Arrival(64, 10)))
    protocol.datagramReceived(MARKED, ("::ffff:192.0.2.7", 40000, 0, 0))
    visit = greeter.visits[0]
    assert (visit.transport, visit.peer, visit.local) == ("udp", Address(*PEER), Address("127.0.0.2", 8088))
    assert visit.size == 1200
    assert visit.path is not None
    assert visit.path.datagram == Arrival(64, 10)
    assert visit.path.nonce == "0123456789abcdef"


def test_on_a_stock_port_a_visit_tells_what_the_port_is_bound_to() -> None:
    greeter = Remembering("local")
    protocol, _ = _protocol(greeter, Port(host=IPv6Address("UDP", "::1", 8088)))
    protocol.datagramReceived(b"", PEER)
    assert greeter.visits[0].local == Address("::1", 8088)
    assert greeter.visits[0].path is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EWOULDBLOCK, "no"), "send-EAGAIN"),
        (OSError(errno.EMSGSIZE, "no"), "send-EMSGSIZE"),
        (PermissionError(errno.EPERM, "no"), "send-EPERM"),
        (OSError("no number"), "send-unknown"),
        (OSError(99999, "odd"), "send-unknown"),
    ],
)
def test_an_answer_that_cannot_be_sent_is_counted_and_no_visit(error: OSError, reason: str) -> None:
    protocol, _ = _protocol(port=Port(error=error))
    protocol.datagramReceived(MARKED, PEER)
    assert protocol.ledger.refused == {reason: 1}
    assert protocol.ledger.visits == 0


def _unix() -> tuple[GreetingDatagramProtocol, Port]:
    return _protocol(port=Port(host=UNIXAddress(b"/run/greet.sock")), transport="unixgram")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("/run/peer", "/run/peer"), (b"\0abstract", "@abstract"), (b"/run/\xff", r"/run/\xff"), ("/a\nb", r"/a\nb")],
)
def test_a_unix_peer_with_a_name_is_answered(name: str | bytes, shown: str) -> None:
    protocol, port = _unix()
    protocol.datagramReceived(b"", name)
    assert port.sent == [(b"Hi", name)]
    assert protocol.ledger.latest[0].peer == Address(shown, 0)
    assert protocol.ledger.greeted == {"unixgram": 1}


@pytest.mark.parametrize("name", [None, "", b""])
def test_a_unix_peer_without_a_name_cannot_be_answered_and_is_counted(name: Any) -> None:
    protocol, port = _unix()
    protocol.datagramReceived(MARKED, name)
    assert not port.sent
    assert protocol.ledger.refused == {"no-address": 1}


def test_a_unix_peer_that_answers_back_is_answered_eight_times_and_a_marked_request_always() -> None:
    protocol, port = _unix()
    for _ in range(10):
        protocol.datagramReceived(b"Hi", "/run/peer")
    assert len(port.sent) == 8
    protocol.datagramReceived(MARKED, "/run/peer")
    protocol.datagramReceived(b"", "/run/other")
    assert len(port.sent) == 10
    assert protocol.ledger.refused == {"loop": 2}


def test_a_unix_visit_tells_both_paths() -> None:
    greeter = Remembering("peer", "local")
    protocol, _ = _protocol(greeter, Port(host=UNIXAddress(b"/run/greet.sock")), transport="unixgram")
    protocol.datagramReceived(b"abc", "/run/peer")
    visit = greeter.visits[0]
    assert (visit.peer, visit.local, visit.size) == (Address("/run/peer", 0), Address("/run/greet.sock", 0), 3)


def test_without_anything_given_a_protocol_has_a_rule_and_a_ledger_of_its_own() -> None:
    one, other = GreetingDatagramProtocol(TextGreeter()), GreetingDatagramProtocol(TextGreeter())
    assert isinstance(one.ledger, Ledger)
    assert one.ledger is not other.ledger
    assert one.rule is not other.rule


class Closed(UdpRule):
    """Somebody's own: nothing is answered after the first."""

    asked = 0

    def refusal(self, *arguments: Any, **options: Any) -> str | None:
        self.asked += 1
        return None if self.asked == 1 else "closed"


def test_a_rule_of_ones_own_is_asked_about_free_requests_too() -> None:
    protocol, port = _protocol(rule=Closed(lambda: 0.0))
    for _ in range(3):
        protocol.datagramReceived(MARKED, PEER)
    assert len(port.sent) == 1
    assert protocol.ledger.refused == {"closed": 2}


def test_free_requests_are_answered_in_batches_once_the_greeting_was_found_sendable() -> None:
    protocol, _ = _protocol()
    assert protocol.in_batches() is None
    protocol.datagramReceived(b"", PEER)
    offer = protocol.in_batches()
    assert offer is not None
    assert (offer.answer, offer.mark, offer.lowest_port, offer.own_ports) == (b"Hi", wire.MARK, 1024, {8088})
    assert MARKED.startswith(offer.mark)
    protocol.answered([PEER, ("192.0.2.8", 40001)])
    assert protocol.ledger.greeted == {"udp": 3}
    assert [entry.peer.host for entry in protocol.ledger.latest] == ["192.0.2.7", "192.0.2.7", "192.0.2.8"]


class OwnProtocol(GreetingDatagramProtocol):
    """Somebody's own."""


class OwnLedger(Ledger):
    """Somebody's own."""


@pytest.mark.parametrize(
    "own",
    [
        lambda: _protocol(rule=Closed(lambda: 0.0))[0],
        lambda: _protocol(ledger=OwnLedger())[0],
        lambda: _protocol(Remembering("peer"))[0],
        lambda: _protocol(TextGreeter(wire.MARK.decode()))[0],
        lambda: _made(OwnProtocol(TextGreeter("Hi"))),
        lambda: _watched(_protocol()[0]),
    ],
)
def test_what_is_somebodys_own_or_no_answer_for_all_is_never_answered_in_batches(
    own: Callable[[], GreetingDatagramProtocol],
) -> None:
    protocol = own()
    protocol.datagramReceived(MARKED, PEER)
    assert protocol.in_batches() is None


def _watched(protocol: GreetingDatagramProtocol) -> GreetingDatagramProtocol:
    protocol.datagramReceived = partial(protocol.datagramReceived)  # type: ignore[method-assign]
    return protocol


def _made(protocol: GreetingDatagramProtocol) -> GreetingDatagramProtocol:
    protocol.makeConnection(Port())  # type: ignore[arg-type]
    return protocol
