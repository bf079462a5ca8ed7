"""Talking protocols: what they answer, and the bounds of a connection."""

from __future__ import annotations

import random
from encodings.aliases import aliases
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.task import Clock

from greetsvc.greeters.registry import Greeter, text_encoding
from greetsvc.greeters.text import TextGreeter
from greetsvc.protocols.registry import StreamPlugin, find_protocol
from greetsvc.protocols.talking import ENOUGH, RATE, TURN, Limits, TalkingProtocol
from greetsvc.testing.memory import DEADLINE, MemoryPeer, context
from greetsvc.visit import Visit

NAMES = ["Ada", "李雷", "ペンギン", "Ċ", "Ā", "\u0a0a\u0d0a", "名" * 50]
"""Among them some whose bytes in UTF-16 look like line ends."""


class Peer(MemoryPeer):
    """A peer of a protocol, with the words of a listener."""

    def __init__(self, plugin: str, encoding: str = "utf-8", greeter: Greeter | None = None, **options: Any) -> None:
        clock = Clock()
        name, _, argument = plugin.partition(":")
        made = find_protocol(name, argument, encoding)
        assert isinstance(made, StreamPlugin)
        self.context = evolve(context(clock, text_encoding(encoding), greeter=greeter))
        super().__init__(made.stream(self.context), clock, **options)

    def hears(self, data: bytes) -> bytes:
        """What comes after this was said."""
        before = len(self.heard)
        self.say(data)
        return bytes(self.heard[before:])


def frames(plugin: str, encoding: str, names: list[str]) -> list[bytes]:
    found: Any = find_protocol(plugin, "", encoding)
    return [found.framing.frames([name.encode(encoding)]) for name in names]


def test_the_greeting_comes_first_and_each_name_gets_its_own() -> None:
    peer = Peer("lines")
    assert peer.heard == b"Hello, 127.0.0.1\r\n"
    assert peer.hears(b"Ada\nBob\r\n\n") == b"Hello, Ada\r\nHello, Bob\r\nHello, 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("plugin", "said", "answer"),
    [
        ("netstring", b"3:Ada,", b"10:Hello, Ada,"),
        ("int32", b"\0\0\0\3Ada", b"\0\0\0\nHello, Ada"),
        ("lines", b"Ada\n", b"Hello, Ada\r\n"),
    ],
)
def test_each_framing_on_the_wire(plugin: str, said: bytes, answer: bytes) -> None:
    assert Peer(plugin).hears(said) == answer


@pytest.mark.parametrize("plugin", ["lines", "netstring", "int32"])
@pytest.mark.parametrize(
    "encoding", ["gbk", "gb18030", "big5", "shift_jis", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"]
)
def test_names_in_any_encoding_cut_at_every_byte_come_back_right(plugin: str, encoding: str) -> None:
    names = [name for name in NAMES if name.encode(encoding, "ignore").decode(encoding) == name]
    assert len(names) >= 2
    data = b"".join(frames(plugin, encoding, names))
    peer = Peer(plugin, encoding, TextGreeter("{name}", text_encoding(encoding)))
    answers = peer.hears(data)
    assert answers == data
    for at in range(len(data)):
        before = len(peer.heard)
        peer.say(data[:at])
        peer.say(data[at:])
        assert peer.heard[before:] == answers, at


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [
        ("utf-8", b"\xff"),
        ("gbk", b"\xff"),
        ("gb18030", b"\x81\x30"),
        ("big5", b"\xff\x40"),
        ("shift_jis", b"\x81"),
        ("utf-16-le", b"\x00\xd8\x41\x00"),
        ("utf-16", b"\x41"),
    ],
)
@pytest.mark.parametrize("plugin", ["lines", "netstring"])
def test_bytes_that_do_not_decode_get_one_error_in_a_frame(plugin: str, encoding: str, bad: bytes) -> None:
    found: Any = find_protocol(plugin, "", encoding)
    peer = Peer(plugin, encoding)
    if plugin == "lines" and encoding == "utf-16":
        bad = b"\x00\xd8\x41\x00"
    (good,) = frames(plugin, encoding, ["Ada"])
    said = peer.hears(good + found.framing.frames([bad]) + good)
    answers = [
        f"{text}".encode(text_encoding(encoding), "replace")
        for text in ("Hello, Ada", f"error: the message is not text in {text_encoding(encoding)}: ")
    ]
    assert said.startswith(found.framing.frames([answers[0]]))
    assert answers[1].removeprefix("".encode(encoding)) in said
    assert said.count(answers[0]) == 1
    assert peer.closed
    assert not peer.reset
    assert peer.context.ledger.ended == {"encoding": 1}


