"""Plugins with one fault each, for tests of the conformance kit. A good one is `LinesProtocol`."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from greetsvc.protocols.framed import LinesProtocol
from greetsvc.protocols.framing import Lines, Receiver


class ForgetsParts(LinesProtocol):
    """Takes each segment for whole messages."""

    def take_apart(self, data: bytes) -> Receiver:
        self._receiver = None
        return super().take_apart(data)


class FirstOnly(LinesProtocol):
    """Takes each segment for one message."""

    def take_apart(self, data: bytes) -> Receiver:
        receiver = super().take_apart(data)
        del receiver.messages[1:]
        return receiver


class Reversed(LinesProtocol):
    """Answers the last message of a segment first."""

    def take_apart(self, data: bytes) -> Receiver:
        receiver = super().take_apart(data)
        receiver.messages.reverse()
        return receiver


class Shared(LinesProtocol):
    """Has one buffer for all connections."""

    def take_apart(self, data: bytes) -> Receiver:
        factory: Any = self.factory
        self._receiver = factory.__dict__.setdefault("receiver_of_all", self.factory.framing.receiver())
        return super().take_apart(data)


class AnswersAfterClose(LinesProtocol):
    """Does not know that it has closed."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self._over:
            self.transport.write(b"Hello again\r\n")
            self._peer_of_test().heard.extend(b"Hello again\r\n")

    def _peer_of_test(self) -> Any:
        transport: Any = self.transport
        return transport._peer


class CountsMessages(LinesProtocol):
    """Takes each message for a visit."""

    def reply(self, message: str) -> str | bytes:
        self.factory.greeted(self)
        return super().reply(message)


class _EndlessLines(Lines):
    def __init__(self, encoding: str, _longest: int) -> None:
        super().__init__(encoding, 1 << 30)


class Unlimited(LinesProtocol):
    """Takes messages of any length."""

    framing = _EndlessLines


class BuffersAll(LinesProtocol):
    """Answers a peer that does not read."""

    def pauseProducing(self) -> None:
        pass


class Guesses(LinesProtocol):
    """Answers what it cannot decode."""

    text_of = staticmethod(lambda message, encoding: message.decode(encoding, "replace").strip())


class Raises(LinesProtocol):
    """Does not expect that text may not decode."""

    def dataReceived(self, data: bytes) -> None:
        data.decode("ascii")
        super().dataReceived(data)


class NeverTired(LinesProtocol):
    """Waits for a silent peer for ever."""

    def expire(self) -> None:
        self.factory.start_deadline(self)


class EveryByteCounts(LinesProtocol):
    """Lets a peer stay that sends a byte now and then."""

    def dataReceived(self, data: bytes) -> None:
        self.factory.start_deadline(self)
        super().dataReceived(data)


class Abrupt(LinesProtocol):
    """Takes the peer's FIN for its end, though answers are on their way."""

    def readConnectionLost(self) -> None:
        self.transport.abortConnection()


class LeavesTimers(LinesProtocol):
    """Forgets to cancel its timer."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.clock.callLater(3600, print)


class KeepsItsPlace(LinesProtocol):
    """Forgets what its base class does when the connection is lost."""

    def connectionMade(self) -> None:
        self.factory.admission.enter(())
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()


GOOD = LinesProtocol


class TrustsText(LinesProtocol):
    """Does not expect a NUL."""

    def reply(self, message: str) -> str:
        if "\0" in message:
            raise LookupError(message)
        return message
