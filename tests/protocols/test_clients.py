"""The talking protocols as clients meet them: real sockets, TLS, proxies, and clients that know nothing of us."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from greetsvc.net.proxy.header import encode_v1
from tests.support.certificates import Papers
from tests.support.service import Serving

OPENING = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TCP = "tcp:0:interface=127.0.0.1"
NAMES = ["Ada", "Grace", "李雷"]
ANSWERS = [f"Hello, {name}" for name in NAMES]
Serve = Callable[..., Serving]

reactor: Any = global_reactor


def talk_lines(port: int) -> list[str]:
    """A client of lines, as a beginner writes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        stream = sock.makefile("rwb")
        heard = [stream.readline().decode().rstrip()]
        for name in NAMES:
            stream.write(f"{name}\n".encode())
            stream.flush()
            heard.append(stream.readline().decode().rstrip())
        return heard


def talk_netstring(port: int) -> list[str]:
    """A client of netstrings."""

    def read() -> str:
        size = b""
        while not size.endswith(b":"):
            size += stream.read(1)
        return stream.read(int(size[:-1]) + 1)[:-1].decode()

    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        stream = sock.makefile("rb")
        sock.sendall(b"".join(b"%d:%s," % (len(name.encode()), name.encode()) for name in NAMES))
        return [read() for _ in range(len(NAMES) + 1)]


