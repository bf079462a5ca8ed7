"""An answer leaves from the address that the request was sent to; requests to a group are not answered."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.service import ask

GREETING = b"hello from {local_host} to {peer_host}"


@pytest_twisted.ensureDeferred
async def test_wildcard_sockets_answer_from_the_address_that_the_request_was_sent_to(serve: Any) -> None:
    ours = serve("udp:0", "udp:0:interface=\\:\\:", greeting=GREETING.decode())
    for port in ours.ports:
        for host in ("127.0.0.1", "127.0.0.2", "127.9.8.7"):
            said = await deferToThread(ask, host, port, source="127.3.3.3")
            assert said == f"hello from {host} to 127.3.3.3".encode()
    assert await deferToThread(ask, "::1", ours.ports[1], socket.AF_INET6) == b"hello from ::1 to ::1"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("interface", "groups"),
    [
        ("", ("127.255.255.255", "224.0.0.1")),
        (":interface=\\:\\:", ("127.255.255.255",)),
        (":interface=\\:\\:ffff\\:0.0.0.0", ("127.255.255.255",)),
        (":interface=127.255.255.255", ("127.255.255.255",)),
    ],
)
async def test_broadcast_and_multicast_are_not_answered(serve: Any, interface: str, groups: tuple[str, ...]) -> None:
    ours = serve(f"udp:0{interface}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.bind(("127.0.0.1", 0))
        for number, group in enumerate(groups, 1):
            sock.sendto(b"hello", (group, ours.ports[0]))
            await ours.until_refused("group", number)
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.recv(1000)
    assert not ours.ledger.visits
