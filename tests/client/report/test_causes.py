"""Likely causes, each for a real failure; those that need routers are in tests/lab."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from greetsvc import GreetFailed, Greeting, greet
from greetsvc.client import ClientTls, alerts, certificates
from greetsvc.client.alerts import ALERTS
from greetsvc.client.certificates import VERIFY_ERRORS
from greetsvc.client.options import ProbeOptions, ProxyClaim
from greetsvc.client.path import Sent
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.stream.connection import _ProbeFactory
from greetsvc.client.probe.stream.state import StreamState
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.report import causes
from greetsvc.client.report.causes import Earlier, explain, likely_cause
from greetsvc.client.result import Seconds
from greetsvc.client.target import parse
from greetsvc.client.words import Phase
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.visit import Address

DOCUMENT = Path(__file__).parents[3] / "docs" / "verdicts.md"


async def failure(target: str, **options: Any) -> GreetFailed:
    with pytest.raises(GreetFailed) as caught:
        await Probe(parse(target), ProbeOptions(**options)).run()
    return caught.value


def blamed(failed: GreetFailed, phase: Phase, number: int, cause: str) -> None:
    found = " ".join(likely_cause(failed))
    assert (failed.phase, failed.errno) == (phase, number)
    assert found.startswith("likely: ")
    assert cause in found


@contextmanager
def nobody() -> Iterator[None]:
    """Without root's privileges, where we have them."""
    "a".encode("idna")  # the codec that look-ups use is loaded while its file can be read
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


def say(text: bytes) -> Any:
    return lambda connection: connection.sendall(text)


def echo(sock: socket.socket, request: bytes, sender: Any) -> None:
    sock.sendto(request, sender)


def empty(sock: socket.socket, _: bytes, sender: Any) -> None:
    sock.sendto(b"", sender)


@pytest_twisted.ensureDeferred
async def test_nothing_listens(free_port: int) -> None:
    failed = await failure(f"127.0.0.1:{free_port}")
    blamed(failed, "connect", errno.ECONNREFUSED, "nothing listens on that port, or a firewall rejects it")


@pytest_twisted.ensureDeferred
async def test_an_echo_is_not_a_greeting(peers: Any, free_port: int) -> None:
    failed = await failure(peers.datagram(echo))
    blamed(failed, "greet", errno.EPROTO, "an echo service")
    failed = await failure(f"udp:127.0.0.1:{free_port}", source_port=free_port)
    blamed(failed, "greet", errno.EPROTO, "our own socket")
    assert failed.strerror == "our own request came back"


@pytest.mark.parametrize("tls", [None, ClientTls(insecure=True)])
@pytest_twisted.ensureDeferred
async def test_a_socket_that_connects_to_itself_is_reported_as_refused(free_port: int, tls: ClientTls | None) -> None:
    target = f"{'tls:' if tls else ''}127.0.0.1:{free_port}"
    failed = await failure(target, source_port=free_port, tls=tls)
    blamed(failed, "connect", errno.ECONNREFUSED, "nothing listens on that port")
    assert failed.strerror == "nothing listens there: the socket connected to itself"


