"""An answer leaves from the address that was asked, on a host with several addresses and links."""

from __future__ import annotations

import socket
import subprocess
from typing import Any

from tests.support.service import ask

GREETING = "hello from {local_host} to {peer_host}"


def test_requests_to_a_second_ipv6_address_are_answered_from_it(child: Any, in_namespace: Any) -> None:
    def inside() -> None:
        for address in ("2001:db8::1/128", "2001:db8::2/128"):
            subprocess.run(["ip", "address", "add", address, "dev", "lo", "nodad"], check=True)
        server = child("--greeting", GREETING)
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
