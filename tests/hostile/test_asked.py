"""An answer leaves from the address that was asked, and what was sent to a group is not answered."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

GREETING = b"hello from {local_host} to {peer_host}"


def ask(host: str, port: int, family: socket.AddressFamily = socket.AF_INET, source: str = "") -> bytes:
    """A connected socket hears only the address that it asked."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        if source:
            sock.bind((source, 0))
        sock.connect((host, port))
        sock.send(b"hello")
        return sock.recv(1000)


@pytest_twisted.ensureDeferred
async def test_wildcard_sockets_answer_from_the_address_that_was_asked(serve: Any) -> None:
    ours = serve("udp:0", "udp:0:interface=\\:\\:", greeting=GREETING.decode())
    for port in ours.ports:
        for host in ("127.0.0.1", "127.0.0.2", "127.9.8.7"):
            said = await deferToThread(ask, host, port, source="127.3.3.3")
            assert said == f"hello from {host} to 127.3.3.3".encode()
    assert await deferToThread(ask, "::1", ours.ports[1], socket.AF_INET6) == b"hello from ::1 to ::1"


@pytest.mark.lab
def test_a_second_ipv6_address_is_answered_from_there(child: Any, in_namespace: Any) -> None:
    def inside() -> None:
        for address in ("2001:db8::1/128", "2001:db8::2/128"):
            subprocess.run(["ip", "address", "add", address, "dev", "lo", "nodad"], check=True)
        server = child("--greeting", GREETING.decode())
        server.ports(4)
        for host in ("2001:db8::1", "2001:db8::2", "::1"):
            said = ask(host, 8088, socket.AF_INET6, "2001:db8::1")
            assert said == f"hello from {host} to 2001:db8::1".encode()
        assert ask("127.0.0.2", 8088) == b"hello from 127.0.0.2 to 127.0.0.1"
        # From a scoped address of a link, on that link.
        subprocess.run(["ip", "link", "add", "here", "type", "veth", "peer", "name", "there"], check=True)
        for link, number in (("here", 1), ("there", 2)):
            subprocess.run(["ip", "link", "set", link, "addrgenmode", "none", "up"], check=True)
            subprocess.run(["ip", "address", "add", f"fe80::{number}/64", "dev", link, "nodad"], check=True)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(3)
            index = socket.if_nametoindex("here")
            sock.connect(("fe80::1", 8088, 0, index))
            sock.send(b"hello")
            assert sock.recv(1000).startswith(b"hello from fe80::1 to fe80::1")
        assert server.stop() == 0

    in_namespace(inside)


@pytest_twisted.ensureDeferred
async def test_broadcast_and_multicast_are_not_answered(serve: Any, until: Any) -> None:
    ours = serve("udp:0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.bind(("127.0.0.1", 0))
        for number, group in enumerate(("127.255.255.255", "224.0.0.1"), 1):
            sock.sendto(b"hello", (group, ours.ports[0]))
            await until(lambda number=number: ours.ledger.refused["group"] == number)
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.recv(1000)
    assert not ours.ledger.visits
