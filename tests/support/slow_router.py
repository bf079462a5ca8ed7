"""A router that is slow: it passes IPv4 packets on after a delay. Run as a program in a router's namespace, as root.

The kernel's own forwarding must be off there. The TTL is not lowered.
"""

from __future__ import annotations

import heapq
import os
import select
import socket
import struct
import sys
import time


def checked(packet: bytes) -> bytes:
    """The packet with the checksum of its TCP or UDP header: a virtual link leaves it to the hardware."""
    start = (packet[0] & 15) * 4
    at = {6: start + 16, 17: start + 6}.get(packet[9])
    if at is None:
        return packet
    packet = packet[:at] + b"\0\0" + packet[at + 2 :]
    body = packet[start:]
    pseudo = packet[12:20] + struct.pack("!BBH", 0, packet[9], len(body)) + body + b"\0" * (len(body) % 2)
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[:at] + struct.pack("!H", ~total & 0xFFFF) + packet[at + 2 :]


def main(delay: float, *own: str) -> None:
    """Pass on what is not for our ``own`` addresses, ``delay`` seconds later."""
    arriving = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    leaving = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    waiting: list[tuple[float, bytes]] = []
    os.write(1, b"passing\n")
    while True:
        patience = None if not waiting else max(0.0, waiting[0][0] - time.monotonic())
        if select.select([arriving], [], [], patience)[0]:
            packet, (_, _, kind, *_) = arriving.recvfrom(65535)
            if kind == socket.PACKET_HOST and socket.inet_ntoa(packet[16:20]) not in own:
                heapq.heappush(waiting, (time.monotonic() + delay, packet[: int.from_bytes(packet[2:4], "big")]))
        while waiting and waiting[0][0] <= time.monotonic():
            packet = checked(heapq.heappop(waiting)[1])
            leaving.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
