"""The limits on open connections, in all and of one source, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from greetsvc.net.proxy.header import encode_v1, encode_v2
from tests.support.waiting import until

GREETING = b"Thank you for connecting\r\n"
TCP = "tcp:0:interface=127.0.0.1"


@pytest_twisted.ensureDeferred
async def test_connections_over_the_limit_are_closed_at_once_and_counted(
    serve: Any, visitor: Any, megabyte: str
) -> None:
    ours = serve(TCP, greeter=megabyte, max_connections=5)
    (port,) = ours.ports
    held = [visitor.connect(port, window=4096) for _ in range(5)]
    await until(lambda: ours.service.admission.open == 5)
    for number in (1, 2, 3):
        assert await deferToThread(visitor.visit, port, said=b"unread") == b""
        assert ours.ledger.refused == {"max-connections": number}
    assert len(await deferToThread(visitor.read, held.pop())) == 1_000_000
    await until(lambda: ours.service.admission.open == 4)
    assert len(await deferToThread(visitor.visit, port)) == 1_000_000


@pytest_twisted.ensureDeferred
async def test_lingering_connections_count_as_open(serve: Any, visitor: Any) -> None:
    ours = serve(TCP, max_connections=3, linger=0.5)
    (port,) = ours.ports
    for _ in range(3):
        assert await deferToThread(visitor.connect(port).recv, 100) == GREETING
    assert ours.service.admission.open == 3
    assert await deferToThread(visitor.visit, port) == b""
    assert ours.ledger.refused == {"max-connections": 1}
    # Silent, they are let go after half a second.
    await until(lambda: not ours.service.admission.open)
    assert await deferToThread(visitor.visit, port) == GREETING


@pytest_twisted.ensureDeferred
async def test_a_source_is_a_slash_24_and_others_are_not_affected(serve: Any, visitor: Any) -> None:
    ours = serve(TCP, r"tcp:0:interface=\:\:", max_per_source=4)
    v4, dual = ours.ports
    # Mapped into IPv6 the same source is the same source.
    for number, port in enumerate((v4, dual, v4, dual), 1):
        assert await deferToThread(visitor.connect(port, source=f"127.5.5.{number}").recv, 100) == GREETING
    for port in (v4, dual):
        assert await deferToThread(visitor.visit, port, source="127.5.5.200") == b""
    assert ours.ledger.refused == {"max-per-source": 2}
    for source in ("127.5.6.1", "127.5.4.1"):
        assert await deferToThread(visitor.visit, v4, source=source) == GREETING


@pytest_twisted.ensureDeferred
async def test_loopback_is_exempt_only_while_the_limit_is_the_default(serve: Any, visitor: Any) -> None:
    ours = serve(TCP, linger=5)
    for _ in range(300):
        visitor.connect(ours.ports[0])
    assert await deferToThread(visitor.visit, ours.ports[0]) == GREETING
    assert not ours.ledger.refused
    limited = serve(TCP, linger=5, max_per_source=256)
    for _ in range(256):
        visitor.connect(limited.ports[0])
    assert await deferToThread(visitor.visit, limited.ports[0]) == b""
    assert limited.ledger.refused == {"max-per-source": 1}


@pytest.mark.parametrize("encode", [encode_v1, encode_v2])
@pytest_twisted.ensureDeferred
async def test_behind_a_proxy_the_named_source_is_charged(serve: Any, visitor: Any, encode: Any) -> None:
    ours = serve(f"proxy:{TCP}", max_per_source=2)
    (port,) = ours.ports

    def visit(source: str) -> bytes:
        sock = visitor.connect(port)
        sock.sendall(encode((source, 4000), ("192.0.2.1", 80)))
        return bytes(sock.recv(100))

    named = [f"203.0.113.{number}" for number in (1, 2)] + [f"2001:db8:0:1{number:02}::1" for number in (1, 2)]
    for source in named:
        assert await deferToThread(visit, source) == GREETING
    # Another way to write the same source is the same source.
    for source in ("203.0.113.99", "::ffff:203.0.113.7", "2001:db8:0:1ff::2"):
        with pytest.raises(ConnectionResetError):
            await deferToThread(visit, source)
    assert ours.ledger.refused == {"max-per-source": 3}
    assert await deferToThread(visit, "203.0.112.1") == GREETING


@pytest_twisted.ensureDeferred
async def test_an_ipv6_site_may_hold_eight_times_as_many_as_each_of_its_networks(serve: Any, visitor: Any) -> None:
    ours = serve(f"proxy:{TCP}", max_per_source=2)
    (port,) = ours.ports
    greeted = 0

    def visit(source: str) -> bool:
        sock = visitor.connect(port)
        sock.sendall(encode_v2((source, 4000), ("192.0.2.1", 80)))
        try:
            return bool(sock.recv(100) == GREETING)
        except ConnectionResetError:
            return False

    for number in range(30):
        greeted += await deferToThread(visit, f"2001:db8:0:{number:02x}00::1")
    assert greeted == 16
    assert ours.ledger.refused == {"max-per-source": 14}


@pytest_twisted.ensureDeferred
async def test_the_deadline_ends_a_connection_whatever_the_peer_does(serve: Any, visitor: Any, megabyte: str) -> None:
    """One reads nothing, one reads a byte now and then, one sends without end."""
    ours = serve(TCP, greeter=megabyte, deadline=1, linger=0.5)
    (port,) = ours.ports
    silent, reading, sending = (visitor.connect(port, window=4096) for _ in range(3))
    await until(lambda: ours.service.admission.open == 3)

    def bother() -> bool:
        try:
            reading.recv(1)
            sending.sendall(b"x" * 100)
        except OSError:
            pass
        return not ours.service.admission.open

    await until(bother)
    assert len(await deferToThread(visitor.read, silent)) < 1_000_000


@pytest_twisted.ensureDeferred
async def test_connections_that_have_not_sent_their_proxy_header_count_as_open(serve: Any, visitor: Any) -> None:
    ours = serve(f"proxy:{TCP}", max_connections=5, max_per_source=2)
    (port,) = ours.ports
    waiting = [visitor.connect(port) for _ in range(5)]
    assert await deferToThread(visitor.visit, port) == b""
    assert ours.ledger.refused == {"max-connections": 1}
    for number, sock in enumerate(waiting):
        sock.sendall(encode_v1((f"203.0.{number}.7", 4000), ("192.0.2.1", 80)))
        assert await deferToThread(sock.recv, 100) == GREETING
    await until(lambda: ours.service.admission.open == 5)
