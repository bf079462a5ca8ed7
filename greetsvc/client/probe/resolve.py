"""Look up a host name: the result is one address, the first in the system's order."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet import defer
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure

from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import NO_THREAD, GreetFailed
from greetsvc.client.target import Target
from greetsvc.visit import Address

__all__ = ["ResolveReactor", "SocketAddress", "resolve"]

T = TypeVar("T")

_FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_UNKNOWN_NAME = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)


class ResolveReactor(IReactorTime, IReactorFromThreads):
    """What a look-up needs of a reactor."""


@frozen
class SocketAddress:
    """An address as the system takes it: the family, and the tuple for ``connect`` or ``sendto``."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def address(self) -> Address:
        """Host and port; a link-local IPv6 address with its zone."""
        host, port, *rest = self.sockaddr
        zone = rest[1] if len(rest) == 2 else 0
        return Address(f"{host}%{zone}" if zone else host, port)


async def resolve(timeline: Timeline, reactor: ResolveReactor) -> SocketAddress:
    """The address of the target; a name is looked up in a thread, within the time-out.

    :raises GreetFailed: when there is none.
    """
    target, family = timeline.target, _FAMILIES[timeline.options.family]
    try:
        return _addresses(target, family, socket.AI_NUMERICHOST)[0]
    except OSError as error:
        if ":" in target.host:  # an IPv6 address whose zone is no interface of ours: the resolver cannot help
            raise _failed(timeline, error) from None
    timeline.enter("resolve")
    timeline.trace("*", f"resolving {target.host}")
    try:
        found = await _look_up(reactor, target, family).addTimeout(timeline.remaining(), reactor)
    except defer.TimeoutError:
        raise timeline.failed(errno.ETIMEDOUT, f"no answer from the resolver {timeline.within}") from None
    except OSError as error:
        raise _failed(timeline, error) from None
    except RuntimeError:  # that of `Thread.start`
        raise timeline.failed(errno.EAGAIN, NO_THREAD) from None
    timeline.leave()
    timeline.found = list(dict.fromkeys(each.address for each in found))
    timeline.trace("*", f"{target.host} is {found[0].address.host}, the first of {len(found)}")
    return found[0]


def _failed(timeline: Timeline, error: OSError) -> GreetFailed:
    if isinstance(error, socket.gaierror):
        number = errno.ENOENT if error.errno in _UNKNOWN_NAME else _shortage() or errno.EAGAIN
        words = error.strerror or "the look-up failed"
        return timeline.failed(number, words if number in (errno.ENOENT, errno.EAGAIN) else os.strerror(number))
    return timeline.failed(error.errno or errno.EIO, os.strerror(error.errno) if error.errno else str(error))


def _shortage() -> int:
    """The errno when this process cannot open a file. The resolver then fails, and says nothing of the reason."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or 0
    return 0


def _addresses(target: Target, family: int, flags: int = 0) -> list[SocketAddress]:
    kind = socket.SOCK_DGRAM if target.datagram else socket.SOCK_STREAM
    found = socket.getaddrinfo(target.host, target.port, family, kind, flags=flags)
    return [SocketAddress(family, sockaddr) for family, _, _, _, sockaddr in found]


_waiting: dict[tuple[Any, ...], list[defer.Deferred[list[SocketAddress]]]] = {}
"""Who waits for each look-up that is in flight."""


def _look_up(reactor: IReactorFromThreads, target: Target, family: int) -> defer.Deferred[list[SocketAddress]]:
    """The addresses of a name. While a look-up of it is in flight, its answer is for everybody.

    Nothing ends a `getaddrinfo` before its time: with a silent resolver, each probe would leave a thread behind.

    :raises RuntimeError: when the system gives no thread.
    """
    key = (reactor, target, family)
    if key not in _waiting:

        def answer_all(result: Any) -> None:
            for answer in _waiting.pop(key):
                answer.callback(result)  # a Failure too: it then becomes an error

        _in_a_thread(reactor, lambda: _ask_resolver(target, family)).addBoth(answer_all)
        _waiting[key] = []
    answer: defer.Deferred[list[SocketAddress]] = defer.Deferred(_waiting[key].remove)
    _waiting[key].append(answer)
    return answer


def _ask_resolver(target: Target, family: int) -> list[SocketAddress]:
    """The addresses of a name. Where it has only those of the other family, that is the error, not the name."""
    try:
        return _addresses(target, family)
    except socket.gaierror as error:
        if family == socket.AF_UNSPEC or error.errno not in _UNKNOWN_NAME:
            raise
        others = dict.fromkeys(each.address.host for each in _addresses(target, socket.AF_UNSPEC))
        wanted, other = ("IPv4", "IPv6") if family == socket.AF_INET else ("IPv6", "IPv4")
        words = f"the name has no {wanted} address, only {other}: {', '.join(others)}"
        raise socket.gaierror(error.errno, words) from None


def _in_a_thread(reactor: IReactorFromThreads, call: Callable[[], T]) -> defer.Deferred[T]:
    """Run a blocking call in a daemon thread of its own; cancelling ends the waiting at once.

    The reactor's thread pool would keep the process from exiting until a dead resolver gives up, and ten names that
    do not resolve would block every other user of the pool.
    """
    answer: defer.Deferred[T] = defer.Deferred()

    def work() -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - any exception belongs to the caller
            reactor.callFromThread(answer.errback, Failure(error))
        else:
            reactor.callFromThread(answer.callback, result)

    Thread(target=work, name="greet-resolver", daemon=True).start()
    return answer