@pytest_twisted.ensureDeferred
async def test_dropped_syns_are_counted() -> None:
    """A full queue of a listener drops what comes, without a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first:
        first.connect(listener.getsockname())
        failed = await failure(f"127.0.0.1:{listener.getsockname()[1]}", timeout=1.3)
    blamed(failed, "connect", errno.ETIMEDOUT, "packets are dropped (no answer to 2 SYNs)")


@pytest_twisted.ensureDeferred
async def test_a_full_accept_queue_of_this_host(peers: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first:
        first.connect(listener.getsockname())
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            failed = await failure(f"{host}:{listener.getsockname()[1]}", timeout=0.2, family=4)
            blamed(failed, "connect", errno.ETIMEDOUT, "the accept queue of the server is full")
            assert "no such host" not in likely_cause(failed)[0]


@pytest.mark.parametrize("record", ["1503030002020a", "15030100020246", "160303000a"])
@pytest_twisted.ensureDeferred
async def test_a_tls_record_is_not_a_greeting(peers: Any, record: str) -> None:
    failed = await failure(peers.stream(say(bytes.fromhex(record))))
    blamed(failed, "greet", errno.EPROTO, "that port speaks TLS")


@pytest.mark.parametrize("version", [1, 2])
@pytest_twisted.ensureDeferred
async def test_a_plain_probe_of_a_tls_port(peers: Any, papers: Any, version: Any) -> None:
    target = peers.stream(say(b"hello"), tls=papers.server("good"))
    blamed(
        await failure(target.removeprefix("tls:"), timeout=0.2), "greet", errno.ETIMEDOUT, "it speaks TLS (try tls:)"
    )
    claim = ProxyClaim(version, Address("192.0.2.1", 7))
    failed = await failure(target.removeprefix("tls:"), proxy=claim)
    assert "TLS" in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_a_proxy_whose_server_is_dead(peers: Any, reset: Any) -> None:
    for says in (lambda _: None, reset, peers.hold):
        failed = await failure(peers.stream(says), timeout=0.2)
        assert "with no live server" in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_a_source_port_that_another_program_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        port = other.getsockname()[1]
        failed = await failure(f"127.0.0.1:{port}", source_port=port)
        blamed(failed, "connect", errno.EADDRINUSE, "another program on this host uses that source port")
        assert failed.strerror == f"source port {port}: {os.strerror(errno.EADDRINUSE)}"
        datagram.bind(("0.0.0.0", 0))
        port = datagram.getsockname()[1]
        failed = await failure(f"udp:127.0.0.1:{port}", source_port=port)
        blamed(failed, "greet", errno.EADDRINUSE, "another program on this host uses that source port")


@pytest_twisted.ensureDeferred
async def test_a_source_port_whose_connection_still_stands(peers: Any, free_port: int) -> None:
    target = peers.stream(peers.hold)
    first = Deferred.fromCoroutine(Probe(parse(target), ProbeOptions(timeout=1, source_port=free_port)).run())
    failed = await failure(target, source_port=free_port)
    blamed(failed, "connect", errno.EADDRNOTAVAIL, "the system still keeps an earlier connection from that port")
    with pytest.raises(GreetFailed):
        await first


@pytest_twisted.ensureDeferred
async def test_a_privileged_source_port(free_port: int) -> None:
    if Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == "0\n":
        pytest.skip("every port is unprivileged here")
    with nobody():
        for target, phase in ((f"127.0.0.1:{free_port}", "connect"), (f"udp:127.0.0.1:{free_port}", "greet")):
            failed = await failure(target, source_port=1000)
            blamed(failed, phase, errno.EACCES, "a source port below 1024")  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_unix_sockets(tmp_path: Path) -> None:
    blamed(await failure(f"unix:{tmp_path}/none"), "connect", errno.ENOENT, "the server does not run")
    with socket.socket(socket.AF_UNIX) as stale, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        stale.bind(str(tmp_path / "stale"))
        other.bind(str(tmp_path / "other"))
        failed = await failure(f"unix:{tmp_path}/stale")
        blamed(failed, "connect", errno.ECONNREFUSED, "the server has stopped and left its socket")
        failed = await failure(f"unix:{tmp_path}/other")
        blamed(failed, "connect", errno.EPROTOTYPE, "the socket is of the other kind")
        failed = await failure(f"unixgram:{tmp_path}/other", timeout=0.1)
        blamed(failed, "greet", errno.ETIMEDOUT, "the server does not read from its socket")
    blamed(await failure(f"unixgram:{tmp_path}/none"), "connect", errno.ENOENT, "the server does not run")


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_in_a_closed_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with nobody():
        failed = await failure(f"unix:{closed}/s")
    blamed(failed, "connect", errno.EACCES, "may not write to the socket, or may not enter its folder")


@pytest_twisted.ensureDeferred
async def test_an_empty_answer_over_a_unix_socket_is_no_greeting(peers: Any, tmp_path: Path) -> None:
    failed = await failure(peers.datagram(empty, path=tmp_path / "s"))
    blamed(failed, "greet", errno.ENODATA, "something other than a greeting service")


@pytest.mark.parametrize(
    ("paper", "cause"),
    [
        ("expired", "the certificate was not renewed"),
        ("elsewhere", "the name is mistyped, or that server presents another site's certificate"),
        ("self", "a test certificate"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_certificates(peers: Any, papers: Any, paper: str, cause: str) -> None:
    target = peers.stream(say(b"hello"), tls=papers.server(paper))
    failed = await failure(target, tls=ClientTls(ca=papers.path("ca")))
    blamed(failed, "tls", errno.EPROTO, cause)


@pytest_twisted.ensureDeferred
async def test_an_authority_that_is_not_known(peers: Any, papers: Any) -> None:
    failed = await failure(peers.stream(say(b"hello"), tls=papers.server("good")), tls=ClientTls())
    blamed(failed, "tls", errno.EPROTO, "a private authority (give its file with --ca)")


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_behind(peers: Any, papers: Any) -> None:
    target = peers.stream(say(b"hello"), tls=papers.server("early"))
    failed = await failure(target, tls=ClientTls(ca=papers.path("early")))
    blamed(failed, "tls", errno.EPROTO, "our clock is behind")


@pytest_twisted.ensureDeferred
async def test_a_client_certificate_that_is_wanted(peers: Any, papers: Any) -> None:
    target = peers.stream(say(b"hello"), tls=papers.server("good", ask_client=True))
    failed = await failure(target, tls=ClientTls(ca=papers.path("ca")))
    blamed(failed, "tls", errno.EPROTO, "it requires a client certificate (--cert)")


@pytest_twisted.ensureDeferred
async def test_far_ends_without_tls(peers: Any, reset: Any) -> None:
    failed = await failure(f"tls:{peers.stream(say(b'220 hello, this is plain text'))}")
    blamed(failed, "tls", errno.EPROTO, "a listener without TLS, or one that expects a PROXY header")
    failed = await failure(f"tls:{peers.stream(lambda connection: connection.recv(9999))}")
    blamed(failed, "tls", errno.EPROTO, "a listener without TLS, or a load balancer")
    failed = await failure(f"tls:{peers.stream(reset)}")
    blamed(failed, "tls", errno.ECONNRESET, "a firewall that filters by server name")
    failed = await failure(f"tls:{peers.stream(peers.hold)}", timeout=0.3)
    blamed(failed, "tls", errno.ETIMEDOUT, "the server does not speak TLS and waits")


@pytest_twisted.ensureDeferred
async def test_connected_but_not_greeted(peers: Any, reset: Any) -> None:
    failed = await failure(peers.stream(lambda _: None))
    blamed(failed, "greet", errno.ENODATA, "a load balancer with no live server, or a missing PROXY header")
    failed = await failure(peers.stream(peers.hold), timeout=0.3)
    blamed(failed, "greet", errno.ETIMEDOUT, "the server waits for a request or hangs")
    failed = await failure(peers.stream(reset))
    blamed(failed, "greet", errno.ECONNRESET, "a firewall or load balancer; or the server failed, refuses us")
    failed = await failure(peers.stream(say(b"x" * 99)), limit=10)
    blamed(failed, "greet", errno.EMSGSIZE, "something other than a greeting service")


@pytest_twisted.ensureDeferred
async def test_datagrams_that_are_not_answered(peers: Any, free_port: int) -> None:
    blamed(
        await failure(f"udp:127.0.0.1:{free_port}"), "greet", errno.ECONNREFUSED, "the host is there: nothing listens"
    )
    failed = await failure(peers.datagram(lambda *_: None), timeout=0.1)
    blamed(failed, "greet", errno.ETIMEDOUT, "the request or the answer was dropped")
    blamed(await failure(peers.datagram(empty)), "greet", errno.ENODATA, "something other than a greeting service")
    failed = await failure(f"udp:255.255.255.255:{free_port}")
    blamed(failed, "greet", errno.EACCES, "a broadcast address")


@pytest_twisted.ensureDeferred
async def test_an_answer_from_elsewhere(peers: Any) -> None:
    def elsewhere(_: socket.socket, __: bytes, sender: Any) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.sendto(b"hello", sender)

    failed = await failure(peers.datagram(elsewhere), timeout=0.2)
    blamed(failed, "greet", errno.ETIMEDOUT, "the server answers from another of its addresses")


@pytest_twisted.ensureDeferred
async def test_greetings_whose_connection_does_not_end_well(peers: Any, reset: Any) -> None:
    def greet_and_reset(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        peers.over.wait(0.05)
        reset(connection)

    def greet_and_hold(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        peers.hold()

    greeting = await greet(peers.stream(greet_and_reset))
    assert likely_cause(greeting) == (
        "likely: the server closed with unread data, was killed, or a device on the path ended the connection",
    )
    greeting = await greet(peers.stream(greet_and_hold), timeout=0.3)
    assert likely_cause(greeting) == (
        "likely: the FIN was lost or held back on the path, or the server waits for us to close",
    )
    assert likely_cause(evolve(greeting, closed="fin")) == likely_cause(evolve(greeting, closed=None)) == ()


@pytest.mark.parametrize(
    ("number", "phase", "transport", "refuted"),
    [
        (errno.ETIMEDOUT, "connect", "tcp", "no such host"),
        (errno.ETIMEDOUT, "greet", "udp", "nothing answers there"),
        (errno.ECONNREFUSED, "connect", "tcp", "nothing listens on that port"),
        (errno.EHOSTUNREACH, "connect", "tcp", "a route is missing"),
        (errno.ENOENT, "resolve", "tcp", "mistyped"),
    ],
)
def test_a_cause_that_greetings_refute_is_not_told(number: int, phase: Phase, transport: str, refuted: str) -> None:
    target = parse(f"{transport}:h.example")
    failed = GreetFailed(number, "failed", phase, target=target)
    greeting = Greeting(target, b"hi", "hi", Seconds(), Address("192.0.2.1", 8088))
    said, earlier = set[str](), Earlier()
    assert explain(greeting, said, earlier) == []
    told = explain(failed, said, earlier)
    assert told[0].startswith("likely: it was greeted before: ")
    assert refuted not in told[0]
    assert explain(failed, said, earlier) == []
    said, earlier = set(), Earlier()
    assert refuted in explain(failed, said, earlier)[0]
    assert explain(greeting, said, earlier) == [
        "greeted now: the likely cause of the earlier failures does not hold any more"
    ]
    assert explain(failed, said, earlier)[0].startswith("likely: it was greeted before: ")


@pytest.mark.parametrize(
    "note", ["an answer to an earlier request came late, after 2 s", "an answer came after the time-out"]
)
def test_late_answers_are_a_cause_of_their_own(note: str) -> None:
    failed = GreetFailed(errno.ETIMEDOUT, "late", "greet", target=parse("udp:h"), notes=(note,))
    assert "later than the time-out (-t)" in likely_cause(failed)[0]
    assert "later than the time-out (-t)" in likely_cause(failed, 3)[0]


def test_a_failure_that_is_not_in_the_table_has_no_cause() -> None:
    assert likely_cause(GreetFailed(errno.EIO, "odd", "connect")) == ()
    assert likely_cause(GreetFailed(errno.ETIMEDOUT, "late", "connect", target=parse("unix:/s"))) == (
        "likely: the server does not keep up: its queue is full",
    )
    silent = GreetFailed(errno.ETIMEDOUT, "late", "connect", target=parse("h"))
    assert "no answer to our SYN)" in likely_cause(silent)[0], "where the system does not count SYNs"


def test_every_cause_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    tables = [value for name, value in vars(causes).items() if name.startswith("_") and name[1].isupper()]
    told = {
        cause
        for table in tables
        if isinstance(table, dict) and table is not causes._GREET_OVER
        for cause in table.values()
    }
    told |= {cause for _, cause in causes._HOST_WORDS}
    told |= {each.cause for each in (*ALERTS.values(), alerts._UNKNOWN_ALERT)} | set(alerts._CAUSES.values())
    told |= {certificates._WRONG_NAME, *(cause for each in VERIFY_ERRORS.values() for cause in each[1:] if cause)}
    assert len(told) > 50
    assert [cause for cause in sorted(told) if cause not in text] == []


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOENT, "the name is mistyped or not published"),
        (errno.EAGAIN, "the resolver cannot be reached or has failed"),
        (errno.ETIMEDOUT, "the resolver does not answer"),
    ],
)
def test_names_that_are_not_resolved(number: int, cause: str) -> None:
    blamed(GreetFailed(number, "odd", "resolve", target=parse("h")), "resolve", number, cause)


def test_an_error_that_the_reactor_takes_for_a_clean_end_keeps_its_errno(free_port: int) -> None:
    """The socket has an error and nothing to read, as one has that ICMP forbade to connect."""
    timeline = Timeline(parse("127.0.0.1"), ProbeOptions())
    timeline.enter("connect")
    clock = Clock()
    factory = _ProbeFactory(StreamState(timeline), cast("Any", clock))

    class Transport:
        connected = 0

        def connectionLost(self, reason: Failure) -> None:
            factory.clientConnectionFailed(cast("Any", None), Failure(ConnectError(string=reason)))

        def failIfNotConnected(self, error: Exception) -> None:
            """Not called here."""

    transport = Transport()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", free_port))
        sock.send(b"x")
        select.select([sock], [], [], 5)
        factory._keep_errno(transport, sock)
        transport.connectionLost(Failure(ConnectionDone()))
    failed: list[Failure] = []
    factory.result.addErrback(failed.append)
    value = cast("GreetFailed", failed[0].value)
    assert (value.errno, value.phase) == (errno.ECONNREFUSED, "connect")


def test_a_connection_that_took_more_than_one_syn_is_noted() -> None:
    timeline = Timeline(parse("127.0.0.1"), ProbeOptions())
    info = TcpInfo(0, 1448, 2, 1448, timestamps=True, sack=True, wscale=True)
    timeline.sent = Sent(Address("127.0.0.1", 8088), tcp=info)
    StreamState(timeline).connected()
    assert timeline.failed(errno.ENODATA, "nothing").notes == ("connected only after the SYN was sent 3 times",)


@pytest_twisted.ensureDeferred
async def test_syns_that_are_dropped_first_are_seen_by_our_own_side() -> None:
    """The queue of a listener is full at first, and has room when the SYN comes again."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first:
        first.connect(listener.getsockname())
        host, port = listener.getsockname()
        probing = Deferred.fromCoroutine(Probe(parse(f"{host}:{port}"), ProbeOptions(timeout=4)).run())
        await deferLater(cast("Any", reactor), 0.3, lambda: None)
        listener.accept()[0].close()
        await deferLater(cast("Any", reactor), 1.2, lambda: None)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"hello")
        greeting = await probing
    assert greeting.notes == (
        "connected only after the SYN was sent 2 times",
        "likely a SYN was lost on the way there, or the server dropped it, because its accept queue was full: "
        "the answer is to a later one",
    )
    assert (greeting.seconds.connect or 0) > 0.9  # the kernel repeats a SYN after a second


