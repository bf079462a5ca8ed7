"""From a host name to the one address that is asked: the first in the system's order."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet import defer
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure

from greetsvc.client.probe.timeline import Progress
from greetsvc.client.result import errno_of, words_of
from greetsvc.client.target import Target
from greetsvc.visit import Address

__all__ = ["LookUpReactor", "Remote", "find", "in_a_thread"]

T = TypeVar("T")


class LookUpReactor(IReactorTime, IReactorFromThreads):
    """What looking a name up needs of a reactor."""


@frozen
class Remote:
    """An address as the system takes it: the family, and the tuple for ``connect`` or ``sendto``."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def address(self) -> Address:
        """Host and port; a link-local IPv6 address with its zone."""
        host, port, *rest = self.sockaddr
        zone = rest[1] if len(rest) == 2 else 0
        return Address(f"{host}%{zone}" if zone else host, port)


async def find(progress: Progress, family: int, reactor: LookUpReactor) -> Remote:
    """The address of the progress's target; a name is looked up in a thread, within the time-out.

    :raises GreetFailed: when there is none.
    """
    target = progress.target
    try:
        return _addresses(target, family, socket.AI_NUMERICHOST)[0]
    except OSError as error:
        if ":" in target.host:
            raise progress.failed(errno_of(error), words_of(error)) from None
    progress.enter("resolve")
    progress.say("*", f"resolving {target.host}")
    answer = in_a_thread(reactor, lambda: _addresses(target, family))
    try:
        found = await answer.addTimeout(progress.remaining(), reactor)
    except defer.TimeoutError:
        why = f"no answer from the resolver within {progress.timeout:g} s"
        raise progress.failed(errno.ETIMEDOUT, why) from None
    except OSError as error:
        raise progress.failed(errno_of(error), words_of(error)) from None
    progress.leave()
    progress.say("*", f"{target.host} is {found[0].address.host}, the first of {len(found)}")
    return found[0]


def _addresses(target: Target, family: int, flags: int = 0) -> list[Remote]:
    kind = socket.SOCK_DGRAM if target.datagram else socket.SOCK_STREAM
    found = socket.getaddrinfo(target.host, target.port, family, kind, flags=flags)
    return [Remote(family, sockaddr) for family, _, _, _, sockaddr in found]


def in_a_thread(reactor: IReactorFromThreads, call: Callable[[], T]) -> defer.Deferred[T]:
    """Run a blocking call in a daemon thread of its own; cancelling ends the waiting at once.

    The reactor's thread pool would hold the process at exit until a dead resolver gives up, and ten names that do
    not resolve would block every other use of it.
    """
    answer: defer.Deferred[T] = defer.Deferred()

    def work() -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who asked
            reactor.callFromThread(answer.errback, Failure(error))
        else:
            reactor.callFromThread(answer.callback, result)

    Thread(target=work, name="greet-resolver", daemon=True).start()
    return answer