def test_no_codec_of_python_makes_a_connection_fail() -> None:
    """Whatever bytes a peer sends as a name: there is an answer or an error, and no exception."""
    source = random.Random(13)
    names = [source.randbytes(source.randrange(20)) for _ in range(3)]
    for encoding in sorted(set(aliases.values())):
        try:
            greeter = TextGreeter("{name}", text_encoding(encoding))
        except ValueError:
            continue
        for name in names:
            peer = Peer("netstring", encoding, greeter)
            assert peer.hears(b"%d:%b," % (len(name), name)), (encoding, name)


def test_an_encoding_in_which_lines_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="lines cannot be told apart in the encoding punycode"):
        find_protocol("lines", "", "punycode")
    assert find_protocol("netstring", "", "punycode")


@pytest.mark.parametrize(
    ("plugin", "said", "error", "counted"),
    [
        ("lines:max=3", b"Adam\n", b"error: a line is longer than 3 bytes\r\n", "framing"),
        ("lines:max=3", b"Adam", b"error: a line is longer than 3 bytes\r\n", "framing"),
        ("netstring:max=3", b"4:", b"error: this is no netstring of at most 3 bytes,", "framing"),
        ("netstring", b"3;Ada", b"error: this is no netstring of at most 4096 bytes,", "framing"),
        ("netstring", b"3:Ada;", b"error: this is no netstring of at most 4096 bytes,", "framing"),
        ("int32:max=3", b"\0\0\0\4", b"error: a message of 4 bytes is longer than 3", "framing"),
        ("int32", b"\xff\xff\xff\xff", b"error: a message of 4294967295 bytes is longer than 4096", "framing"),
        ("lines:total=2", b"a\nb\nc\n", b"error: a connection has 2 messages\r\n", "total"),
    ],
)
def test_a_bound_that_is_passed_gets_one_error_and_a_close(
    plugin: str, said: bytes, error: bytes, counted: str
) -> None:
    peer = Peer(plugin)
    heard = peer.hears(said)
    assert heard.endswith(error)
    assert heard.count(b"error") == 1
    assert peer.closed
    assert peer.context.ledger.ended == {counted: 1}
    assert peer.context.ledger.greeted == {"tcp": 1}


