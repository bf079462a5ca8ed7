"""Sockets that a service has already are found by what they are bound to."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from typing import NoReturn

import pytest
from twisted.internet.error import CannotListenError

from greetsvc.net.bound import BoundSockets, BoundTo

TCP, UDP = BoundTo("tcp", "127.0.0.1", 8088), BoundTo("udp", "127.0.0.1", 8088)


@pytest.fixture
def made() -> Iterator[list[socket.socket]]:
    """Sockets that are closed at the end."""
    found: list[socket.socket] = []
    yield found
    for one in found:
        one.close()


def _sock(made: list[socket.socket]) -> socket.socket:
    made.append(socket.socket())
    made[-1].setblocking(False)
    return made[-1]


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_a_held_socket_is_duplicated_once_and_another_is_made(made: list[socket.socket]) -> None:
    held = _sock(made)
    sockets = BoundSockets([(TCP, held)])
    first = sockets.get(TCP, lambda: _sock(made))
    second = sockets.get(TCP, lambda: _sock(made))
    third = sockets.get(UDP, lambda: _sock(made))
    made.append(first)
    assert first is not held
    assert _inode(first) == _inode(held)
    assert first.gettimeout() == 0
    assert len({_inode(one) for one in (first, second, third)}) == 3
    assert sockets.inherited == {first: held}
    assert sockets.bound == [(TCP, first), (TCP, second), (UDP, third)]


@pytest.mark.parametrize(
    "other",
    [UDP, BoundTo("tcp", "127.0.0.2", 8088), BoundTo("tcp", "127.0.0.1", 1), BoundTo("tcp", "::", 8088, True)],
)
def test_a_socket_that_is_bound_to_something_else_is_not_taken(other: BoundTo, made: list[socket.socket]) -> None:
    fresh = _sock(made)
    assert BoundSockets([(TCP, _sock(made))]).get(other, lambda: fresh) is fresh


def test_a_closed_socket_is_not_taken(made: list[socket.socket]) -> None:
    held, fresh = _sock(made), _sock(made)
    held.close()
    assert BoundSockets([(TCP, held)]).get(TCP, lambda: fresh) is fresh


def test_without_a_descriptor_it_is_as_if_the_address_could_not_be_bound(made: list[socket.socket]) -> None:
    class Full(socket.socket):
        def dup(self) -> NoReturn:
            raise OSError(errno.EMFILE, "Too many open files")

    made.append(Full())
    sockets = BoundSockets([(TCP, made[0])])
    with pytest.raises(CannotListenError, match="Too many open files"):
        sockets.get(TCP, lambda: _sock(made))
    assert not sockets.bound


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
        (("fe80::1%", False), HERE, False),
        (("localhost", False), HERE, False),
        (("localhost", False), ("localhost", False), True),
    ],
)
def test_addresses_overlap(one: tuple[str, bool], other: tuple[str, bool], overlaps: bool) -> None:
    first, second = (BoundTo("tcp", host, 7, v6only) for host, v6only in (one, other))
    assert first.overlaps(second) is second.overlaps(first) is overlaps


def test_a_held_socket_is_compared_by_the_address_that_it_really_has(made: list[socket.socket]) -> None:
    sock = _sock(made)
    sock.bind(("127.0.0.1", 0))
    where = BoundTo("tcp", "localhost", 0).of(sock)
    assert where == BoundTo("tcp", *sock.getsockname())
    made.append(socket.socket(socket.AF_UNIX))
    assert BoundTo("unix", "/x").of(made[-1]) == BoundTo("unix", "/x")


def test_a_held_socket_that_was_cleared_is_not_taken(made: list[socket.socket]) -> None:
    """It was in the way of another listener; the one that wanted it gets the error of a new one."""
    held = _sock(made)
    held.bind(("127.0.0.1", 0))
    place = BoundTo("tcp", "", held.getsockname()[1])
    tries = 0

    def make() -> socket.socket:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise CannotListenError("", place.port, OSError(errno.EADDRINUSE, "in use"))
        return _sock(made)

    def clear(_place: BoundTo, _but: object) -> bool:
        held.close()
        return True

    sockets = BoundSockets([(BoundTo("tcp", "127.0.0.1", place.port), held)], clear=clear)
    first = sockets.get(place, make)
    second = sockets.get(BoundTo("tcp", "127.0.0.1", place.port), make)
    assert len({first, second, held}) == 3


@pytest.mark.parametrize(
    ("kind", "port", "overlaps"),
    [("tcp", 7, True), ("admin/tcp", 7, True), ("udp", 7, False), ("tcp", 8, False), ("unix", 0, False)],
)
def test_only_the_same_transport_and_port_are_in_the_way(kind: str, port: int, overlaps: bool) -> None:
    first, second = BoundTo("tcp", "", 7), BoundTo(kind, "127.0.0.1", port)
    assert first.overlaps(second) is second.overlaps(first) is overlaps
    assert BoundTo("udp/1", "", 7).overlaps(BoundTo("udp", "127.0.0.1", 7))
    assert not BoundTo("tcp", "").overlaps(BoundTo("tcp", ""))
