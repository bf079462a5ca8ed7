"""Framings without I/O: cut at every byte, in bounds, and beside the implementations of others."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.server import ServerProtocol

from greetsvc.client.talk import websocket
from greetsvc.client.talk.framing import BadFrame, Framing
from greetsvc.client.talk.protocols import PROTOCOLS, WEBSOCKET, framing_maker

PLAIN = [name for name in PROTOCOLS if name != WEBSOCKET]
NAMES = ["Ada", "", "a,b:c", "Grüße", "名前", "x" * 300]


def new(protocol: str, limit: int = 1000, encoding: str = "utf-8") -> Framing:
    return framing_maker(protocol, limit, encoding, "127.0.0.1:8088")()


@pytest.mark.parametrize("protocol", PLAIN)
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5hkscs", "shift-jis", "utf-16", "utf-16-be", "utf-32"])
def test_messages_come_out_whole_however_they_are_cut(protocol: str, encoding: str) -> None:
    messages = [name.encode(encoding, "replace") for name in [*NAMES, "\u0a0d\u0d0a\u0a0a\u000d"]]
    if protocol == "lines":
        messages[-1] = "\u0a0d\u0d0a\u0a0a".encode(encoding, "replace")
    sent = b"".join(new(protocol, encoding=encoding).encode(message) for message in messages)
    for size in (1, 2, 3, 7, len(sent)):
        framing = new(protocol, 2000, encoding)
        found = [each for at in range(0, len(sent), size) for each in framing.feed(sent[at : at + size])]
        assert found == messages
    for cut in range(len(sent)):
        framing = new(protocol, 2000, encoding)
        assert framing.feed(sent[:cut]) + framing.feed(sent[cut:]) == messages


def test_a_bare_line_feed_ends_a_line_too() -> None:
    assert new("lines").feed(b"one\ntwo\r\n\n") == [b"one", b"two", b""]
    assert new("lines", encoding="utf-16-le").feed("one\ntwo\r\n".encode("utf-16-le")) == [
        "one".encode("utf-16-le"),
        "two".encode("utf-16-le"),
    ]


@pytest.mark.parametrize(
    ("protocol", "data", "why"),
    [
        ("netstring", b"Hello\r\n", "what came is not a netstring"),
        ("netstring", b"05:hello,", "what came is not a netstring"),
        ("netstring", b"-1:", "what came is not a netstring"),
        ("netstring", b"5:hello.", "a netstring came that does not end with a comma"),
        ("netstring", b"1001:", "a message of 1001 bytes or more came: longer than 1000"),
        ("netstring", b"99999999999", "what came is not a netstring"),
        ("int32", b"Hello\r\n", "a message of 1214606444 bytes or more came: longer than 1000"),
        ("lines", b"x" * 1001, "a message of 1001 bytes or more came: longer than 1000"),
        ("lines", b"x" * 1001 + b"\n", "a message of 1001 bytes or more came: longer than 1000"),
    ],
)
def test_what_breaks_the_rules_is_refused_with_the_reason(protocol: str, data: bytes, why: str) -> None:
    with pytest.raises(BadFrame) as caught:
        new(protocol).feed(data)
    assert str(caught.value) == why


@pytest.mark.parametrize("protocol", PLAIN)
def test_no_more_than_the_limit_is_kept_of_a_message_that_does_not_end(protocol: str) -> None:
    framing = new(protocol)
    start = {"lines": b"", "netstring": b"1000:", "int32": (1000).to_bytes(4, "big")}[protocol]
    assert framing.feed(start + b"x" * 999) == []
    with suppress(BadFrame):
        framing.feed(b"xx,xx")
    with pytest.raises(BadFrame):
        framing.feed(b"x" * 1000)
    assert len(framing.rest) <= 2010


@given(st.sampled_from(PLAIN), st.binary(max_size=60))
def test_whatever_comes_is_taken_or_refused(protocol: str, data: bytes) -> None:
    framing = new(protocol, 40)
    with suppress(BadFrame):
        assert all(len(message) <= 40 for message in framing.feed(data))


class WebSocketServer:
    """The other end, by the `websockets` library."""

    def __init__(self, framing: Framing, *, accept: bool = True) -> None:
        self.protocol = ServerProtocol()
        self.framing = framing
        self.protocol.receive_data(framing.opening())
        (self.request,) = self.protocol.events_received()
        answer = self.protocol.accept(self.request) if accept else self.protocol.reject(404, "no")  # type: ignore[arg-type]
        self.protocol.send_response(answer)

    def out(self) -> bytes:
        return b"".join(self.protocol.data_to_send())

    def hear(self, data: bytes) -> list[tuple[str, bytes]]:
        self.protocol.receive_data(data)
        return [(event.opcode.name, bytes(event.data)) for event in self.protocol.events_received()]  # type: ignore[union-attr]


def test_websocket_talks_with_another_implementation_cut_at_every_byte() -> None:
    names = [name.encode() for name in NAMES]
    for cut in range(1, 460, 7):
        framing = new(WEBSOCKET, 2000)
        server = WebSocketServer(framing)
        assert server.request.headers["Host"] == "127.0.0.1:8088"  # type: ignore[union-attr]
        for name in names:
            server.protocol.send_text(name)
        sent = server.out()
        assert cut < len(sent)
        assert framing.feed(sent[:cut]) + framing.feed(sent[cut:]) == names
        assert server.hear(b"".join(map(framing.encode, names))) == [("TEXT", name) for name in names]


def test_websocket_puts_fragments_together_and_answers_pings() -> None:
    framing = new(WEBSOCKET)
    server = WebSocketServer(framing)
    server.protocol.send_text(b"Hel", fin=False)
    server.protocol.send_ping(b"there?")
    server.protocol.send_continuation(b"lo", fin=True)
    assert framing.feed(server.out()) == [b"Hello"]
    assert framing.pinged
    assert server.hear(framing.replies()) == [("PONG", b"there?")]
    assert framing.replies() == b""


def test_websocket_answers_no_flood_of_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "_MAX_PINGS", 3)
    framing = new(WEBSOCKET)
    server = WebSocketServer(framing)
    for _ in range(2):
        for _ in range(3):
            server.protocol.send_ping(b"")
        server.protocol.send_text(b"Hello")
    assert framing.feed(server.out()) == [b"Hello", b"Hello"]
    for _ in range(4):
        server.protocol.send_ping(b"")
    with pytest.raises(BadFrame, match="more than 3 pings came without a message between them"):
        framing.feed(server.out())


def test_websocket_says_why_the_server_closed_and_answers_its_close() -> None:
    framing = new(WEBSOCKET)
    server = WebSocketServer(framing)
    server.protocol.send_close(1008, "too many")
    assert framing.feed(server.out()) == []
    assert framing.farewell == "status 1008 too many"
    assert server.hear(framing.replies()) == [("CLOSE", b"\x03\xf0too many")]
    assert framing.closing() == b""
    assert framing.feed(b"more") == []


def test_websocket_closes_with_a_close_frame() -> None:
    framing = new(WEBSOCKET)
    assert framing.closing() == b""
    framing = new(WEBSOCKET)
    server = WebSocketServer(framing)
    framing.feed(server.out())
    assert server.hear(framing.closing()) == [("CLOSE", b"\x03\xe8")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the server refuses WebSocket: HTTP status 404"),
        (b"Hello\r\n\r\n", "what came is not WebSocket: Bad HTTP message"),
    ],
)
def test_websocket_needs_a_server_that_accepts(data: bytes, why: str) -> None:
    framing = new(WEBSOCKET)
    framing.opening()
    with pytest.raises(BadFrame) as caught:
        framing.feed(data)
    assert str(caught.value) == why


@pytest.mark.parametrize("sent", ["whole", "fragments"])
def test_websocket_messages_have_a_limit(sent: str) -> None:
    framing = new(WEBSOCKET, 10)
    server = WebSocketServer(framing)
    if sent == "whole":
        server.protocol.send_text(b"x" * 11)
    else:
        server.protocol.send_text(b"x" * 9, fin=False)
        server.protocol.send_continuation(b"xx", fin=False)
    with pytest.raises(BadFrame, match="11 bytes or more came: longer than 10"):
        framing.feed(server.out())