def test_the_bound_is_the_longest_message_that_is_taken() -> None:
    assert Peer("lines:max=3").hears(b"Ada\n") == b"Hello, Ada\r\n"
    assert Peer("netstring:max=3").hears(b"3:Ada,") == b"10:Hello, Ada,"
    assert Peer("int32:max=3").hears(b"\0\0\0\3Ada").endswith(b"Hello, Ada")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("max", "max must be a whole number from 1 to 65536, not ''"),
        ("max=0", "max must be a whole number from 1 to 65536, not '0'"),
        ("max=65537", "not '65537'"),
        ("rate=-1", "rate must be a whole number from 1 to 10000000, not '-1'"),
        ("total=x", "total must be a whole number from 0"),
        ("most=5", "'most=5' is not an option; there are max= rate= total="),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(argument: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        find_protocol("lines", argument, "utf-8")


def test_more_messages_than_the_rate_wait_for_the_next_second() -> None:
    peer = Peer("lines:rate=10", greeter=TextGreeter("{name}"))
    assert peer.hears(b"a\n" * 25).count(b"a") == 10
    assert not peer.transport.reading
    peer.clock.advance(0.9)
    peer.turn()
    assert peer.heard.count(b"a") == 10
    peer.clock.advance(0.2)
    peer.turn()
    assert peer.heard.count(b"a") == 20
    peer.clock.advance(1)
    peer.turn()
    assert peer.heard.count(b"a") == 25
    assert peer.transport.reading


def test_a_burst_takes_several_turns_of_the_reactor() -> None:
    peer = Peer("lines", greeter=TextGreeter("{name}"))
    peer.waiting += b"a\n" * (2 * TURN + 1)
    peer.deliver()
    assert peer.heard.count(b"a") == TURN
    peer.turn()
    assert peer.heard.count(b"a") == 2 * TURN + 1


def test_many_small_messages_with_long_answers_are_bounded_too() -> None:
    peer = Peer("lines", greeter=TextGreeter("x" * 10_000 + "{name}"), reads=False)
    peer.say(b"a\n" * 3000)
    assert peer.buffered < 64 * 1024 + ENOUGH + 30_000
    assert peer.unread or peer.protocol._unread
    peer.read()
    assert peer.heard.count(b"a\r\n") == 3000


@pytest.mark.parametrize("greeter", [TextGreeter("Welcome"), TextGreeter("Welcome\\r\\n")])
def test_a_greeter_that_knows_no_name_says_the_same_to_all(greeter: TextGreeter) -> None:
    peer = Peer("netstring", greeter=greeter)
    assert peer.heard == b"7:Welcome,"
    assert peer.hears(b"3:Ada,1:B,") == b"7:Welcome," * 2


def test_time_and_packets_are_those_of_the_message_and_the_number_that_of_the_visit() -> None:
    class Noting:
        needs = frozenset({"name", "when", "number", "peer"})
        seen: list[Visit]

        def greet(self, visit: Visit) -> bytes:
            self.seen.append(visit)
            return b"hi"

    greeter = Noting()
    greeter.seen = []
    peer = Peer("lines", greeter=greeter)
    peer.say(b"Ada\nBob\n")
    assert [visit.name for visit in greeter.seen] == [None, "Ada", "Bob"]
    assert {visit.number for visit in greeter.seen} == {1}
    assert {visit.peer.host for visit in greeter.seen} == {"127.0.0.1"}
    assert greeter.seen[0].when <= greeter.seen[1].when <= greeter.seen[2].when


def test_a_template_with_the_time_is_filled_in_for_each_message() -> None:
    assert Peer("lines", greeter=TextGreeter("{time} {name}")).hears(b"Ada\n").endswith(b" Ada\r\n")


def test_a_greeting_of_several_lines_is_one_line() -> None:
    assert (
        Peer("lines", greeter=TextGreeter("Dear {name},\\r\\nwelcome\\n")).hears(b"Ada\n") == b"Dear Ada, welcome\r\n"
    )
    assert Peer("lines", greeter=TextGreeter("{name}")).hears(b"a\x1d\rb\x0bc\n") == b"a\x1d b\x0bc\r\n"
    wide = Peer("lines", "utf-16-le", TextGreeter("a\\nb Ċ", "utf-16-le"))
    assert wide.heard.decode("utf-16-le") == "a b Ċ\r\n"


class Failing:
    """Greets whoever has no name."""

    needs = frozenset({"name"})

    def greet(self, visit: Visit) -> bytes:
        if visit.name is not None:
            raise LookupError(visit.name)
        return b"hi"


def test_a_greeter_that_fails_ends_the_connection_with_an_error(logged_errors: Any) -> None:
    peer = Peer("lines", greeter=Failing())
    assert peer.hears(b"Ada\nBob\n") == b"error: no greeting can be made\r\n"
    assert peer.closed
    assert peer.context.ledger.refused == {"greeter": 1}
    assert len(logged_errors.flush(Exception)) == 1


QUIRKS = '''
from greetsvc.protocols import TalkingProtocol

class Quirks(TalkingProtocol):
    """Does what it is told."""

    options = {"times": int, "end": str}
    calls = []

    def reply(self, message):
        self.calls.append(message)
        if message == "quit":
            self.close()
            return "bye"
        if message == "drop":
            self.transport.loseConnection()
        if message == "fail":
            raise LookupError(message)
        if message == "none":
            return None
        if message == "list":
            return [b"a", b"b"]
        if message == "fail and go on":
            self.fail("that is no word", "word")
            self.fail("nor that", "word")
        if message == "fail and raise":
            self.fail("that is no word", "word")
            raise LookupError(message)
        if message == "more":
            self.send([b"1", b"2"])
        if message == "coroutine":
            return self.later()
        if message == "bytes":
            return b"\\xff"
        if message == "greet":
            return super().reply("Ada")
        return message * self.factory.options.get("times", 1)

    async def later(self):
        return "later"
'''


@pytest.fixture
def quirks(install: Any) -> str:
    """A plugin with one method."""
    install(QUIRKS, quirks="Quirks")
    return "quirks"


def test_a_protocol_of_ones_own_is_one_method(quirks: str) -> None:
    peer = Peer(f"{quirks}:times=2:max=10")
    assert peer.heard == b"Hello, 127.0.0.1\r\n"
    assert peer.hears(b"ab\nbytes\ngreet\n") == b"abab\r\n\xff\r\nHello, Ada\r\n"
    with pytest.raises(ValueError, match="invalid literal for int"):
        find_protocol(quirks, "times=x", "utf-8")


def test_after_close_nothing_is_called_and_the_last_answer_is_sent(quirks: str) -> None:
    peer = Peer(quirks)
    calls = type(peer.protocol).calls
    assert peer.hears(b"a\nquit\nb\n") == b"a\r\nbye\r\n"
    assert peer.closed
    assert not peer.reset
    peer.protocol.dataReceived(b"c\n")
    peer.protocol.close()
    assert calls == ["a", "quit"]
    assert peer.context.ledger.greeted == {"tcp": 1}


def test_an_error_of_ones_own_comes_in_order_and_is_the_last_answer(quirks: str) -> None:
    peer = Peer(quirks)
    assert peer.hears(b"a\nfail and go on\nb\n") == b"a\r\nerror: that is no word\r\n"
    assert peer.closed
    assert not peer.reset
    assert peer.context.ledger.ended == {"word": 1}


def test_an_error_of_ones_own_is_the_last_answer_also_when_the_reply_raises(quirks: str, logged_errors: Any) -> None:
    peer = Peer(quirks)
    assert peer.hears(b"a\nfail and raise\nb\n") == b"a\r\nerror: that is no word\r\n"
    assert peer.closed
    assert peer.context.ledger.ended == {"word": 1}
    assert len(logged_errors.flush(LookupError)) == 1


def test_what_is_sent_in_a_reply_comes_behind_the_answers_before(quirks: str) -> None:
    assert Peer(quirks).hears(b"a\nmore\nb\n") == b"a\r\n1\r\n2\r\nmore\r\nb\r\n"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("none", "reply() returned None, which is neither text nor bytes"),
        ("list", "reply() returned [b'a', b'b'], which is neither text nor bytes"),
        ("coroutine", "reply() is a coroutine function: it must return text or bytes itself"),
    ],
)
def test_an_answer_that_is_none_is_named_in_the_log(quirks: str, message: str, why: str, logged_errors: Any) -> None:
    assert Peer(quirks).hears(f"{message}\n".encode()) == b"error: no answer can be made\r\n"
    (failure,) = logged_errors.flush(TypeError)
    assert str(failure) == why


