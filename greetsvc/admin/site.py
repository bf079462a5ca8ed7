# mypy: allow-untyped-calls
# (twisted.web.http is mostly without types.)
"""The admin site as HTTP: one short request for each connection, in bounds that strangers cannot move.

It only reads: GET and HEAD, no body, no query. A connection has `DEADLINE` seconds for its request and the answer,
unless it watches events. There are at most `MAX_CONNECTIONS` of the others: when one more comes, the oldest ends, so
that connections which only wait keep nobody out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from operator import methodcaller
from typing import Any

from attrs import asdict, frozen
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

from greetsvc.admin.events import Events, event
from greetsvc.admin.figures import Figures
from greetsvc.admin.hosts import is_expected
from greetsvc.admin.metrics import exposed, wants_open_metrics
from greetsvc.admin.page import Page
from greetsvc.admin.visits import CALLS, SeenVisit, since
from greetsvc.ledger import BOUNDS
from greetsvc.net.deadlines import Deadlines
from greetsvc.printable import escaped

__all__ = ["DEADLINE", "MAX_CONNECTIONS", "AdminFactory", "Shown"]

_log = Logger(namespace="greetsvc")

MAX_CONNECTIONS = 256
"""Connections that do not watch events."""

DEADLINE = 10.0
"""Seconds that such a connection may live."""

FRESH = 0.2
"""Seconds for which metrics are kept, so that it costs little to ask for them without end."""

_RETRY = 2000
"""Milliseconds after which a browser that lost the events asks for them again."""

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_TEXT = "text/plain; charset=utf-8"
_EVENTS = "text/event-stream"
_ALWAYS = {
    b"Cache-Control": b"no-store",
    b"Cross-Origin-Resource-Policy": b"same-origin",
    b"Referrer-Policy": b"no-referrer",
    b"X-Content-Type-Options": b"nosniff",
}


@frozen(eq=False)
class Shown:
    """Where the site gets what it shows. All but ``about`` are called often, and must be quick.

    ``about`` is what only a reload changes, as a JSON object. ``not_ready`` says in a word why the service is not
    ready; it is empty while it is.
    """

    figures: Callable[[], Figures]
    visits: Callable[[], Sequence[SeenVisit]]
    about: Callable[[], Mapping[str, Any]]
    not_ready: Callable[[], str]


class AdminFactory(Factory):
    """Answers what is ``shown`` to requests for one of ``names`` or for an address.

    ``private``: nobody but this machine can ask, so the addresses of peers are shown as they are.
    """

    noisy = False
    private = False

    def __init__(self, shown: Shown, names: Collection[str], clock: IReactorTime) -> None:
        self.events = Events(self._news, clock)
        self.names = names
        self._shown = shown
        self._clock = clock
        self._page = Page.load()
        self._channels: set[_Channel] = set()
        self._waiting: Deadlines[_Channel] = Deadlines(clock, DEADLINE, methodcaller("abort"))
        self._metrics: dict[bool, tuple[float, bytes, str]] = {}
        self._told: SeenVisit | None = None  # the latest visit in the messages
        self._reloads: Mapping[str, int] = {}
        self._paths: dict[bytes, Callable[[_Request], None]] = {
            b"/": self._live_page,
            b"/livez": lambda request: request.answer(200, "alive\n"),
            b"/readyz": self._readiness,
            b"/metrics": self._metrics_page,
            b"/events": self._watch,
        }

    def buildProtocol(self, addr: IAddress | None) -> _Channel:  # type: ignore[override]
        """A channel for one request. When there are too many, the oldest that does not watch is aborted."""
        if len(self._waiting) >= MAX_CONNECTIONS:
            oldest = next(iter(self._waiting))
            self._waiting.discard(oldest)  # its end comes in the next turn of the reactor
            oldest.abort()
        channel = _Channel()
        channel.factory = self
        self._channels.add(channel)
        self._waiting.add(channel)
        return channel

    def left(self, channel: _Channel) -> None:
        """The connection of a channel is over."""
        self._channels.discard(channel)
        self._waiting.discard(channel)

    def log(self, request: Request) -> None:
        """Called by Twisted for each request: a site that is asked every few seconds needs no log of that."""

    def abort(self) -> None:
        """Abort every connection, and leave no timer behind."""
        self.events.stop()
        for channel in tuple(self._channels):
            channel.abort()
        self._waiting.stop()

    # Requests

    def respond(self, request: _Request) -> None:
        """Answer a request, whatever it is. Raises nothing."""
        try:
            self._respond(request)
        except Exception:  # noqa: BLE001 - the service goes on, and the one who asked is told
            _log.failure("The admin site could not answer {path}", path=escaped(repr(request.path)))
            if not request.startedWriting:
                request.answer(500, "the site could not answer; the log of the service says why\n")

    def _respond(self, request: _Request) -> None:
        host = request.asked_host()
        # Without the header it is no browser: health checks of HAProxy speak HTTP/1.0 like that.
        if not host and request.clientproto == b"HTTP/1.1":
            request.answer(400, "a request needs one Host header\n")
        elif host is not None and not is_expected(host, self.names):
            names = ", ".join(sorted(self.names))
            request.answer(421, f"this site is asked for by its IP address or as {names} (option --admin-host)\n")
        elif request.method not in {b"GET", b"HEAD"}:
            request.setHeader(b"Allow", b"GET, HEAD")
            request.answer(405, "this site can only be read\n")
        elif request.target() in self._paths:
            self._paths[request.target()](request)
        else:
            names = " ".join(path.decode("ascii") for path in self._paths)
            request.answer(404, f"there is nothing here; there is {names}\n")

    def _live_page(self, request: _Request) -> None:
        request.setHeader(b"Content-Security-Policy", self._page.policy.encode("ascii"))
        request.answer(200, self._page.html, "text/html; charset=utf-8")

    def _readiness(self, request: _Request) -> None:
        reason = self._shown.not_ready()
        request.answer(503 if reason else 200, f"{reason or 'ready'}\n")

    def _metrics_page(self, request: _Request) -> None:
        accept = request.header("accept") or ""
        now = self._clock.seconds()
        kind = wants_open_metrics(accept)
        made, body, content_type = self._metrics.get(kind, (-FRESH, b"", ""))
        if now - made >= FRESH:
            body, content_type = exposed(self._shown.figures(), accept)
            self._metrics[kind] = now, body, content_type
        request.answer(200, body, content_type)

    # Events

    def _watch(self, request: _Request) -> None:
        if request.method == b"HEAD":
            request.answer(200, b"", _EVENTS)
        elif self.events.full:
            request.answer(503, "there are too many watchers\n")
        else:
            state = self._state(self._shown.figures(), self._visits()[0])
            opening = b"retry: %d\n\n%b%b" % (_RETRY, self._start(), state)
            self.events.add(request)
            self._waiting.discard(request.channel)
            request.setHeader(b"Content-Type", _EVENTS.encode("ascii"))
            request.write(opening)

    def _news(self) -> bytes:
        """The state, and after a reload what the service is now."""
        visits = self._visits()[1]
        if visits:
            self._told = visits[-1]
        figures, before = self._shown.figures(), self._reloads
        self._reloads = figures.reloads
        return (self._start() if before and figures.reloads != before else b"") + self._state(figures, visits)

    def _visits(self) -> tuple[list[SeenVisit], list[SeenVisit]]:
        """The visits that were in a message already, and those since then."""
        visits = [*self._shown.visits()]
        new = since(self._told, visits)
        return visits[: len(visits) - len(new)], new

    def _start(self) -> bytes:
        calls = {name: [*map(asdict, each)] for name, each in CALLS.items()}
        return event("start", {**self._shown.about(), "calls": calls, "bounds": BOUNDS})

    def _state(self, figures: Figures, visits: Sequence[SeenVisit]) -> bytes:
        """What holds now, and these visits."""
        shown = visits if self.private else [visit.without_address() for visit in visits]
        return event(
            "state",
            {
                "now": time.time(),
                "state": self._shown.not_ready() or "ready",
                "watchers": len(self.events),
                "figures": asdict(figures),
                "visits": [*map(asdict, shown)],
            },
        )


class _Request(Request):
    """One request. Its body, if it has one, was not read."""

    channel: _Channel

    def process(self) -> None:
        """Answer."""
        self.channel.factory.respond(self)

    def header(self, name: str) -> str | None:
        """A header of the request, whatever bytes it has: Twisted's own decoding fails for what is not UTF-8."""
        value = self.getHeader(name.encode("ascii"))
        return None if value is None else value.decode("latin-1")

    def asked_host(self) -> str | None:
        """Who is asked: the one in an absolute target, or else in the Host header; empty where there are several.

        None where a request lacks the header.
        """
        headers = self.requestHeaders.getRawHeaders(b"host", ())
        if len(headers) != 1:
            return "" if headers else None
        authority = _ABSOLUTE.match(self.path)
        return self.header("host") if authority is None else authority[1].decode("latin-1")

    def target(self) -> bytes:
        """The path, also of an absolute target (RFC 9112 3.2.2)."""
        return _ABSOLUTE.sub(b"", self.path) or b"/"

    def answer(self, code: int, body: str | bytes, content_type: str = _TEXT) -> None:
        """Send the whole answer, and finish."""
        data = body.encode() if isinstance(body, str) else body
        self.setResponseCode(code, HTTPStatus(code).phrase.encode("ascii"))
        self.setHeader(b"Content-Type", content_type.encode("ascii"))
        self.setHeader(b"Content-Length", b"%d" % len(data))
        self.write(data)
        self.finish()

    def write(self, data: bytes) -> None:
        """Send a part of the answer, behind the headers that all have."""
        if not self.startedWriting:
            for name, value in _ALWAYS.items():
                self.setHeader(name, value)
        super().write(data)

    def abort(self) -> None:
        """Abort the connection."""
        if self.channel is not None:
            self.channel.abort()


class _Channel(HTTPChannel):
    """One connection, with one request."""

    MAX_LENGTH = totalHeadersSize = 8192
    maxHeaders = 64
    requestFactory = _Request
    factory: AdminFactory

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """The connection ends with the answer, so a deadline for the connection bounds everything."""
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def allHeadersReceived(self) -> None:
        """Refuse a body before it comes."""
        super().allHeadersReceived()
        if self.length != 0:
            self._refuse("413 Content Too Large", "this site takes no body")

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is too long, such as one with the cookies of all that runs on this machine."""
        words = f"a line of the request has over {self.MAX_LENGTH} bytes"
        self._refuse("431 Request Header Fields Too Large", words)

    def _refuse(self, status: str, words: str) -> None:
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {_TEXT}\r\n"
        self.write(f"{head}Content-Length: {len(words) + 1}\r\n\r\n{words}\n".encode("ascii"))
        self.loseConnection()

    def rawDataReceived(self, data: bytes) -> None:
        """Drop it: it is a body that was refused, or a second request."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The connection is over."""
        for request in self.requests:
            self.factory.events.discard(request)
        super().connectionLost(reason)
        self.factory.left(self)

    def abort(self) -> None:
        """Abort the connection."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()
