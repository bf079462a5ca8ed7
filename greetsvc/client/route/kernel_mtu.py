"""The packet sizes that the kernels of both ends have agreed on for a TCP connection. Pure.

They are limits: no longer packet is sent. Whether one of that size passes shows only when one is sent.
"""

from __future__ import annotations

from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.route.mtu import Mtu, Way
from greetsvc.wire import decode_record

__all__ = ["kernel_mtu"]

_TIMESTAMPS = 12  # bytes of the TCP header, which an MSS in use does not count (RFC 6691)


def kernel_mtu(result: Greeting | GreetFailed) -> Mtu:
    """What a probe over TCP tells of the IP packets in each direction, in bytes.

    Our kernel knows the path MTU, as far as ICMP has told, and the MSS that it may send; the server's is in its path
    record. The MSS that we offered limits the server, too.
    """
    sent = result.sent
    tcp = None if sent is None else sent.later or sent.tcp
    if sent is None or tcp is None or sent.mss is None:
        return Mtu(Way(words="this system does not tell"), Way(words="this system does not tell"))
    headers = 60 if sent.local is not None and ":" in sent.local.host else 40
    stamps = _TIMESTAMPS if tcp.timestamps else 0
    there = min(tcp.path_mtu, tcp.mss + stamps + headers)
    words = f"the path MTU that our kernel knows is {tcp.path_mtu}, and the MSS that it sends {tcp.mss}"
    record = decode_record(result.data) if isinstance(result, Greeting) else None
    ours = isinstance(result, Greeting) and result.path is not None and result.path.proxy is False
    back, more = sent.mss, f"we offered an MSS of {sent.mss}"
    if ours and record is not None and record.tcp is not None:
        back = min(back, record.tcp.mss + stamps)
        more += f", and the server sends {record.tcp.mss}"
    hole = True if tcp.out_of_order and not isinstance(result, Greeting) else None
    if hole:
        more += "; longer ones than the last that came are lost: a black hole"
    return Mtu(Way(there, words, "most"), Way(back + headers, more, "most"), black_hole=hole)
