"""Greeting over datagrams: with a transport that only takes notes, and on every kind of real port."""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet import reactor as global_reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from greetsvc import wire
from greetsvc.greeters.text import TextGreeter
from greetsvc.ledger import Ledger
from greetsvc.net.datagram.choice import udp_port
from greetsvc.net.datagram.port import DatagramPort
from greetsvc.net.linux.packets import Arrival
from greetsvc.net.sockets import UnixPath, datagram_socket, unix_datagram_socket
from greetsvc.server import GreetingDatagramProtocol
from greetsvc.server.sessions import Sessions
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.visit import Address, Visit

reactor: Any = global_reactor
PEER = ("192.0.2.7", 40000)
MARKED = wire.request("0123456789abcdef", 1200)


@define
class Port:
    """As Twisted's own port: it can be written to, and knows its own address."""

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
    """As `greetsvc.net.datagram.port.DatagramPort`: it also knows what the kernel says about a datagram."""

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
    options.setdefault("policy", UdpPolicy(lambda: 0.0, own_ports={8088}))
    protocol = GreetingDatagramProtocol(greeter or TextGreeter("Hi"), **options)
    protocol.makeConnection(port)  # type: ignore[arg-type]
    return protocol, port


def _watched(protocol: GreetingDatagramProtocol) -> list[tuple[str, Address]]:
    """The visits that a watcher of the ledger sees."""
    seen: list[tuple[str, Address]] = []
    protocol.ledger.watchers.append(lambda transport, peer: seen.append((transport, peer)))
    return seen


@pytest.mark.parametrize("request_", [b"", b"x", MARKED])
def test_a_request_is_answered_to_its_source(request_: bytes) -> None:
    protocol, port = _protocol()
    visits = _watched(protocol)
    protocol.datagramReceived(request_, PEER)
    assert port.sent == [(b"Hi", PEER)]
    assert protocol.ledger.greeted == {"udp": 1}
    assert visits == [("udp", Address(*PEER))]


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
    assert len(greeter.visits) == 1, "no greeting is made for a request that is never answered"


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


def test_a_greeting_that_needs_nothing_of_a_visit_is_made_once_and_any_other_each_time() -> None:
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


def test_a_visit_has_the_address_the_request_was_sent_to_and_its_size() -> None:
    greeter = Remembering("local", "size", "path")
    protocol, _ = _protocol(greeter, OurPort(asked="127.0.0.2", arrival=Arrival(64, 10)))
    protocol.datagramReceived(MARKED, ("::ffff:192.0.2.7", 40000, 0, 0))
    visit = greeter.visits[0]
    assert (visit.transport, visit.peer, visit.local) == ("udp", Address(*PEER), Address("127.0.0.2", 8088))
    assert visit.size == 1200
    assert visit.path is not None
    assert visit.path.datagram == Arrival(64, 10)
    assert visit.path.nonce == "0123456789abcdef"


def test_on_a_stock_port_a_visit_has_the_address_the_port_is_bound_to() -> None:
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
def test_an_answer_that_cannot_be_sent_is_a_refusal_and_no_visit(error: OSError, reason: str) -> None:
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
    visits = _watched(protocol)
    protocol.datagramReceived(b"", name)
    assert port.sent == [(b"Hi", name)]
    assert visits == [("unixgram", Address(shown, 0))]
    assert protocol.ledger.greeted == {"unixgram": 1}


@pytest.mark.parametrize("name", [None, "", b""])
def test_a_unix_peer_without_a_name_cannot_be_answered_and_is_counted(name: Any) -> None:
    protocol, port = _unix()
    protocol.datagramReceived(MARKED, name)
    assert not port.sent
    assert protocol.ledger.refused == {"no-address": 1}


def test_a_unix_peer_gets_eight_paid_answers_and_any_number_of_free_ones() -> None:
    protocol, port = _unix()
    for _ in range(10):
        protocol.datagramReceived(b"Hi", "/run/peer")
    assert len(port.sent) == 8
    protocol.datagramReceived(MARKED, "/run/peer")
    protocol.datagramReceived(b"", "/run/other")
    assert len(port.sent) == 10
    assert protocol.ledger.refused == {"loop": 2}