@pytest.mark.parametrize(
    ("argument", "end"),
    [
        (r"end=a\:b", "a:b"),
        (r"end=a\\b:times=1", r"a\b"),
        ("end=a=b", "a=b"),
        ("end=", ""),
        (r"times=1:end=\:\:", "::"),
    ],
)
def test_a_value_may_have_colons_and_backslashes(quirks: str, argument: str, end: str) -> None:
    plugin: Any = find_protocol(quirks, argument, "utf-8")
    assert plugin.options["end"] == end


@pytest.mark.parametrize(
    "limits", [{"max": 0}, {"max": 65537}, {"rate": 0}, {"rate": 1.5}, {"total": -1}, {"max": "9"}]
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    (name,) = limits
    with pytest.raises(ValueError, match=f"^{name} must be a whole number from [01] to [0-9]+, not "):
        Limits(**limits)


@pytest.mark.parametrize("name", ["max", "rate", "total"])
def test_an_option_that_there_is_already_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^Mine\.options: every talking protocol has {name}= already$"):
        type("Mine", (TalkingProtocol,), {"options": {name: str}})


@pytest.mark.parametrize("message", ["fail", "none", "list"])
def test_a_reply_that_fails_ends_its_connection_with_an_error(quirks: str, message: str, logged_errors: Any) -> None:
    peer = Peer(quirks)
    assert peer.hears(f"a\n{message}\nb\n".encode()) == b"a\r\nerror: no answer can be made\r\n"
    assert peer.closed
    assert peer.context.ledger.ended == {"protocol": 1}
    assert len(logged_errors.flush(Exception)) == 1
    other = Peer(quirks)
    assert other.hears(b"a\n") == b"a\r\n"


def test_a_silent_peer_that_does_not_read_is_reset() -> None:
    peer = Peer("lines", greeter=TextGreeter("x" * 100_000 + "{name}"), reads=False)
    peer.say(b"a\n" * 10)
    peer.clock.advance(DEADLINE * 1.02)
    assert peer.reset
    assert peer.context.admission.open == 0


def test_a_close_that_the_peer_does_not_let_happen_ends_at_the_deadline() -> None:
    peer = Peer("lines:max=5", reads=False)
    peer.say(b"too long\n")
    assert not peer.closed
    peer.clock.advance(DEADLINE / 2)
    assert not peer.closed
    peer.clock.advance(DEADLINE)
    assert peer.reset


def test_the_answers_are_counted() -> None:
    peer = Peer("lines")
    peer.say(b"a\n" * 5)
    peer.say(b"b\n")
    assert peer.context.ledger.answered == {"tcp": 6}
    assert RATE > 6
