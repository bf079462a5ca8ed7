"""Makes every listening socket: bound, non-blocking, and for streams listening.

Binding is a step of its own, so that a service can bind before it forks and drops its privileges, and read only
afterwards.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from twisted.internet.error import CannotListenError
from twisted.logger import Logger

__all__ = [
    "MAX_BACKLOG",
    "UnixPath",
    "adopted_socket",
    "adopted_stream_socket",
    "datagram_socket",
    "ipv6_works",
    "kernel_backlog",
    "reason",
    "stream_socket",
    "udp_sibling",
    "unix_datagram_socket",
    "unix_stream_socket",
]

_log = Logger()

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)

MAX_BACKLOG = 65535
"""The backlog given to ``listen``; the kernel silently reduces it to its own limit (listen(2))."""


def ipv6_works() -> bool:
    """Whether an IPv6 socket can be bound on this machine."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def kernel_backlog() -> tuple[int, bool]:
    """The backlog of a stream socket, and whether the kernel reduced it (``net.core.somaxconn``)."""
    try:
        # Bytes: after twistd gave up root, a codec's file may not be readable.
        limit = int(Path("/proc/sys/net/core/somaxconn").read_bytes())
    except (OSError, ValueError):
        limit = socket.SOMAXCONN
    return min(limit, MAX_BACKLOG), limit < MAX_BACKLOG


def reason(verb: str, error: OSError) -> str:
    """The name under which a failed system call is counted: ``accept-EMFILE``, ``receive-ECONNREFUSED``."""
    return f"{verb}-{errno.errorcode.get(error.errno or 0, 'unknown')}"


def stream_socket(
    host: str,
    port: int,
    *,
    backlog: int = MAX_BACKLOG,
    v6only: bool = False,
    reuse_address: bool = True,
    reuse_port: bool = False,
) -> socket.socket:
    """A TCP socket that listens on ``host`` (empty for every IPv4 address; a name is resolved) and ``port``.

    ``v6only`` keeps an IPv6 socket from taking IPv4 too (RFC 3493 5.3); the last two are SO_REUSEADDR and
    SO_REUSEPORT (socket(7)). Raises `CannotListenError`.
    """
    options = [socket.SO_REUSEADDR] * reuse_address + [socket.SO_REUSEPORT] * reuse_port
    sock = _inet_socket(socket.SOCK_STREAM, host, port, v6only, options)
    return _or_closed(sock, host, port, lambda: sock.listen(backlog))


def datagram_socket(host: str, port: int, *, v6only: bool = False) -> socket.socket:
    """A UDP socket bound to ``host`` and ``port``, as in `stream_socket`. Raises `CannotListenError`."""
    return _inet_socket(socket.SOCK_DGRAM, host, port, v6only)


