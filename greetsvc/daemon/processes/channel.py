"""How the processes of a service talk: lines of JSON over a pair of UNIX sockets, with sockets beside them.

The process that starts another one sends it what it holds. The channel also tells each that the other is gone: the
kernel closes it, however the other ended.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IFileDescriptorReceiver, IHalfCloseableProtocol, IPushProducer, IUNIXTransport
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Channel", "Message", "first_message"]

Message = dict[str, Any]

_LONGEST = 1 << 20
"""Bytes of a message: more than a thousand sockets need."""

_MOST_SOCKETS = 253
"""Descriptors in one message of the kernel: SCM_MAX_FD of unix(7)."""


@implementer(IFileDescriptorReceiver, IHalfCloseableProtocol, IPushProducer)
class Channel(LineOnlyReceiver):
    """One end of a channel.

    ``received`` is called with each message and the descriptors that came with it, which are the receiver's to close.
    ``ended`` is called once, when the other end will say no more.
    """

    delimiter = b"\n"
    MAX_LENGTH = _LONGEST

    def __init__(
        self, received: Callable[[Message, list[int]], object], ended: Callable[[], object] = lambda: None
    ) -> None:
        self._received = received
        self._ended = ended
        self._descriptors: list[int] = []
        self._open = False
        self._reads = True
        self._has_ended = False
        self._said: Deferred[None] = Deferred()

    @property
    def is_over(self) -> bool:
        """Whether nothing will be heard, because the other end will say no more, or there is none."""
        return self._has_ended or self.transport is None

    def connectionMade(self) -> None:
        """The other end may be spoken to."""
        self._open = True
        # A streaming producer that has nothing to resume: so the transport says when the other end is behind.
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]

    def pauseProducing(self) -> None:
        """See `IPushProducer`."""
        self._reads = False

    def resumeProducing(self) -> None:
        """See `IPushProducer`."""
        self._reads = True

    def stopProducing(self) -> None:
        """See `IPushProducer`."""
        self._open = False

    def say(self, message: Message, descriptors: Sequence[int] = (), *, may_wait: bool = True) -> None:
        """Send a message, and duplicates of open descriptors.

        Without effect once the channel is closed; and without ``may_wait``, as long as the other end does not read.
        """
        if not self._open or not (may_wait or self._reads):
            return
        for descriptor in descriptors:
            cast(IUNIXTransport, self.transport).sendFileDescriptor(descriptor)
        line = json.dumps({**message, "sockets": len(descriptors)} if descriptors else message).encode()
        # There must be a byte for each descriptor; white space means nothing in JSON.
        cast(Any, self).sendLine(line.ljust(len(descriptors)))

    def join(self, reactor: Any, sock: socket.socket) -> None:
        """Speak over ``sock``, which is closed: the reactor keeps a duplicate."""
        with sock:
            sock.setblocking(False)
            factory = Factory.forProtocol(lambda: self)
            reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, factory)

    def close(self) -> Deferred[None]:
        """Say no more; the other end may still speak. Fires when all is said, or nobody is there to hear it."""
        if self._open:
            self._open = False
            self.transport.unregisterProducer()  # type: ignore[union-attr]
            cast(Any, self.transport).loseWriteConnection()
        return self._said

    def lineReceived(self, line: bytes) -> None:
        """A message is complete, and so are its descriptors: they come with its first bytes."""
        message = json.loads(line)
        count = message.pop("sockets", 0)
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        self._received(message, taken)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """See `IFileDescriptorReceiver`."""
        self._descriptors.append(descriptor)

    def readConnectionLost(self) -> None:
        """The other end said that it will say no more."""
        self._end()

    def writeConnectionLost(self) -> None:
        """All is said."""
        self._all_said()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The other end is gone."""
        self._open = False
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._all_said()
        self._end()

    def _all_said(self) -> None:
        if not self._said.called:
            self._said.callback(None)

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._ended()


def first_message(sock: socket.socket) -> tuple[Message, list[int]]:
    """The first message of a channel, and the descriptors with it, without a reactor. Nothing may follow it yet.

    Raises `OSError`, `ValueError`, and `EOFError` if the other end is gone.
    """
    sock.setblocking(True)
    line, descriptors = bytearray(), list[int]()
    while not line.endswith(b"\n"):
        part, more, _, _ = socket.recv_fds(sock, _LONGEST, _MOST_SOCKETS)
        if not part:
            raise EOFError("the process that started this one is gone")
        line += part
        descriptors += more
    sock.setblocking(False)
    return json.loads(line), descriptors
