"""The admin site of a service in this process, asked over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve, frozen
from twisted.internet.threads import deferToThread

from greetsvc.admin import events, site
from greetsvc.admin.events import event
from greetsvc.admin.site import AdminFactory
from greetsvc.daemon.inherited import Inherited, Passed
from greetsvc.daemon.service import GreetingService
from greetsvc.daemon.settings.config import settings
from greetsvc.errors import ConfigError
from tests.support.certificates import issue
from tests.support.service import Serving, Visitor
from tests.support.waiting import until

Serve = Callable[..., Serving]


@frozen
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: str


async def asked(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    """The answer to one request."""

    def ask() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read().decode())
        finally:
            connection.close()

    return await deferToThread(ask)


async def sent(port: int, data: bytes) -> bytes:
    """Everything that comes back for these bytes."""
    return await deferToThread(lambda: Visitor().visit(port, said=data))


def factory_of(serving: Serving) -> AdminFactory:
    """What answers on its admin site."""
    assert serving.service._site is not None
    return serving.service._site._factory


class Stream:
    """A connection to /events. Over HTTP/1.0 the events come as they are, in no chunks."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self.sock.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        self.sock.setblocking(False)
        self.data = b""

    async def until(self, name: str, times: int = 1) -> list[dict[str, Any]]:
        """The data of events of this name, once there are so many."""

        def enough() -> list[dict[str, Any]]:
            with suppress(BlockingIOError):
                self.data += self.sock.recv(1 << 20)
            begins = f"event: {name}\ndata: "
            whole = self.data.decode("ascii").split("\n\n")[:-1]
            found = [json.loads(each.removeprefix(begins)) for each in whole if each.startswith(begins)]
            return found if len(found) >= times else []

        return await until(enough)


@pytest_twisted.ensureDeferred
async def test_health_follows_the_life_of_the_service(serve: Serve, visitor: Visitor) -> None:
    """While it drains it is alive, not ready, and still can be asked."""
    serving = serve("tcp:0:interface=127.0.0.1", admin="tcp:0", drain=5, linger=5)
    port = serving.admin_port
    assert (await asked(port, "/livez")).status == 200
    assert (await asked(port, "/readyz")).body == "ready\n"
    staying = visitor.connect(serving.ports[0])
    await until(lambda: serving.ledger.visits)
    stopping = serving.service.stopService()
    answer = await asked(port, "/readyz")
    assert (answer.status, answer.body) == (503, "draining\n")
    assert (await asked(port, "/livez")).status == 200
    staying.close()
    await stopping
    with pytest.raises(ConnectionRefusedError):
        await asked(port, "/livez")


@pytest_twisted.ensureDeferred
async def test_a_service_that_starts_is_not_ready(serve: Serve) -> None:
    serving = serve("tcp:0", admin="tcp:0")
    serving.service.not_ready = "starting"
    answer = await asked(serving.admin_port, "/readyz")
    assert (answer.status, answer.body) == (503, "starting\n")