def talk_int32(port: int) -> list[str]:
    """A client of length prefixes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        stream = sock.makefile("rb")
        heard = []
        for name in [*NAMES, ""]:
            heard.append(stream.read(struct.unpack("!I", stream.read(4))[0]).decode())
            sock.sendall(struct.pack("!I", len(name.encode())) + name.encode())
        return heard


def talk_websocket(port: int) -> list[str]:
    """A client of the `websockets` library, which knows nothing of us."""
    with connect(f"ws://127.0.0.1:{port}/chat", open_timeout=10) as peer:
        heard = [peer.recv(10)]
        for name in NAMES:
            peer.send(name)
        heard += [peer.recv(10) for _ in NAMES]
        peer.send(["Gra", "ce"])  # one message in two frames
        assert peer.recv(10) == "Hello, Grace"
        assert peer.ping().wait(10)
        return [str(text) for text in heard]


TALKS = {"lines": talk_lines, "netstring": talk_netstring, "int32": talk_int32, "websocket": talk_websocket}


async def _thread(call: Any, *arguments: Any) -> Any:
    return await deferToThread(call, *arguments).addTimeout(30, reactor)


@pytest.mark.parametrize("protocol", TALKS)
@pytest_twisted.ensureDeferred
async def test_ten_lines_of_a_blocking_client_talk(serve: Serve, protocol: str) -> None:
    serving = serve(TCP, protocol=protocol, greeting=r"Hello, {name}\r\n")
    heard = await _thread(TALKS[protocol], serving.ports[0])
    assert heard == ["Hello, 127.0.0.1", *ANSWERS]
    assert serving.ledger.greeted == {"tcp": 1}


@pytest_twisted.ensureDeferred
async def test_talking_works_over_tls_and_behind_a_proxy(serve: Serve, papers: Papers, tmp_path: Path) -> None:
    (tmp_path / "localhost.pem").write_bytes(Path(papers.path("good")).read_bytes())
    serving = serve(
        f"proxy:tls:{tmp_path}:port=0:interface=127.0.0.1",
        protocol="lines",
        greeting="{peer_host} {name} {tls_version}",
    )

    def talk() -> bytes:
        context = ssl.create_default_context(cafile=papers.path("ca"))
        with socket.create_connection(("127.0.0.1", serving.ports[0]), timeout=10) as raw:
            raw.sendall(encode_v1(("192.0.2.7", 7), ("192.0.2.1", 8088)))
            with context.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(b"Ada\nBob\n")
                stream = sock.makefile("rb")
                return b"".join(stream.readline() for _ in range(3))

    said = await _thread(talk)
    assert said == b"192.0.2.7 192.0.2.7 TLSv1.3\r\n192.0.2.7 Ada TLSv1.3\r\n192.0.2.7 Bob TLSv1.3\r\n"


@pytest_twisted.ensureDeferred
async def test_a_half_close_behind_a_proxy_gets_all_answers(serve: Serve) -> None:
    serving = serve(f"proxy:{TCP}", protocol="lines", greeting="{peer_host} {name}")

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", serving.ports[0]), timeout=10) as sock:
            sock.sendall(encode_v1(("192.0.2.7", 7), ("192.0.2.1", 8088)) + b"Ada\nBob\n")
            sock.shutdown(socket.SHUT_WR)
            return sock.makefile("rb").read()

    assert await _thread(talk) == b"192.0.2.7 192.0.2.7\r\n192.0.2.7 Ada\r\n192.0.2.7 Bob\r\n"


@pytest_twisted.ensureDeferred
async def test_a_path_record_is_read_anew_for_each_message(serve: Serve) -> None:
    serving = serve(TCP, protocol="lines", greeter="path")
    heard = await _thread(talk_lines, serving.ports[0])
    assert len(heard) == 1 + len(NAMES)
    assert all(record.startswith('{"greetsvc":1') for record in heard)


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (b"bytes", "messages must be text"),
        ("x" * 5000, "a message is longer than 4096 bytes"),
        (["x" * 3000, "x" * 3000, ""], "a message is longer than 4096 bytes"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_websocket_message_gets_an_error_and_a_close(serve: Serve, says: Any, error: str) -> None:
    serving = serve(TCP, protocol="websocket")

    def talk() -> tuple[list[Any], int]:
        heard = []
        with connect(f"ws://127.0.0.1:{serving.ports[0]}") as peer:
            heard.append(peer.recv(10))
            peer.send("Ada")
            with contextlib.suppress(ConnectionClosedError):
                peer.send(says)
            try:
                while True:
                    heard.append(peer.recv(10))
            except ConnectionClosedError as closed:
                return heard, closed.rcvd.code if closed.rcvd else 0

    heard, code = await _thread(talk)
    assert heard == ["Thank you for connecting", "Thank you for connecting, Ada", f"error: {error}"]
    assert code == 1008


@pytest_twisted.ensureDeferred
async def test_a_websocket_frame_is_refused_by_the_length_that_it_tells(serve: Serve) -> None:
    serving = serve(TCP, protocol="websocket")

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", serving.ports[0]), timeout=10) as sock:
            sock.sendall(OPENING + b"\x81\xff" + b"\x7f" + b"\xff" * 7 + bytes(4))
            return sock.makefile("rb").read()

    heard = await _thread(talk)
    assert b"error: a message is longer than 4096 bytes" in heard
    assert serving.ledger.ended == {"framing": 1}


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 426 Upgrade Required"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"HTTP/1.1 426 "),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 426 "),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000, b""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_request_that_is_no_websocket_is_answered_and_logs_no_error(
    serve: Serve, request_line: bytes, status: bytes
) -> None:
    serving = serve(TCP, protocol="websocket", deadline=0.5)

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", serving.ports[0]), timeout=10) as sock:
            sock.sendall(request_line)
            with contextlib.suppress(ConnectionResetError):
                return sock.makefile("rb").read()
            return b""

    assert (await _thread(talk)).startswith(status)
    assert not serving.ledger.greeted


@pytest.mark.parametrize(("protocol", "goodbye"), [("lines", b""), ("websocket", b"\x88\x02\x03\xe9")])
@pytest_twisted.ensureDeferred
async def test_a_service_that_stops_ends_silent_connections_at_once_and_with_a_fin(
    serve: Serve, protocol: str, goodbye: bytes
) -> None:
    serving = serve(TCP, protocol=protocol, drain=20, linger=0.1)
    with socket.create_connection(("127.0.0.1", serving.ports[0]), timeout=10) as sock:
        if protocol == "websocket":
            sock.sendall(OPENING)
        heard = await _thread(sock.recv, 1000)
        await serving.service.stopService()
        while piece := await _thread(sock.recv, 1000):
            heard += piece
    assert heard.endswith(goodbye or b"Thank you for connecting\r\n")


CONNECTIONS, IN_FLIGHT = 1000, 100


class _Talker:
    """A connection with a hundred messages in flight. A slow one reads only when all others are done."""

    def __init__(self, port: int, number: int) -> None:
        self.number = number
        self.slow = number % 10 == 0
        self.heard = bytearray()
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sock.setblocking(False)
        self.expected = b"Hello\r\n" + b"".join(b"Hello%d.%d\r\n" % (number, one) for one in range(IN_FLIGHT))

    def say(self) -> None:
        self.sock.sendall(b"".join(b"%d.%d\n" % (self.number, one) for one in range(IN_FLIGHT)))

    @property
    def done(self) -> bool:
        return len(self.heard) >= len(self.expected)


def test_a_thousand_connections_with_a_hundred_messages_in_flight_each(
    child: Callable[..., Any], visitor: Any
) -> None:
    """Nothing is lost or reordered, one in ten reads late, and the service stays small."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    server = child(
        "--listen", TCP, "--protocol", "lines", "--greeting", "Hello{name}", "--deadline", "60", "--drain", "0"
    )
    (port,) = server.ports()
    before = server.rss()
    talkers = [_Talker(port, number) for number in range(CONNECTIONS)]
    visitor.opened.extend(talker.sock for talker in talkers)
    for talker in talkers:
        talker.expected = talker.expected.replace(b"Hello\r\n", b"Hello127.0.0.1\r\n", 1)
        talker.say()
    for slow in (False, True):
        waiting = [talker for talker in talkers if talker.slow == slow]
        with selectors.DefaultSelector() as selector:
            for talker in waiting:
                selector.register(talker.sock, selectors.EVENT_READ, talker)
            while waiting and (ready := selector.select(10)):
                for key, _ in ready:
                    part = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    assert part, "the connection was closed"
                    key.data.heard += part
                waiting = [talker for talker in waiting if not talker.done]
        assert not waiting
    assert all(talker.heard == talker.expected for talker in talkers)
    assert server.rss() - before < CONNECTIONS * 32 * 1024
    server.stop()
