"""What sockets are bound to, and which are in each other's way."""

from __future__ import annotations

import pytest

from greetsvc.net.bound import BoundTo

WILD, HERE, SIX, DUAL = ("", False), ("127.0.0.1", False), ("::", True), ("::", False)


@pytest.mark.parametrize(
    ("one", "other", "overlaps"),
    [
        (WILD, HERE, True),
        (("0.0.0.0", False), HERE, True),
        (HERE, HERE, True),
        (HERE, ("127.0.0.2", False), False),
        (SIX, ("::1", True), True),
        (SIX, DUAL, True),
        (("::1", False), ("::2", False), False),
        (("::1", False), HERE, False),
        (SIX, HERE, False),
        (DUAL, HERE, True),
        (DUAL, WILD, True),
        (("fe80::1%lo", True), ("::", True), True),
        (("localhost", False), HERE, True),
    ],
)
def test_addresses_overlap(one: tuple[str, bool], other: tuple[str, bool], overlaps: bool) -> None:
    first, second = (BoundTo("tcp", host, 7, v6only) for host, v6only in (one, other))
    assert first.overlaps(second) is second.overlaps(first) is overlaps


@pytest.mark.parametrize(
    ("kind", "port", "overlaps"),
    [("tcp", 7, True), ("admin/tcp", 7, True), ("udp", 7, False), ("tcp", 8, False), ("unix", 0, False)],
)
def test_only_the_same_transport_and_port_are_in_the_way(kind: str, port: int, overlaps: bool) -> None:
    first, second = BoundTo("tcp", "", 7), BoundTo(kind, "127.0.0.1", port)
    assert first.overlaps(second) is second.overlaps(first) is overlaps
    assert BoundTo("udp/1", "", 7).overlaps(BoundTo("udp", "127.0.0.1", 7))
    assert not BoundTo("tcp", "").overlaps(BoundTo("tcp", ""))