@pytest.mark.parametrize("target", ["[fe80::99]:1", "udp:[FE80::99]:1", "udp:[fe80::1]:1"])
@pytest_twisted.ensureDeferred
async def test_a_link_local_address_without_its_zone(target: str) -> None:
    failed = await failure(target, timeout=0.3)
    assert likely_cause(failed)[0].startswith("likely: a link-local address needs its zone")


@pytest.mark.parametrize("target", ["[fe80::99%nowhere]:1", "udp:[fe80::99%nowhere]:1", "[::1%nowhere]:1"])
@pytest_twisted.ensureDeferred
async def test_a_zone_that_is_no_interface(target: str) -> None:
    failed = await failure(target)
    blamed(failed, "resolve", errno.ENODEV, "the name or the number of an interface of this host")
    assert failed.strerror == "this host has no interface nowhere"


@pytest.mark.parametrize("ending", ["fin", "hang"])
@pytest_twisted.ensureDeferred
async def test_a_unix_socket_has_no_path(peers: Any, tmp_path: Path, ending: str) -> None:
    says = {"fin": lambda _: None, "hang": lambda _: peers.hold()}[ending]
    failed = await failure(peers.stream(says, path=tmp_path / "s"), timeout=0.3)
    numbers = {"fin": errno.ENODATA, "hang": errno.ETIMEDOUT}
    blamed(failed, "greet", numbers[ending], "a proxy with no live server")
    for word in ("firewall", "packets", "TLS", "load balancer", "on the path"):
        assert word not in likely_cause(failed)[0]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL, errno.EADDRINUSE])
def test_a_fault_of_this_host_is_not_taken_back_by_the_greeting_of_another_flow(number: int) -> None:
    earlier, said = Earlier(), set[str]()
    explain(GreetFailed(number, "no", "connect"), said, earlier)
    greeting = Greeting(parse("127.0.0.1:1"), b"hi", "hi", Seconds(), Address("127.0.0.1", 1))
    assert explain(greeting, said, earlier) == []
