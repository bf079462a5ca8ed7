"""Every listening socket is made here: bound, non-blocking, and for streams listening.

Binding is apart from serving, so that a service can bind before it forks and drops its privileges, and start
to read only afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet.error import CannotListenError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "UnixPath",
    "datagram_socket",
    "family_of",
    "ipv6_works",
    "kernel_backlog",
    "stream_socket",
    "unix_datagram_socket",
    "unix_stream_socket",
]

_LONGEST_BACKLOG = 65535
"""What is asked of ``listen``; the kernel cuts it to its own limit without a word (listen(2))."""


def family_of(host: str) -> socket.AddressFamily:
    """The address family of a literal address; the empty host is every IPv4 address.

    Raises `ValueError` for what is not a literal address: names are not bound to.
    """
    literal, _, scope = host.partition("%")
    if not host:
        return socket.AF_INET
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, literal)
            if family is socket.AF_INET6 or not scope:
                return family
    raise ValueError(f"{host!r} is not an IPv4 or IPv6 address")


def ipv6_works() -> bool:
    """Whether this machine lets an IPv6 socket be bound."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def kernel_backlog() -> tuple[int, bool]:
    """The backlog a stream socket gets, and whether the kernel cut it (``net.core.somaxconn``)."""
    try:
        most = int(Path("/proc/sys/net/core/somaxconn").read_text("ascii"))
    except (OSError, ValueError):
        most = socket.SOMAXCONN
    return min(most, _LONGEST_BACKLOG), most < _LONGEST_BACKLOG


def stream_socket(host: str, port: int, *, backlog: int = _LONGEST_BACKLOG, v6only: bool = False) -> socket.socket:
    """A TCP socket that listens on ``host`` (a literal address, or empty for every IPv4 one) and ``port``.

    ``v6only`` keeps an IPv6 socket from taking IPv4 too (RFC 3493 5.3). Raises `CannotListenError`.
    """

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind_inet(sock, host, port, v6only=v6only)
        sock.listen(backlog)

    return _made(lambda: family_of(host), socket.SOCK_STREAM, host, port, prepare)


def datagram_socket(host: str, port: int, *, v6only: bool = False) -> socket.socket:
    """A UDP socket bound to ``host`` and ``port``, as in `stream_socket`. Raises `CannotListenError`."""
    return _made(
        lambda: family_of(host),
        socket.SOCK_DGRAM,
        host,
        port,
        lambda sock: _bind_inet(sock, host, port, v6only=v6only),
    )


def unix_stream_socket(path: str, *, mode: int = 0o666, backlog: int = _LONGEST_BACKLOG) -> socket.socket:
    """A UNIX stream socket that listens on ``path`` with file permissions ``mode``.

    A socket file on which nobody listens any more is taken over. Raises `CannotListenError`.
    """

    def prepare(sock: socket.socket) -> None:
        _bind_unix(sock, path, mode)
        sock.listen(backlog)

    return _made(lambda: socket.AF_UNIX, socket.SOCK_STREAM, "unix", path, prepare)


def unix_datagram_socket(path: str, *, mode: int = 0o666) -> socket.socket:
    """A UNIX datagram socket bound to ``path``, as in `unix_stream_socket`. Raises `CannotListenError`."""
    return _made(
        lambda: socket.AF_UNIX, socket.SOCK_DGRAM, "unixgram", path, lambda sock: _bind_unix(sock, path, mode)
    )


class UnixPath:
    """The file of a bound UNIX socket, which is removed only while it is still the same file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path, follow_symlinks=False)  # noqa: PTH116 - the same call also with "@" names
        except (OSError, ValueError):
            return None
        return found.st_dev, found.st_ino

    def remove(self) -> None:
        """Remove the file, unless another socket took its place. Raises `OSError` where that is not allowed."""
        if self._identity is not None and self._look() == self._identity:
            os.unlink(self.path)  # noqa: PTH108
        self._identity = None


def _made(
    family: Callable[[], socket.AddressFamily],
    kind: socket.SocketKind,
    host: str,
    port: int | str,
    prepare: Callable[[socket.socket], None],
) -> socket.socket:
    """A non-blocking socket that went through ``prepare``, or none left open and a `CannotListenError`."""
    try:
        sock = socket.socket(family(), kind)
    except (OSError, ValueError) as error:
        raise CannotListenError(host, port, error) from error
    try:
        sock.setblocking(False)
        prepare(sock)
    except (OSError, OverflowError, ValueError) as error:
        sock.close()
        raise CannotListenError(host, port, error) from error
    return sock


def _bind_inet(sock: socket.socket, host: str, port: int, *, v6only: bool) -> None:
    if sock.family is socket.AF_INET:
        sock.bind((host, port))
        return
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
    sock.bind(socket.getaddrinfo(host, port, sock.family, sock.type, 0, socket.AI_NUMERICHOST)[0][4])


def _bind_unix(sock: socket.socket, path: str, mode: int) -> None:
    with _permissions(mode):
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path, sock.type):
                raise
            os.unlink(path)  # noqa: PTH108
            sock.bind(path)


@contextmanager
def _permissions(mode: int) -> Iterator[None]:
    """Files made inside have ``mode`` from their first moment on."""
    before = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(before)


def _is_stale(path: str, kind: socket.SocketKind) -> bool:
    """Whether ``path`` is the file of a UNIX socket that nobody holds any more."""
    if path.startswith("\0") or not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED
