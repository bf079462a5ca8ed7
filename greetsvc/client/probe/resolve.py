"""Look up a host name: the result is one address, the first in the system's order."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from twisted.internet import defer
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure

from greetsvc.client.probe.addresses import FAMILIES, SocketAddress, addresses, ask_resolver, bad_literal, failure_of
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.target import Target
from greetsvc.client.words import NO_RESOLVER, NO_THREAD

__all__ = ["ResolveReactor", "resolve"]

T = TypeVar("T")


class ResolveReactor(IReactorTime, IReactorFromThreads):
    """What a look-up needs of a reactor."""


async def resolve(timeline: Timeline, reactor: ResolveReactor) -> SocketAddress:
    """The address of the target; a name is looked up in a thread, within the time-out.

    :raises GreetFailed: when there is none.
    """
    target, family = timeline.target, FAMILIES[timeline.options.family]
    try:
        return addresses(target, family, socket.AI_NUMERICHOST)[0]
    except OSError as error:
        if ":" in target.host:
            raise timeline.failed(*bad_literal(target, error)) from None
    timeline.enter("resolve")
    timeline.trace("*", f"resolving {target.host}")
    try:
        found = await _look_up(reactor, target, family).addTimeout(timeline.remaining(), reactor)
    except defer.TimeoutError:
        raise timeline.failed(errno.ETIMEDOUT, f"{NO_RESOLVER} {timeline.within}") from None
    except OSError as error:
        raise timeline.failed(*failure_of(error)) from None
    except RuntimeError:  # that of `Thread.start`
        raise timeline.failed(errno.EAGAIN, NO_THREAD) from None
    timeline.resolved([each.address for each in found])
    return found[0]


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

        _in_a_thread(reactor, lambda: ask_resolver(target, family)).addBoth(answer_all)
        _waiting[key] = []
    answer: defer.Deferred[list[SocketAddress]] = defer.Deferred(_waiting[key].remove)
    _waiting[key].append(answer)
    return answer


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