@pytest_twisted.ensureDeferred
async def test_metrics_count_visits_of_every_kind(serve: Serve, visitor: Visitor) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", "udp:0:interface=127.0.0.1", admin="tcp:0", udp_budget=0)
    await deferToThread(visitor.visit, serving.ports[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", ("127.0.0.1", serving.ports[1]))
        await serving.until_refused("budget", 1)
    answer = await asked(serving.admin_port, "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.splitlines()
    assert 'greetsvc_greetings_total{transport="tcp"} 1.0' in lines
    assert 'greetsvc_greetings_total{transport="udp"} 0.0' in lines
    assert 'greetsvc_datagrams_unanswered_total{reason="budget"} 1.0' in lines
    assert "greetsvc_greeting_duration_seconds_count 1.0" in lines
    assert "127.0.0.1" not in answer.body


@pytest_twisted.ensureDeferred
async def test_metrics_tell_when_certificates_expire(serve: Serve, tmp_path: Path) -> None:
    issued = issue("a.example", "a.example", "b.example")
    (tmp_path / "a.pem").write_bytes(issued.both_pem)
    serving = serve(f"tls:{tmp_path}:port=0:interface=127.0.0.1", admin="tcp:0")
    expires = issued.certificate.not_valid_after_utc.timestamp()
    assert serving.service.figures().certificates == {"a.example": expires, "b.example": expires}


@pytest_twisted.ensureDeferred
async def test_metrics_tell_how_reloads_went(serve: Serve) -> None:
    serving = serve("tcp:0", admin="tcp:0")

    def wrong() -> Any:
        raise ConfigError("--config: no such file")

    serving.service.reload()
    serving.service.reread = wrong
    serving.service.reload()
    figures = serving.service.figures()
    assert figures.reloads == {"ok": 1, "failed": 1}
    assert not figures.reload_ok


@pytest_twisted.ensureDeferred
async def test_events_begin_with_what_the_service_is_and_go_on_with_what_happens(
    serve: Serve, visitor: Visitor
) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", admin="tcp:0")
    stream = Stream(serving.admin_port)
    (about,) = await stream.until("start")
    assert about["listeners"][0].startswith(f"tcp port: {serving.ports[0]} (127.0.0.1)")
    assert about["settings"]["deadline"] == "10.0"
    assert about["settings"]["admin"] == r"tcp:0:interface=127.0.0.1"
    await deferToThread(visitor.visit, serving.ports[0])
    states = await stream.until("state", 3)
    seen = [visit for state in states for visit in state["visits"]]
    assert [(visit["transport"], visit["host"]) for visit in seen] == [("tcp", "127.0.0.1")]
    assert states[-1]["figures"]["greeted"] == {"tcp": 1}
    stream.sock.close()
    await until(lambda: not len(factory_of(serving).events))


@pytest_twisted.ensureDeferred
async def test_one_who_comes_later_sees_the_visits_before_and_each_sees_a_visit_once(
    serve: Serve, visitor: Visitor
) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", admin="tcp:0")
    streams = [Stream(serving.admin_port)]
    for _ in range(2):
        await deferToThread(visitor.visit, serving.ports[0])
        await streams[0].until("state", 2)
        streams.append(Stream(serving.admin_port))
    for stream in streams:
        states = await stream.until("state", 3)
        seen = [visit["port"] for state in states for visit in state["visits"]]
        assert len(seen) == len(set(seen)) == 2
        stream.sock.close()


@pytest_twisted.ensureDeferred
async def test_a_reload_tells_watchers_what_changed(serve: Serve) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", admin="tcp:0")
    stream = Stream(serving.admin_port)
    await stream.until("state", 2)
    changed = evolve(serving.service.settings, deadline=3.0)
    serving.service.reread = lambda: changed
    serving.service.reload()
    starts = await stream.until("start", 2)
    assert [start["settings"]["deadline"] for start in starts] == ["10.0", "3.0"]
    stream.sock.close()


@pytest_twisted.ensureDeferred
async def test_addresses_are_shortened_where_strangers_can_ask(serve: Serve, visitor: Visitor) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", admin="tcp:0:interface=0.0.0.0")
    await deferToThread(visitor.visit, serving.ports[0])
    stream = Stream(serving.admin_port)
    states = await stream.until("state", 2)
    seen = [visit for state in states for visit in state["visits"]]
    assert [(visit["host"], visit["port"]) for visit in seen] == [("127.0.0.0/24", 0)]
    stream.sock.close()


@pytest_twisted.ensureDeferred
async def test_it_listens_on_a_unix_socket_too(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    serve("tcp:0", admin=f"unix:{path}")

    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(1000), b""))

    assert (await deferToThread(ask)).endswith(b"\r\n\r\nready\n")


@pytest_twisted.ensureDeferred
async def test_the_page_comes_with_its_policy(serve: Serve) -> None:
    answer = await asked(serve("tcp:0", admin="tcp:0").admin_port, "/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "<h1>greetsvc</h1>" in answer.body


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("GET", "//", {}, 404),
        ("GET", "/../etc/passwd", {}, 404),
        ("DELETE", "/", {}, 405),
        ("GET", "/metrics", {"Host": "evil.example"}, 421),
        ("GET", "/metrics", {"Host": "metrics.example:9090"}, 200),
        ("HEAD", "/metrics", {}, 200),
        ("HEAD", "/events", {}, 200),
        ("GET", "/readyz?x=%0d%0ay", {}, 200),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_it_answers_and_what_not(
    serve: Serve, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    serving = serve("tcp:0", admin="tcp:0", admin_host=["metrics.example"])
    answer = await asked(serving.admin_port, path, method, **headers)
    assert answer.status == status
    assert answer.headers["Connection"] == "close"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (answer.body == "") == (method == "HEAD")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (b"GET /readyz HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK"),
        (b"GET /readyz HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx",
            b"HTTP/1.1 413 Content Too Large",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 413 Content Too Large",
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100 + b"\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 9000 + b"\r\n\r\n", b"HTTP/1.1 431 Request Header"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"y" * 8000 + b"\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.1\r\n" + b"Host: localhost\r\n" * 2 + b"\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET HTTP://127.0.0.1:9090 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET http://localhost/livez HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 421 Misdirected"),
        (b"GET http://x@localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 421 Misdirected"),
        (b"\x16\x03\x01\x02\x00", b""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_request_has_bounds(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, request_: bytes, says: bytes
) -> None:
    monkeypatch.setattr(site, "DEADLINE", 0.3)
    answer = await sent(serve("tcp:0", admin="tcp:0").admin_port, request_)
    assert answer.startswith(says)
    assert answer.count(b"HTTP/1.") == bool(says)


@pytest.mark.parametrize(
    ("line", "host", "accept", "status"),
    [
        (b"GET /readyz HTTP/1.1", b"localhost\xff", b"*/*", b"421"),
        (b"GET /readyz HTTP/1.1", b"\xc3\xbc.example", b"*/*", b"421"),
        (b"GET /readyz HTTP/1.1", b"\x80[::1]", b"*/*", b"421"),
        (b"GET /metrics HTTP/1.1", b"localhost", b"\xff", b"200"),
        (b"GET /metrics HTTP/1.1", b"localhost", b"application/openmetrics-text\xfe", b"200"),
        (b"GET /\xff HTTP/1.1", b"localhost", b"*/*", b"400"),
        (b"GET /readyz?\xff\xfe=\x80 HTTP/1.1", b"localhost", b"*/*", b"400"),
        (b"G\xffT /readyz HTTP/1.1", b"localhost", b"*/*", b"400"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bytes_that_are_no_utf_8_are_no_fault_of_ours(
    serve: Serve, line: bytes, host: bytes, accept: bytes, status: bytes
) -> None:
    serving = serve("tcp:0", admin="tcp:0")
    answer = await sent(serving.admin_port, b"%b\r\nHost: %b\r\nAccept: %b\r\n\r\n" % (line, host, accept))
    assert answer.split(b" ")[:2] == [b"HTTP/1.1", status]


@pytest_twisted.ensureDeferred
async def test_any_byte_anywhere_in_a_request_gives_an_answer(serve: Serve) -> None:
    """In the request line, in the name and in the value of a header that is read, and of one that is not."""
    port = serve("tcp:0", admin="tcp:0").admin_port
    usual = (b"GET", b"/metrics", b"Host", b"localhost", b"Accept", b"*/*", b"X", b"y")
    for place in range(len(usual)):
        for byte in (*range(0x30), *range(0x7B, 0x84), 0xC3, 0xFF):
            odd = [part + bytes([byte]) * (number == place) for number, part in enumerate(usual)]
            answer = await sent(port, b"%b %b HTTP/1.1\r\n%b: %b\r\n%b: %b\r\n%b: %b\r\n\r\n" % tuple(odd))
            assert answer[:5] in {b"HTTP/", b""}, (odd, answer)
            assert b" 500 " not in answer, (odd, answer)


@pytest_twisted.ensureDeferred
async def test_a_second_request_on_a_connection_is_not_answered(serve: Serve) -> None:
    answer = await sent(
        serve("tcp:0", admin="tcp:0").admin_port, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    )
    assert answer.count(b"HTTP/1.1") == 1


@pytest_twisted.ensureDeferred
async def test_a_slow_request_ends_at_its_deadline(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not prolong it."""
    monkeypatch.setattr(site, "DEADLINE", 0.3)
    port = serve("tcp:0", admin="tcp:0").admin_port

    def drip() -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.settimeout(0.02)
            try:
                while True:
                    sock.sendall(b"X")
                    try:
                        return sock.recv(1000)
                    except TimeoutError:
                        continue
            except ConnectionError:
                return b"reset"

    assert await deferToThread(drip) in {b"", b"reset"}


@pytest_twisted.ensureDeferred
async def test_connections_that_only_wait_keep_nobody_out(serve: Serve, visitor: Visitor) -> None:
    serving = serve("tcp:0:interface=127.0.0.1", admin="tcp:0")
    waiting = [visitor.connect(serving.admin_port) for _ in range(site.MAX_CONNECTIONS + 20)]
    await until(lambda: len(factory_of(serving)._channels) == site.MAX_CONNECTIONS)
    assert (await asked(serving.admin_port, "/livez")).status == 200
    assert len(waiting) == site.MAX_CONNECTIONS + 20


@pytest_twisted.ensureDeferred
async def test_one_watcher_too_many_is_told_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_WATCHERS", 1)
    port = serve("tcp:0", admin="tcp:0").admin_port
    stream = Stream(port)
    await stream.until("state")
    assert (await asked(port, "/events")).status == 503
    assert (await asked(port, "/livez")).status == 200
    stream.sock.close()


@pytest_twisted.ensureDeferred
async def test_a_watcher_that_does_not_read_is_dropped_and_the_others_are_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PERIOD", 0.01), ("RATE", 1e6), ("PATIENCE", 0.1)):
        monkeypatch.setattr(events, name, value)
    serving = serve("tcp:0", admin="tcp:0")
    reads, silent = Stream(serving.admin_port), Stream(serving.admin_port)
    watching = factory_of(serving).events
    await reads.until("state")
    await until(lambda: len(watching) == 2)
    monkeypatch.setattr(factory_of(serving), "_state", lambda *_: event("state", {"x": "x" * 50_000}))

    def dropped() -> bool:
        with suppress(BlockingIOError):
            reads.data = reads.sock.recv(1 << 20)
        return len(watching) == 1

    await until(dropped)
    reads.data = b""
    await reads.until("state")
    for stream in (reads, silent):
        stream.sock.close()


@pytest_twisted.ensureDeferred
async def test_a_fault_of_ours_is_said_and_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, logged_errors: Any
) -> None:
    serving = serve("tcp:0", admin="tcp:0")
    monkeypatch.setattr("greetsvc.admin.figures.take", lambda *_, **__: 1 / 0)
    assert (await asked(serving.admin_port, "/metrics")).status == 500
    assert (await asked(serving.admin_port, "/events")).status == 500
    assert len(logged_errors.flush(ZeroDivisionError)) == 2


def test_without_the_option_nothing_of_the_site_is_loaded(serve: Serve) -> None:
    assert serve("tcp:0").service.watch is None


def test_a_site_that_cannot_listen_leaves_nothing_bound(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"admin tcp:{port}.*cannot listen on 127.0.0.1, port {port}: Address"):
            serve("tcp:0", admin=f"tcp:{port}")


def test_a_check_tells_a_running_service_from_a_listener_of_its_own_in_the_way(serve: Serve) -> None:
    running = serve("tcp:0:interface=127.0.0.1", admin="tcp:0")
    admin = f"tcp:{running.admin_port}"
    beside = GreetingService(settings({"admin": admin}, ["tcp:0"]))
    beside.bind(check=True)
    assert any("by a running greetsvc" in line for line in beside.describe())
    beside.unbind()
    free = unused_port()
    wrong = GreetingService(settings({"admin": f"tcp:{free}"}, [f"tcp:{free}:interface=127.0.0.1"]))
    with pytest.raises(ConfigError, match=rf"admin tcp:{free}.*Address already in use"):
        wrong.bind(check=True)


@pytest_twisted.ensureDeferred
async def test_a_service_manager_may_pass_its_socket(visitor: Visitor) -> None:
    """The other sockets that are passed are those to greet on."""
    with socket.create_server(("127.0.0.1", 0)) as greets, socket.create_server(("127.0.0.1", 0)) as shows:
        passed = (Passed(greets.fileno(), "greet"), Passed(shows.fileno(), "admin"))
        service = GreetingService(settings({"admin": "inherited:admin", "drain": 0}), inherited=Inherited(passed))
        service.bind()
        assert not [line for line in service.warnings if "which no listener uses" in line]
        service.startService()
        assert await deferToThread(visitor.visit, greets.getsockname()[1])
        assert (await asked(shows.getsockname()[1], "/readyz")).body == "ready\n"
        await service.stopService()


def test_a_passed_socket_is_for_one_of_the_two(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        inherited = Inherited((Passed(sock.fileno(), "one"),))
        service = GreetingService(settings({"admin": "inherited:0"}, ["inherited:one"]), inherited=inherited)
        with pytest.raises(ConfigError, match="admin inherited:0: socket 0 is that of"):
            service.bind()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