def udp_sibling(sock: socket.socket) -> socket.socket:
    """Another UDP socket bound as ``sock`` is: the kernel spreads flows over both (SO_REUSEPORT, socket(7)).

    ``sock`` was bound without that option, so that no other program's socket could be on the port. Raises `OSError`.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sibling = socket.socket(sock.family, socket.SOCK_DGRAM)
    try:
        sibling.setblocking(False)
        sibling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            v6only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            sibling.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        sibling.bind(sock.getsockname())
    except OSError:
        sibling.close()
        raise
    return sibling


def unix_stream_socket(
    path: str, *, mode: int = 0o666, backlog: int = MAX_BACKLOG, replace: bool = True
) -> socket.socket:
    """A UNIX stream socket that listens on ``path`` with file permissions ``mode``.

    With ``replace`` the file of a socket that no process holds is replaced. Raises `CannotListenError`, with EEXIST
    for such a file that is not replaced, EADDRINUSE for one that is held, and ENOTSOCK for any other file.
    """
    sock = _unix_socket(socket.SOCK_STREAM, path, mode, replace)
    return _or_closed(sock, "unix", path, lambda: sock.listen(backlog))


def unix_datagram_socket(path: str, *, mode: int = 0o666, replace: bool = True) -> socket.socket:
    """A UNIX datagram socket bound to ``path``, as in `unix_stream_socket`. Raises `CannotListenError`."""
    return _unix_socket(socket.SOCK_DGRAM, path, mode, replace)


def adopted_socket(descriptor: int) -> socket.socket:
    """A duplicate of a socket that another program made: a listening stream socket, or a bound datagram socket.

    Its family is AF_INET, AF_INET6 or AF_UNIX. Raises `ValueError` where the descriptor is another socket, and
    `OSError` where it is none.
    """
    duplicate = os.dup(descriptor)
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
    wrong = _unfit(sock)
    if wrong:
        sock.close()
        raise ValueError(f"descriptor {descriptor}, which was passed, is {wrong}")
    sock.setblocking(False)
    return sock


def adopted_stream_socket(descriptor: int, family: int) -> socket.socket:
    """As `adopted_socket`, for a stream socket of this family."""
    sock = adopted_socket(descriptor)
    wrong = None
    if sock.type != socket.SOCK_STREAM:
        wrong = f"{sock.type.name}, not SOCK_STREAM"
    elif sock.family != family:
        wrong = f"{sock.family.name}, not {socket.AddressFamily(family).name}"
    if wrong is not None:
        sock.close()
        raise ValueError(f"descriptor {descriptor}, which was passed, is {wrong}")
    return sock


def _unfit(sock: socket.socket) -> str:
    """What a passed socket is that nobody can visit; empty if there is no fault in it."""
    family = getattr(sock.family, "name", sock.family)
    if sock.family not in _FAMILIES:
        return f"{family}, not one of {', '.join(each.name for each in _FAMILIES)}"
    if sock.type == socket.SOCK_STREAM:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return "" if listens else "a socket that does not listen"
    if sock.type != socket.SOCK_DGRAM:
        return f"{getattr(sock.type, 'name', sock.type)}, not SOCK_STREAM or SOCK_DGRAM"
    if sock.family != socket.AF_UNIX and sock.proto not in {0, socket.IPPROTO_UDP}:  # ping(8) has such sockets too
        return f"a socket of protocol {sock.proto}, not UDP"
    name = sock.getsockname()
    if not (name if sock.family == socket.AF_UNIX else name[1]):
        return "a socket that is not bound"
    with suppress(OSError):
        sock.getpeername()
        return "a socket that is connected to one peer"
    return ""


class UnixPath:
    """The file of a bound UNIX socket; none, if the name is an abstract one (unix(7)).

    A relative path is taken from the folder that is the current one now: a daemon changes to another.
    """

    def __init__(self, path: str) -> None:
        self._path = path if path[:1] in {"", "\0"} else os.path.abspath(path)  # noqa: PTH100 - follows no links
        self._identity = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path, follow_symlinks=False)  # noqa: PTH116 - Path("") is "."
        except (OSError, ValueError):
            return None
        return found.st_dev, found.st_ino

    def remove(self) -> None:
        """Remove the file, unless another one has taken its place. Logs a warning where that is not allowed."""
        if self._identity is not None and self._look() == self._identity:
            try:
                os.unlink(self._path)  # noqa: PTH108 - as above
            except OSError as error:
                _log.warn("{path} is left behind: {error}", path=self._path, error=error.strerror)
        self._identity = None


def _inet_socket(
    kind: socket.SocketKind, host: str, port: int, v6only: bool, options: Collection[int] = ()
) -> socket.socket:
    try:
        if not 0 <= port <= 65535:  # getaddrinfo takes it modulo 65536
            raise ValueError("the port must be a number from 0 to 65535")
        where = host or "0.0.0.0"
        # As bytes where that is the same: for text Python loads the tables of IDNA.
        found = socket.getaddrinfo(where.encode() if where.isascii() else where, port, 0, kind, 0, socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        sock = socket.socket(family, kind)
    except (OSError, UnicodeError, ValueError) as error:
        raise CannotListenError(host, port, error) from error

    def bind() -> None:
        sock.setblocking(False)
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        sock.bind(address)

    return _or_closed(sock, host, port, bind)


def _unix_socket(kind: socket.SocketKind, path: str, mode: int, replace: bool) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_UNIX, kind)
    except OSError as error:
        raise CannotListenError("unix", path, error) from error
    sock.setblocking(False)
    return _or_closed(sock, "unix", path, lambda: _bind_unix(sock, path, mode, replace))


def _or_closed(sock: socket.socket, host: str, port: int | str, step: Callable[[], object]) -> socket.socket:
    """Run ``step`` and return the socket. If it fails, close the socket and raise `CannotListenError`."""
    try:
        step()
    except (OSError, OverflowError, ValueError) as error:
        sock.close()
        raise CannotListenError(host, port, error) from error
    return sock


def _bind_unix(sock: socket.socket, path: str, mode: int, replace: bool) -> None:
    if "\0" in path and not path.startswith("\0"):  # the kernel would end the path there
        raise ValueError("the path holds a NUL character")
    # The file has ``mode`` from the moment it exists, which a later chmod would not give it.
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or path.startswith("\0"):
            raise
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.ENOTSOCK, "a file, folder or link that is no socket is there") from error
        if not _is_stale(path):
            raise
        if not replace:
            raise OSError(errno.EEXIST, "a socket file that no process holds is there") from error
        os.unlink(path)  # noqa: PTH108
        sock.bind(path)
    finally:
        os.umask(before)


def _is_stale(path: str) -> bool:
    """Whether no process holds the UNIX socket at ``path``.

    Asked with a datagram socket: the kernel refuses it where nothing is bound to the file, and says that the type is
    wrong (EPROTOTYPE) where a stream is. So one that does not listen yet is seen too, and one of another network
    namespace, and a file that was renamed or linked after the bind.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED
