# mypy: allow-untyped-calls
# (twisted.web has few types.)
"""Talking over WebSocket (RFC 6455), so that a page in a browser can be greeted: `twisted.web.websocket` in bounds.

Twisted's part reads the handshake and the frames. It delivers what it finds at once, whatever its size, and writes to
the transport whenever it likes. So it gets a transport of ours, and what it finds waits like any other message.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.server import Request, Site
from twisted.web.websocket import WebSocketResource, WebSocketTransport
from wsproto import ConnectionType
from wsproto.handshake import H11Handshake
from wsproto.utilities import ProtocolError

from greetsvc.protocols.framing import Receiver
from greetsvc.protocols.talking import TalkingProtocol

__all__ = ["WebSocketProtocol"]

_OVERHEAD = 64 * 1024
"""Bytes that may come before a message besides its own: the handshake, the headers of frames, pings."""

_UPGRADE_REQUIRED = 426
"""The status of an answer to a request that is no handshake (RFC 9110 15.5.22)."""

_NORMAL, _POLICY = 1000, 1008
"""Why a connection is closed (RFC 6455 7.4.1)."""


class _Messages:
    """The messages that Twisted's part found."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.fault = ""

    def dataReceived(self, data: bytes) -> None:
        """`WebSocketProtocol.take_apart` gives the bytes to Twisted's part."""


class _TextMessages:
    """The framing, which Twisted's part knows."""

    def __init__(self, _encoding: str, longest: int) -> None:
        self.longest = longest
        self.site: _Site | None = None

    def receiver(self) -> Receiver:
        """For one connection."""
        return _Messages()

    def frames(self, payloads: list[bytes]) -> bytes:
        """`WebSocketProtocol.send` gives each payload to Twisted's part."""
        raise NotImplementedError


def _text_of(message: str, _encoding: str) -> str:
    return message


class WebSocketProtocol(TalkingProtocol):
    """Greets each text message of a WebSocket, as pages in a browser send them."""

    framing = _TextMessages
    text_of = staticmethod(_text_of)
    _http: IProtocol | None = None
    _web: WebSocketTransport | None = None  # from the handshake to the close
    _upgraded = False
    _since_message = 0
    _code = _NORMAL

    def begin(self) -> None:
        """Wait for the handshake."""
        framing = self._framing
        self._receiver = framing.receiver()
        if framing.site is None:
            framing.site = _Site(self.factory.clock)
        self._http = cast(IProtocol, framing.site.buildProtocol(cast(Any, self.address)))
        self._http.makeConnection(cast(Any, _Transport(self)))

    @property
    def _framing(self) -> _TextMessages:
        return cast(_TextMessages, self.factory.framing)

    def take_apart(self, data: bytes) -> Receiver:
        """Give the next bytes to Twisted's part."""
        receiver = cast(_Messages, self._receiver)
        self._since_message += len(data)
        try:
            cast(IProtocol, self._http).dataReceived(data)
        except ProtocolError as error:
            receiver.fault = str(error)
        if receiver.messages:
            self._since_message = 0
        elif self._since_message > self._framing.longest + _OVERHEAD:
            self._too_long()
        return receiver

    # For Twisted's part: `twisted.web.websocket.WebSocketProtocol`

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        """The handshake is about to be answered."""
        self._web = transport
        self._upgraded = True

    def negotiationFinished(self) -> None:
        """The handshake is done: greet."""
        super().begin()

    def textMessageReceived(self, message: str) -> None:
        """A message, which waits to be answered."""
        receiver, longest = cast(_Messages, self._receiver), self._framing.longest
        if len(message) > longest or len(message.encode()) > longest:
            self._too_long()
        elif not receiver.fault:
            receiver.messages.append(message)

    def _too_long(self) -> None:
        cast(_Messages, self._receiver).fault = f"a message is longer than {self._framing.longest} bytes"

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:
        """A message that is no text."""
        cast(_Messages, self._receiver).fault = "messages must be text"

    def pongReceived(self, payload: bytes) -> None:
        """The answer to a ping, which nobody sent."""

    def peer_closed(self) -> None:
        """Twisted's part has answered the peer's closing handshake, or a request that is none for a WebSocket."""
        self._web = None
        self.close()

    # What differs from the other protocols

    def send(self, payloads: list[bytes]) -> None:
        """Send each payload as a text message."""
        for payload in payloads:
            if self._web is not None:
                self._web.sendTextMessage(payload.decode(self.factory.encoding, "replace"))

    def fail(self, why: str, reason: str) -> None:
        """As inherited; the close says that the peer has broken a rule, too."""
        self._code = _POLICY
        super().fail(why, reason)

    def say_goodbye(self) -> None:
        """Send a close frame."""
        web, self._web = self._web, None
        if web is not None:
            web.loseConnection(self._code)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over: tell Twisted's part as long as it only knows of HTTP."""
        http, self._http, self._web = self._http, None, None
        if http is not None and not self._upgraded:
            http.connectionLost(reason)
        super().connectionLost(reason)


class _Transport:
    """The transport of Twisted's part: it may write, but closing and producers are not its affair."""

    def __init__(self, talking: WebSocketProtocol) -> None:
        self.talking = talking

    def loseConnection(self) -> None:
        self.talking.peer_closed()

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """`TalkingProtocol` stops reading while there is enough to send."""

    def unregisterProducer(self) -> None:
        """Nothing was registered."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.talking.transport, name)


class _Connections:
    """Gives Twisted's part the protocol of the connection that a request came on."""

    def buildProtocol(self, request: Request) -> WebSocketProtocol:
        transport: Any = request.channel.transport
        return cast(WebSocketProtocol, transport.talking)


class _Endpoint(WebSocketResource):
    """A WebSocket at every path."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes | int:  # noqa: N802 - Twisted's name
        """Answer the handshake. A request that is none gets a word, where Twisted's part logs an error."""
        headers = [(name, value) for name, values in request.requestHeaders.getAllRawHeaders() for value in values]
        try:
            H11Handshake(ConnectionType.SERVER).initiate_upgrade_connection(headers, request.path)
        except ProtocolError:
            request.setResponseCode(_UPGRADE_REQUIRED, b"Upgrade Required")
            request.setHeader("upgrade", "websocket")
            request.setHeader("content-type", "text/plain")
            return b"This is a WebSocket.\n"
        return super().render_GET(request)


class _Site(Site):
    """What serves HTTP, without a log and time limits of its own."""

    displayTracebacks = False

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(_Endpoint(_Connections()), reactor=clock, timeout=None)

    def log(self, request: Any) -> None:
        """The visit log has a line."""
