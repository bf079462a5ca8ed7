"""Forged packets, which no ordinary socket sends."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from typing import Any

import pytest
import pytest_twisted

WE, VICTIM = "10.0.0.1", "10.0.0.77"


def forged(source: str, port: int, to: str, to_port: int) -> bytes:
    """An IPv4 packet with a UDP datagram that has no checksum, as it may (RFC 768)."""
    payload = b"hello"
    udp = struct.pack("!HHHH", port, to_port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", 0xFFFF - total - (total >> 16)) + head[12:] + udp


@pytest_twisted.ensureDeferred
async def test_requests_from_ports_of_services_are_not_answered(serve: Any) -> None:
    ours, wild = serve("udp:0:interface=127.0.0.1"), serve("udp:0")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for one in (ours, wild):
            to = one.ports[0]
            for port in (0, 1, 7, 19, 53, 123, 1023, to):
                raw.sendto(forged("127.0.0.9", port, "127.0.0.1", to), ("127.0.0.1", 0))
            await one.until_refused("port", 7)
            await one.until_refused("own-port", 1)
            assert one.ledger.refused.total() == 8
            assert not one.ledger.visits


class Wire:
    """The other end of a cable to the service's interface: sends packets on it, and reads what comes back."""

    def __init__(self) -> None:
        commands = (
            "link add here type veth peer name there",
            "link set here addrgenmode none up",
            "link set there addrgenmode none up",
            f"address add {WE}/24 dev here",
            "address add fe80::1/64 dev here nodad",
            "address add fe80::2/64 dev there nodad",
        )
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.sock.bind(("there", 0))
        self.sock.settimeout(0.5)
        self.mac = self.address("there")
        command = f"neighbour add {VICTIM} lladdr {self.mac.hex(':')} dev here"
        subprocess.run(["ip", *command.split()], check=True)

    def address(self, link: str) -> bytes:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((link, 0))
            return bytes(sock.getsockname()[4])

    def put(self, source: str, to: str = WE, port: int = 4000) -> bytes | None:
        """The packet that comes back, if any."""
        group = to != WE
        target = b"\xff" * 6 if group else self.address("here")
        self.sock.send(target + self.mac + b"\x08\x00" + forged(source, port, to, 8088))
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            try:
                frame, address = self.sock.recvfrom(2000)
            except TimeoutError:
                return None
            if address[2] != socket.PACKET_OUTGOING:
                return bytes(frame[14:])
        return None


def test_requests_from_impossible_sources_are_not_answered(child: Any, in_namespace: Any) -> None:
    def inside() -> None:
        wire = Wire()
        server = child("--listen", "udp:8088", "--listen", r"udp:8088:interface=\:\:")
        server.ports(2)
        with wire.sock:
            answer = wire.put(VICTIM)
            assert answer is not None
            assert answer[12:20] == socket.inet_aton(WE) + socket.inet_aton(VICTIM)
            for source in ("0.0.0.0", "127.0.0.1", WE, "10.0.0.255", "224.0.0.1", "255.255.255.255"):
                assert wire.put(source) is None, source
            for to in ("10.0.0.255", "255.255.255.255", "224.0.0.1"):
                assert wire.put(VICTIM, to) is None, to
            for port in (0, 7, 1023, 8088):
                assert wire.put(VICTIM, port=port) is None, port
            assert wire.put(VICTIM) is not None
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1)
            there = socket.if_nametoindex("there")
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, there)
            sock.bind(("fe80::2", 0, 0, there))
            sock.sendto(b"hello", ("ff02::1", 8088, 0, there))
            with pytest.raises(TimeoutError):
                sock.recv(100)
        assert server.stop() == 0

    in_namespace(inside)