def test_a_unix_visit_has_the_paths_of_both_ends() -> None:
    greeter = Remembering("peer", "local")
    protocol, _ = _protocol(greeter, Port(host=UNIXAddress(b"/run/greet.sock")), transport="unixgram")
    protocol.datagramReceived(b"abc", "/run/peer")
    visit = greeter.visits[0]
    assert (visit.peer, visit.local, visit.size) == (Address("/run/peer", 0), Address("/run/greet.sock", 0), 3)


def test_a_protocol_has_a_policy_and_a_ledger_of_its_own_by_default() -> None:
    one, other = GreetingDatagramProtocol(TextGreeter()), GreetingDatagramProtocol(TextGreeter())
    assert isinstance(one.ledger, Ledger)
    assert one.ledger is not other.ledger
    assert one.policy is not other.policy


@pytest.mark.parametrize(
    ("needs", "asks_for"),
    [
        ({"peer"}, set()),
        ({"local"}, {"getHost", "asked"}),
        ({"when"}, {"time"}),
        ({"path"}, {"arrival"}),
        ({"number", "size", "transport"}, set()),
    ],
)
def test_a_visit_costs_only_what_the_greeter_needs(
    needs: set[str], asks_for: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()

    class Noting(OurPort):
        def __getattribute__(self, name: str) -> Any:
            asked.update({name} & {"getHost", "asked", "arrival"})
            return super().__getattribute__(name)

    def now() -> float:
        asked.add("time")
        return 5.0

    monkeypatch.setattr(time, "time", now)
    greeter = Remembering(*needs)
    protocol, _ = _protocol(greeter, Noting(asked="127.0.0.2"))
    asked.clear()
    protocol.datagramReceived(MARKED, PEER)
    assert asked == asks_for
    visit = greeter.visits[0]
    assert (visit.number, visit.when) == (int("number" in needs), 5.0 if "when" in needs else 0.0)
    assert visit.local == (Address("127.0.0.2", 8088) if "local" in needs else Address("", 0))
    assert (visit.path is None) == ("path" not in needs)


class OwnPolicy(UdpPolicy):
    """A user's policy, which notes what it is asked."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__(time.monotonic)
        self.calls = calls

    def never(self, port: int, *, group: bool = False) -> str | None:
        self.calls.append("never")
        return super().never(port, group=group)

    def unsendable(self, answer: bytes) -> str | None:
        self.calls.append("unsendable")
        return super().unsendable(answer)

    def is_free(self, size: int, data: bytes | bytearray, start: int, end: int, port: int, group: bool) -> bool:
        self.calls.append("is_free")
        return super().is_free(size, data, start, end, port, group)

    def refusal(self, request: bytes, answer: bytes, peer: Address, *, group: bool = False) -> str | None:
        self.calls.append("refusal")
        return "closed" if b"closed" in request else super().refusal(request, answer, peer, group=group)

    def unix_refusal(self, request: bytes, answer: bytes, name: bytes) -> str | None:
        self.calls.append("unix_refusal")
        return "closed" if b"closed" in request else super().unix_refusal(request, answer, name)


class OwnLedger(Ledger):
    """A user's ledger, which notes what it is told."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls

    def greet(self, transport: str, peer: Any, *arguments: Any) -> None:
        self.calls.append("greet")
        super().greet(transport, peer, *arguments)

    def refuse(self, reason: str) -> None:
        self.calls.append(f"refuse {reason}")
        super().refuse(reason)


class OwnProtocol(GreetingDatagramProtocol):
    """A user's protocol, which notes what is called and adds a word to each greeting."""

    def __init__(self, calls: list[str], transport: str) -> None:
        super().__init__(TextGreeter("Hi"), policy=OwnPolicy(calls), ledger=OwnLedger(calls), transport=transport)
        self.calls = calls

    def startProtocol(self) -> None:
        self.calls.append("startProtocol")
        super().startProtocol()

    def stopProtocol(self) -> None:
        self.calls.append("stopProtocol")
        super().stopProtocol()  # type: ignore[no-untyped-call]

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.calls.append("datagramReceived")
        super().datagramReceived(datagram, addr)

    def greeting(self, peer: Address, request: bytes) -> bytes:
        self.calls.append("greeting")
        return b"Good day. " + super().greeting(peer, request)


def _listen(kind: str, protocol: OwnProtocol, folder: Path) -> Any:
    """A started port of this kind."""
    if kind == "stock":
        return reactor.listenUDP(0, protocol, interface="127.0.0.1")
    if kind == "unixgram":
        path = str(folder / "x")
        port = DatagramPort(unix_datagram_socket(path), protocol, reactor, path=UnixPath(path))
    elif kind == "one by one":
        port = DatagramPort(datagram_socket("127.0.0.1", 0), protocol, reactor)
    else:
        host = "127.0.0.1" if kind == "batched" else ""
        port = udp_port(datagram_socket(host, 0), protocol, reactor, longest=wire.MAX_REQUEST)
    port.startListening()
    return port


@pytest.mark.parametrize("kind", ["stock", "one by one", "batched", "batched on every address", "unixgram"])
@pytest_twisted.ensureDeferred
async def test_every_hook_of_a_users_subclass_is_called_on_every_port(kind: str, tmp_path: Path) -> None:
    calls: list[str] = []
    is_unix = kind == "unixgram"
    protocol = OwnProtocol(calls, "unixgram" if is_unix else "udp")
    port = _listen(kind, protocol, tmp_path)
    judged = ["greeting", "unix_refusal"] if is_unix else ["never", "greeting", "refusal"]
    greeted = ["datagramReceived", *judged, *([] if is_unix else ["unsendable"]), "is_free", "greet"]
    refused = ["datagramReceived", *judged, "refuse closed"]
    with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        if is_unix:
            client.bind(str(tmp_path / "client"))
            client.connect(str(tmp_path / "x"))
        else:
            client.connect(("127.0.0.1", cast(IPv4Address, port.getHost()).port))
        for _ in range(4):  # more than once: nothing may be kept of the first time
            client.send(MARKED)
            port.doRead()
            assert client.recv(100) == b"Good day. Hi"
        client.send(MARKED + b"closed")
        port.doRead()
    await port.stopListening()
    assert calls == ["startProtocol", *greeted * 4, *refused, "stopProtocol"]
    assert protocol.ledger.visits == 4


# Requests that want something else than the greeting.

SESSION = "fedcba9876543210"


def _asking(wanted: str, size: int = 1200) -> bytes:
    return wire.request("0123456789abcdef", size, {"s": SESSION, "n": 3, "a": 1, "w": wanted})


def _measuring(**options: Any) -> tuple[GreetingDatagramProtocol, Port]:
    port = OurPort(arrival=Arrival(61, 10, 1, 1234), asked="127.0.0.2")
    return _protocol(TextGreeter("Hi"), port, sessions=Sessions(), **options)


def test_a_request_for_a_measured_answer_gets_one() -> None:
    protocol, port = _measuring()
    for _ in range(2):
        protocol.datagramReceived(_asking("count"), PEER)
    first, second = (wire.decode_measured(sent) for sent, _ in port.sent)
    assert first is not None
    assert second is not None
    assert first.tx >= 1234
    assert first == wire.Measured("0123456789abcdef", SESSION, 3, 1, 1, 1, 1234, first.tx, 61, 10 << 2 | 1, 1200)
    assert (second.seen, second.seq) == (2, 2)
    assert protocol.ledger.greeted == {"udp": 2}


def test_on_a_stock_port_a_measured_answer_says_what_is_not_known() -> None:
    protocol, port = _protocol(sessions=Sessions())
    protocol.datagramReceived(_asking("count"), PEER)
    found = wire.decode_measured(port.sent[0][0])
    assert found is not None
    assert (found.ttl, found.tos, found.rx) == (None, None, found.tx)


def test_a_request_for_the_path_gets_a_record_whatever_the_greeter_is() -> None:
    protocol, port = _measuring()
    protocol.datagramReceived(_asking("path"), PEER)
    record = wire.decode_record(port.sent[0][0])
    assert record is not None
    assert (record.nonce, record.you, record.me) == ("0123456789abcdef", Address(*PEER), Address("127.0.0.2", 8088))
    measured = wire.measured_in(port.sent[0][0])
    assert measured is not None
    assert (measured.session, measured.number, measured.seen, measured.seq, measured.rx) == (SESSION, 3, 1, 1, 1234)
    assert record.datagram == wire.Datagram(ttl=61, dscp=10, ecn=1, size=1200)


@pytest.mark.parametrize("wanted", ["count", "path", "greeting", "Count"])
@pytest.mark.parametrize("size", [100, 1200])
def test_only_a_free_answer_replaces_the_greeting(wanted: str, size: int) -> None:
    protocol, port = _measuring()
    protocol.datagramReceived(_asking(wanted, size), PEER)
    special = size == 1200 and wanted in {"count", "path"}
    assert (port.sent[0][0] != b"Hi") is special
    assert all(len(sent) < size for sent, _ in port.sent)


@pytest.mark.parametrize("wanted", ["count", "path"])
def test_who_is_never_answered_gets_no_measured_answer_either(wanted: str) -> None:
    protocol, port = _measuring()
    protocol.datagramReceived(_asking(wanted), ("192.0.2.7", 53))
    protocol.datagramReceived(_asking(wanted), ("192.0.2.7", 8088))
    port.group = True  # type: ignore[attr-defined]
    protocol.datagramReceived(_asking(wanted), PEER)
    assert port.sent == []
    assert protocol.ledger.refused == {"port": 1, "own-port": 1, "group": 1}


def test_a_protocol_without_sessions_greets() -> None:
    protocol, port = _protocol()
    protocol.datagramReceived(_asking("count"), PEER)
    protocol.datagramReceived(_asking("path"), PEER)
    assert [sent for sent, _ in port.sent] == [b"Hi"] * 2


# Answers that are padded, so that they show how long a packet may be.


def _padded(size: int, request: int = 1200, wanted: str = "count") -> bytes:
    fields = {"s": SESSION, "n": 3, "a": 1, "w": wanted, "p": size}
    return wire.request("0123456789abcdef", request, fields)


class WholePort(OurPort):
    """Keeps packets whole, and says which."""

    keeps_whole = True

    def write_whole(self, data: bytes, addr: Any) -> None:
        self.whole = data
        self.write(data, addr)


def _padding() -> tuple[GreetingDatagramProtocol, WholePort]:
    port = WholePort(arrival=Arrival(61, 10, 1, 1234))
    return _protocol(TextGreeter("Hi"), port, sessions=Sessions())[0], port


@pytest.mark.parametrize("size", [200, 1199])
def test_an_answer_is_padded_to_the_size_that_is_wanted_and_sent_whole(size: int) -> None:
    protocol, port = _padding()
    protocol.datagramReceived(_padded(size), PEER)
    ((answer, peer),) = port.sent
    assert (len(answer), peer) == (size, PEER)
    assert port.whole == answer
    found = wire.decode_measured(answer.rstrip(b" "))
    assert found is not None
    assert (found.nonce, found.size, found.seen) == ("0123456789abcdef", 1200, 1)


def test_a_padded_answer_may_be_longer_than_others_but_not_than_its_request() -> None:
    protocol, port = _padding()
    protocol.datagramReceived(_padded(wire.MAX_REQUEST - 1, wire.MAX_REQUEST), PEER)
    assert len(port.sent[0][0]) == wire.MAX_REQUEST - 1
    for size in (1200, 1201, 9999):
        protocol.datagramReceived(_padded(size), PEER)
    assert [sent for sent, _ in port.sent[1:]] == [b"Hi"] * 3


@pytest.mark.parametrize("size", [0, 1, 99999, -5])
def test_an_odd_size_is_not_padded_to(size: int) -> None:
    protocol, port = _padding()
    protocol.datagramReceived(_padded(size), PEER)
    assert len(port.sent[0][0]) <= wire.MAX_MEASURED


def test_only_measured_answers_are_padded() -> None:
    protocol, port = _padding()
    protocol.datagramReceived(_padded(700, wanted="path"), PEER)
    protocol.datagramReceived(_padded(700, wanted="greeting"), PEER)
    assert [len(sent) == 700 for sent, _ in port.sent] == [False, False]


def test_a_port_that_cannot_keep_packets_whole_does_not_pad() -> None:
    protocol, port = _measuring()
    protocol.datagramReceived(_padded(700), PEER)
    assert port.sent[0][0] == b"Hi"
