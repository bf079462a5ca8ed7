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

_HANDSHAKE = 16 * 1024
"""Bytes that may come before the handshake is done."""

_UPGRADE_REQUIRED = 426
"""The status of an answer to a request that is no handshake (RFC 9110 15.5.22)."""

_NORMAL, _GOING_AWAY, _POLICY = 1000, 1001, 1008
"""Why a connection is closed (RFC 6455 7.4.1)."""


_FIN, _CONTROL = 0x80, 0x08
"""Bits in the first byte of a frame: it is the last one of its message; it belongs to none (RFC 6455 5.2)."""


def _frame(data: bytes) -> tuple[int, int | None]:
    """The length of the header of a client's frame and that of its payload; None until the header is there.

    Twisted's part keeps what it gets of a message, however long that is: so the length must be known before.
    """
    size = data[1] & 0x7F if len(data) > 1 else 0
    extended = {126: 2, 127: 8}.get(size, 0)
    if len(data) < 2 + extended:
        return 0, None
    return 2 + extended + 4, int.from_bytes(data[2 : 2 + extended], "big") if extended else size


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
    _code = _NORMAL
    _heard = 0  # bytes of the handshake
    _header = b""  # the first bytes of a frame that do not tell its length yet
    _frame_left = 0  # bytes that the present frame still has
    _length = 0  # of the frames of a message that is not complete

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
        """Give Twisted's part one line of the handshake, or the bytes of one frame. What follows is for later."""
        receiver = cast(_Messages, self._receiver)
        size = self._frame_left
        if not self._upgraded:
            size = data.find(b"\n") + 1 or len(data)
            self._heard += size
            if self._heard > _HANDSHAKE:
                receiver.fault = "the handshake is too long"
        elif not size:
            data = self._header + data
            start, length = _frame(data)
            if length is None:
                self._header = data
                return receiver
            self._header = b""
            size = start + length
            if not data[0] & _CONTROL:
                self._length += length
                if self._length > self._framing.longest:
                    receiver.fault = f"a message is longer than {self._framing.longest} bytes"
                if data[0] & _FIN:
                    self._length = 0
        data, rest = data[:size], data[size:]
        self._unread = rest + self._unread
        if self._upgraded:
            self._frame_left = size - len(data)
        if not receiver.fault:
            try:
                cast(IProtocol, self._http).dataReceived(data)
            except ProtocolError as error:
                receiver.fault = str(error)
        return receiver

    # For Twisted's part: `twisted.web.websocket.WebSocketProtocol`

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        """The handshake is about to be answered."""
        self._web = transport
        self._upgraded = True

    def negotiationFinished(self) -> None:
        """The handshake is done: greet, and wait for the first message."""
        self.factory.start_deadline(self)
        super().begin()

    def textMessageReceived(self, message: str) -> None:
        """A message, which waits to be answered."""
        cast(_Messages, self._receiver).messages.append(message)

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:
        """A message that is no text."""
        cast(_Messages, self._receiver).fault = "messages must be text"

    def pongReceived(self, payload: bytes) -> None:
        """The answer to a ping, which nobody sent."""

    def peer_closed(self) -> None:
        """Twisted's part has answered the peer's closing handshake, or a request that is none for a WebSocket."""
        self._web = None
        self.close()

    @property
    def is_leaving(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._leaving or self._over

    # What differs from the other protocols

    def _write(self, payloads: list[bytes]) -> None:
        """Send each payload as a text message."""
        for payload in payloads:
            if self._web is not None:
                self._web.sendTextMessage(payload.decode(self.factory.encoding, "replace"))

    def finish(self) -> None:
        """As inherited; the close says that the service goes away."""
        self._code = _GOING_AWAY
        super().finish()

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

    @property
    def disconnecting(self) -> bool:
        """Whether nothing more is to be read: the real transport may only be told later."""
        return self.talking.is_leaving

    def loseConnection(self) -> None:
        """The peer has closed."""
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

    def render(self, request: Request) -> bytes | int:
        """Answer a handshake. Any other request gets a word, where Twisted's part logs an error."""
        headers = [(name, value) for name, values in request.requestHeaders.getAllRawHeaders() for value in values]
        try:
            if request.method != b"GET":
                raise ProtocolError(request.method)
            H11Handshake(ConnectionType.SERVER).initiate_upgrade_connection(headers, request.path)
        except Exception:  # noqa: BLE001 - also what its parts make of strange headers, such as a Host that is no text
            request.setResponseCode(_UPGRADE_REQUIRED, b"Upgrade Required")
            request.setHeader("upgrade", "websocket")
            request.setHeader("content-type", "text/plain")
            return b"This is a WebSocket.\n"
        return self.render_GET(request)


class _Site(Site):
    """What serves HTTP, without a log and time limits of its own."""

    displayTracebacks = False

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(_Endpoint(_Connections()), reactor=clock, timeout=None)

    def log(self, request: Any) -> None:
        """The visit log has a line."""
