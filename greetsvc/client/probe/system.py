"""Failures that the system reports to a probe: faults of this host, or what ICMP said about the path."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from greetsvc.client.evidence.icmp import Icmp, icmp_of
from greetsvc.client.words import NO_FREE_PORT, NO_IPV6, NO_ROUTE
from greetsvc.net.linux import error_queue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greetsvc.address import Address
    from greetsvc.client.basics import Basics
    from greetsvc.client.options import ProbeOptions
    from greetsvc.client.words import Closed

__all__ = ["first_icmp", "no_port", "own_host", "read_icmp", "system_failed", "system_words"]

_UNREACHABLE = frozenset([errno.ENETUNREACH, errno.EHOSTUNREACH])


_Failed_co = TypeVar("_Failed_co", bound=Exception, covariant=True)


class _Failing(Protocol[_Failed_co]):
    """The steps of a probe, which say what a failure is."""

    peer: Address | None

    @property
    def options(self) -> ProbeOptions | Basics: ...

    def failed(
        self, number: int, why: str, closed: Closed | None = None, *, icmp: Icmp | None = None
    ) -> _Failed_co: ...


def system_failed(timeline: _Failing[_Failed_co], number: int, icmp: Icmp | None = None) -> _Failed_co:
    """The result when a system call failed, or ``icmp`` ended the step."""
    host = timeline.peer.host if timeline.peer else ""
    words = system_words(number, icmp, host=host, port_is_ours=timeline.options.source_port is not None)
    return timeline.failed(number, words, icmp=icmp)


def system_words(number: int, icmp: Icmp | None = None, *, host: str, port_is_ours: bool = False) -> str:
    """The system's words for an errno, and what is known more.

    :param host: the address that was asked.
    :param port_is_ours: whether we chose the source port.
    """
    words, more = os.strerror(number), ""
    if icmp is not None:
        more = icmp.words
    elif number == errno.EADDRNOTAVAIL and not port_is_ours:
        more = NO_IPV6 if ":" in host and not _has_ipv6() else NO_FREE_PORT
    elif number in _UNREACHABLE and error_queue.AVAILABLE:
        more = NO_ROUTE  # what came from the path would be in the error queue
    return f"{words}: {more}" if more else words


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def no_port(sock: socket.SocketType, number: int) -> bool:
    """Whether an unbound UDP socket failed because no source port is free: the kernel then says EAGAIN."""
    return number == errno.EAGAIN and sock.family != socket.AF_UNIX and not sock.getsockname()[1]


def read_icmp(sock: socket.SocketType, sockaddr: tuple[Any, ...]) -> tuple[int, Icmp | None]:
    """The errno of the first error in a socket's queue, and the ICMP message behind it; 0 and None without one.

    "Too long" is passed over: the system has noted the path's MTU, and what is sent again may pass.
    """
    if not error_queue.AVAILABLE or sock.family == socket.AF_UNIX:
        return 0, None
    return first_icmp(error_queue.read(sock), sock, sockaddr)


def first_icmp(
    errors: Iterable[error_queue.QueuedError], sock: socket.SocketType, sockaddr: tuple[Any, ...]
) -> tuple[int, Icmp | None]:
    """The same for ``errors`` that were read."""
    for error in errors:
        if error.errno != errno.EMSGSIZE:
            return error.errno, icmp_of(error, sockaddr[0], own_host(sock, sockaddr))
    return 0, None


def own_host(sock: socket.SocketType, sockaddr: tuple[Any, ...]) -> str | None:
    """The source address of a socket; one that is not connected does not know it, so another is connected."""
    own = str(sock.getsockname()[0])
    if own not in ("0.0.0.0", "::"):
        return own
    try:
        with socket.socket(sock.family, socket.SOCK_DGRAM) as scout:
            scout.connect(sockaddr)
            return str(scout.getsockname()[0])
    except OSError:
        return None
