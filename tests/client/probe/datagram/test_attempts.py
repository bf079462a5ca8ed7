"""Probes over datagrams: real peers on loopback."""

from __future__ import annotations

import errno
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Timer
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from greetsvc import GreetFailed, Greeting, greet, greet_many, wire
from greetsvc.client.evidence.icmp import Icmp
from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe.addresses import SocketAddress
from greetsvc.client.probe.datagram import attempts
from greetsvc.client.probe.datagram.attempts import probe_udp, probe_unixgram
from greetsvc.client.probe.datagram.requests import send_request
from greetsvc.client.probe.probe import Probe
from greetsvc.client.probe.series import repeat, result_of
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.target import parse
from greetsvc.client.words import PERHAPS_EARLIER, TOO_LATE
from greetsvc.net.linux import error_queue
from greetsvc.server.sessions import Sessions
from greetsvc.visit import Address
from tests.support.waiting import until

reactor: Any = global_reactor
OPTIONS = ProbeOptions(limit=100)


def plain(number: int, when: int) -> bytes:
    return b"x"


def hello(sock: socket.socket, data: bytes, sender: Any) -> None:
    sock.sendto(b"hello\r\n", sender)


@pytest_twisted.ensureDeferred
async def test_time_that_passes_while_a_request_is_sent_is_part_of_its_round_trip(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy system may run others between the sending and the next line of ours."""
    waited = 0.0

    def sends_and_waits(*arguments: Any) -> int:
        nonlocal waited
        waited += 2.0
        return send_request(*arguments)

    monkeypatch.setattr(attempts, "send_request", sends_and_waits)
    target = parse(peers.datagram(hello))
    timeline = Timeline(target, OPTIONS, now=lambda: time.monotonic() + waited)
    await probe_udp(timeline, SocketAddress(socket.AF_INET, ("127.0.0.1", target.port)), plain, reactor)
    (attempt,) = timeline.attempts
    assert attempt.seconds is not None
    assert 2.0 <= attempt.seconds < 4.0


async def failure(target: str, **options: Any) -> GreetFailed:
    with pytest.raises(GreetFailed) as caught:
        await greet(target, **options)
    return caught.value


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest_twisted.ensureDeferred
async def test_a_datagram_greets(peers: Any, family: int) -> None:
    target = peers.datagram(hello, family=family)
    greeting = await greet(target)
    assert greeting.data == b"hello\r\n"
    assert greeting.closed is None
    assert greeting.peer.port == parse(target).port
    assert greeting.seconds.connect is None
    assert greeting.seconds.first_byte is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "[::ffff:0.0.0.0]", "[::ffff:127.0.0.1]", "[::]"])
@pytest_twisted.ensureDeferred
async def test_an_unspecified_or_mapped_address_is_greeted(peers: Any, host: str) -> None:
    family = socket.AF_INET6 if host == "[::]" else socket.AF_INET
    target = parse(peers.datagram(hello, family=family))
    greeting = await greet(f"udp:{host}:{target.port}")
    assert greeting.data == b"hello\r\n"
    assert greeting.peer.port == target.port
    assert greeting.peer.host.removeprefix("::ffff:") == target.host
    assert greeting.notes == ()


@pytest_twisted.ensureDeferred
async def test_the_request_carries_the_mark_a_nonce_and_the_size_asked_for(peers: Any) -> None:
    seen: list[bytes] = []

    def watch(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append(data)
        hello(sock, data, sender)

    target = peers.datagram(watch)
    await greet(target)
    await greet(target, size=64)
    await greet(target, size=0)
    assert [len(request) for request in seen] == [1200, 64, 0]
    nonces = {wire.nonce_of(request) for request in seen[:2]}
    assert None not in nonces
    assert len(nonces) == 2


@pytest_twisted.ensureDeferred
async def test_a_lost_request_is_sent_again_with_a_nonce_of_its_own_from_another_port(peers: Any) -> None:
    seen: list[tuple[Any, bytes]] = []

    def deaf_at_first(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append((sender, data))
        if len(seen) > 1:
            hello(sock, data, sender)

    target = peers.datagram(deaf_at_first)
    greeting = await greet(target, timeout=5)
    assert greeting.seconds.total > 0.4
    first, second = greeting.attempts
    assert first.seconds is None
    assert 0 <= first.time < second.time - 0.4
    assert greeting.took == greeting.seconds.first_byte == second.seconds
    assert greeting.requests_lost == 1
    await greet(target)
    (port, request), (other_port, again), (_, next_request) = seen
    assert port != other_port
    assert len({wire.nonce_of(each) for each in (request, again, next_request)}) == 3


@pytest_twisted.ensureDeferred
async def test_an_answer_counts_for_the_request_that_it_answers(peers: Any) -> None:
    greeting = await greet(peers.datagram(peers.later(0.7)))
    answered, repeated = greeting.attempts
    assert answered.seconds == greeting.took == greeting.seconds.first_byte
    assert (answered.seconds or 0) >= 0.69
    assert repeated.seconds is None
    assert greeting.requests_lost == 0, "the second request had no time for an answer"


@pytest.mark.parametrize("unix", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_late_answer_counts_for_no_probe_and_is_noted(peers: Any, unix: bool, tmp_path: Path) -> None:
    target = peers.datagram(peers.later(0.45), path=tmp_path / "s" if unix else None)
    found = [result async for result in greet_many(target, count=3, interval=0, timeout=0.3)]
    assert [type(result) for result in found] == [GreetFailed] * 3
    assert found[2].notes == ("an answer to an earlier request came late",)
    assert [len(result.attempts) for result in found] == [1, 1, 1]


@pytest_twisted.ensureDeferred
async def test_an_answer_that_comes_twice_is_noted(peers: Any) -> None:
    target = peers.datagram(peers.later(0, 0.01))
    found = [result async for result in greet_many(target, count=2, interval=0.1)]
    assert found[0].notes == ()
    assert found[1].notes == ("an answer came twice",)


async def from_port(target: str, port: int, count: int, interval: float = 0.0, **options: Any) -> list[Any]:
    """The results of a series of probes from one port."""
    probe = Probe(parse(target), ProbeOptions(**options)).from_port(port)
    pace: Any = {"count": count, "interval": interval, "clock": reactor, "now": reactor.seconds}
    found = [result async for result in repeat(lambda: result_of(probe.run()), **pace)]
    probe.close()
    return found


@pytest.mark.parametrize(("delay", "interval"), [(0.35, 0.3), (0.5, 0.3), (0.8, 0.3), (0.7, 0.7)])
@pytest_twisted.ensureDeferred
async def test_from_a_fixed_port_a_late_answer_counts_for_no_probe(
    peers: Any, free_port: int, delay: float, interval: float
) -> None:
    found = await from_port(peers.datagram(peers.later(delay)), free_port, 4, interval, timeout=0.3)
    assert [type(result) for result in found] == [GreetFailed] * 4
    notes = [note for result in found for note in result.notes]
    assert any(note.startswith("an answer to an earlier request came late, after ") for note in notes)


@pytest_twisted.ensureDeferred
async def test_from_a_fixed_port_a_lost_request_costs_one_probe(peers: Any, free_port: int) -> None:
    seen: list[Any] = []

    def lossy(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append(sender)
        if len(seen) % 3 != 2:
            hello(sock, data, sender)

    found = await from_port(peers.datagram(lossy), free_port, 6, timeout=0.2)
    assert [isinstance(result, Greeting) for result in found] == [True, False, True, True, False, True]
    assert all((result.took or 1) < 0.2 for result in found if isinstance(result, Greeting)), "waiting does not count"
    assert len(seen) == 6, "a request from a fixed port is sent once"
    assert {port for _, port in seen} == {free_port}


@pytest_twisted.ensureDeferred
async def test_from_a_fixed_port_an_answer_of_unknown_request_has_no_time(peers: Any, free_port: int) -> None:
    """The second probe sees a copy of the first one's answer, and its own."""
    target = peers.datagram(peers.later(0.1, 0.12))
    first, second = await from_port(target, free_port, 2)
    assert first.took > 0.09
    assert isinstance(second, Greeting)
    assert second.notes == ("an answer came twice",)
    assert (second.took, second.seconds.first_byte) == (None, None)


@pytest_twisted.ensureDeferred
async def test_from_a_fixed_port_an_answer_that_names_its_request_counts(peers: Any, free_port: int) -> None:
    seen: list[bytes] = []

    def record(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append(data)
        if len(seen) > 1:
            here, nonce = Address(*sock.getsockname()), wire.nonce_of(data)
            line = wire.PathRecord("aa", nonce, "udp", Address(*sender), here, None, None, None, None, None)
            sock.sendto(wire.encode_record(line), sender)
            sock.sendto(wire.encode_record(line), sender)

    lost, greeted = await from_port(peers.datagram(record), free_port, 2, timeout=0.2)
    assert isinstance(lost, GreetFailed)
    assert isinstance(greeted, Greeting)
    assert greeted.seconds.total < 0.2


class Measuring:
    """A far end that measures: it greets those who do not ask, and does to each request what ``fates`` say."""

    def __init__(self, *fates: str) -> None:
        self.fates = list(fates)
        self.sessions = Sessions()
        self.seen: list[bytes] = []
        self.late: list[tuple[bytes, Any]] = []
        """What is sent when the next request comes: after the probe is over."""

    def __call__(self, sock: socket.socket, data: bytes, sender: Any) -> None:
        self.seen.append(data)
        if not wire.has_fields(data):
            hello(sock, data, sender)
            return
        while self.late:
            sock.sendto(*self.late.pop())
        fate = self.fates.pop(0) if self.fates else ""
        answers = [] if fate == "there" else [self.sessions.answer(data, 0, len(data), None, 61, 0)]
        if fate == "twice there":
            answers.append(self.sessions.answer(data, 0, len(data), None, 61, 0))
        if fate == "twice back":
            answers *= 2
        for answer in answers:
            assert answer is not None
            if fate == "late":
                self.late.append((answer, sender))
            elif fate != "back":
                sock.sendto(answer, sender)


async def measured(target: str, count: int, port: int | None = None, **options: Any) -> tuple[Probe, list[Any]]:
    """A series of measured probes, which has settled, and its results."""
    probe = Probe(parse(target), ProbeOptions(**options)).from_port(port, measure=True)
    pace: Any = {"count": count, "interval": 0.0, "clock": reactor, "now": reactor.seconds}
    found = [result async for result in repeat(lambda: result_of(probe.run()), **pace)]
    await probe.settle()
    probe.close()
    return probe, found


@pytest.mark.parametrize("fixed", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_measured_series_says_which_way_requests_were_lost(peers: Any, free_port: int, fixed: bool) -> None:
    fates = ["", "there", "", "back", "there", "twice there", "twice back", "late", *[""] * 4]
    far = Measuring(*fates)
    probe, found = await measured(peers.datagram(far), 13, free_port if fixed else None, timeout=0.1)
    assert [isinstance(result, Greeting) for result in found] == [
        fate not in {"there", "back", "late"} for fate in ["", *fates]
    ]
    direction = probe.direction
    assert direction is not None
    assert len(far.seen) == 1 + direction.there.sent
    there, back = direction.there, direction.back
    assert (there.lost, there.duplicated, there.hops) == (2, 1, 3)
    assert (back.lost, back.duplicated, back.late) == (1, 1, 1)
    assert direction.unknown == 0
    assert len({wire.nonce_of(request) for request in far.seen}) == len(far.seen)
    exchange = next(iter(found[1].attempts)).exchange
    assert exchange is not None
    assert exchange.sent < exchange.rx <= exchange.tx < exchange.received
    assert found[1].took < found[1].seconds.total
    assert found[1].measured
    assert not found[0].measured


@pytest_twisted.ensureDeferred
async def test_what_the_host_refuses_at_the_end_was_lost_on_the_way_there(peers: Any) -> None:
    far, closed = Measuring(), Event()

    def leaving(sock: socket.socket, data: bytes, sender: Any) -> None:
        far(sock, data, sender)
        if len(far.seen) == 4:
            sock.close()
            closed.set()

    probe = Probe(parse(peers.datagram(leaving)), ProbeOptions()).from_port(None, measure=True)
    found = [await result_of(probe.run()) for _ in range(4)]
    await until(closed.is_set)
    found += [await result_of(probe.run()) for _ in range(4)]
    await probe.settle()
    probe.close()
    assert [isinstance(result, Greeting) for result in found] == [True] * 4 + [False] * 4
    direction = probe.direction
    assert direction is not None, probe.unmeasured
    closing = 1  # it was refused too, so it was the last
    assert (direction.there.sent, direction.back.sent, direction.back.lost) == (7 + closing, 3, 0)
    assert (direction.there.lost, direction.refused, direction.unknown) == (5, 5, 0)


@pytest_twisted.ensureDeferred
async def test_a_repeated_request_is_one_more_measured_request(peers: Any) -> None:
    probe, found = await measured(peers.datagram(Measuring("there", "")), 2)
    direction = probe.direction
    assert direction is not None
    assert [attempt.exchange is None for attempt in found[1].attempts] == [True, False]
    assert (direction.there.sent, direction.there.lost, direction.back.lost) == (3, 1, 0)
    assert found[1].took < 0.4, "the wait for the lost request is no time of the path"


@pytest_twisted.ensureDeferred
async def test_measured_requests_are_one_flow_so_that_one_of_several_servers_counts_them(peers: Any) -> None:
    by_port: dict[int, Measuring] = {}

    def balanced(sock: socket.socket, data: bytes, sender: Any) -> None:
        by_port.setdefault(sender[1], Measuring("", "", "there", "late"))(sock, data, sender)

    probe, found = await measured(peers.datagram(balanced), 6, timeout=0.7)
    assert len(by_port) == 2, "the request for the greeting, and the others"
    assert [len(result.attempts) for result in found] == [1, 1, 1, 2, 1, 1]
    direction = probe.direction
    assert direction is not None, probe.unmeasured
    measured_requests = sum(len(server.seen) for server in by_port.values()) - 1
    assert (direction.there.sent, direction.there.lost) == (measured_requests, 1)
    assert (direction.back.lost, direction.back.late, direction.unknown) == (0, 1, 0)


@pytest.mark.parametrize("answers", [1, 2])
@pytest_twisted.ensureDeferred
async def test_a_far_end_that_does_not_measure_is_greeted_all_the_same(peers: Any, answers: int) -> None:
    def far(sock: socket.socket, data: bytes, sender: Any) -> None:
        for _ in range(answers):
            hello(sock, data, sender)

    probe, found = await measured(peers.datagram(far), 4)
    assert [result.text for result in found] == ["hello\r\n"] * 4
    assert probe.direction is None
    assert probe.unmeasured == "the far end gives no measured answers"


@pytest.mark.parametrize("greeted", [True, False], ids=["answered", "lost"])
@pytest_twisted.ensureDeferred
async def test_a_late_answer_on_the_port_of_measured_requests_counts_for_no_probe(peers: Any, greeted: bool) -> None:
    """The far end does not measure, so that nothing but the port tells which request it answers."""
    ports: list[int] = []

    def far(sock: socket.socket, data: bytes, sender: Any) -> None:
        ports.append(sender[1])
        # The second request is answered when the third comes from its port; the fourth is the third once more.
        if len(ports) in {1, 3, 4 * greeted}:
            hello(sock, data, sender)

    _, found = await measured(peers.datagram(far), 3, timeout=0.45)
    assert [isinstance(result, Greeting) for result in found] == [True, False, greeted]
    assert ports[1] == ports[2] != ports[3], "only a request from a port of its own tells"
    assert len(ports) == 4, "it is sent once"
    assert found[2].notes == (PERHAPS_EARLIER,)
    assert found[2].requests_lost == (1 if greeted else 2)


@pytest.mark.parametrize("answers", [b"hello\r\n", b"", b"x" * 300], ids=["plain", "empty", "too long"])
@pytest_twisted.ensureDeferred
async def test_a_far_end_that_measures_no_longer_is_asked_once_more_and_not_without_end(
    peers: Any, answers: bytes
) -> None:
    """One request was lost before. So what comes to its port, be it faulty or not, may be an answer to that one."""
    far, ports = Measuring("", "there"), []

    def changed(sock: socket.socket, data: bytes, sender: Any) -> None:
        ports.append(sender[1])
        if len(ports) < 4:
            far(sock, data, sender)
        else:
            sock.sendto(answers if len(ports) == 4 else b"hello\r\n", sender)

    probe, found = await measured(peers.datagram(changed), 5, timeout=0.45, limit=200)
    assert [isinstance(result, Greeting) for result in found] == [True, True, False, True, True]
    assert (found[3].notes, found[4].notes) == ((PERHAPS_EARLIER,), ())
    assert [len(result.attempts) for result in found] == [1, 1, 1, 2, 1]
    assert len(ports) < 6 + 9, "of which the last are those that ask for the end of the series"
    assert probe.direction is None


async def after_a_loss(target: str, hold_up: Callable[[], None] = lambda: None) -> Greeting:
    """The fourth probe of a measured series, which has time to repeat its request; the third was lost."""
    probe = Probe(parse(target), ProbeOptions(timeout=0.45)).from_port(None, measure=True)
    found = [await result_of(probe.run()) for _ in range(3)]
    probe = evolve(probe, options=evolve(probe.options, timeout=5.0))
    hold_up()
    result = await result_of(probe.run())
    probe.close()
    assert [isinstance(each, Greeting) for each in (*found, result)] == [True, True, False, True]
    assert isinstance(result, Greeting)
    return result


@pytest_twisted.ensureDeferred
async def test_a_plain_answer_to_a_request_that_was_repeated_has_one_asked_alone(peers: Any) -> None:
    """Plain, measured, one that is lost; of the last probe the first request is lost, and the second is answered."""
    far, seen = Measuring("", "there"), []

    def changed(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append(sender[1])
        if len(seen) < 3:
            far(sock, data, sender)
        elif len(seen) > 4:
            hello(sock, data, sender)

    result = await after_a_loss(peers.datagram(changed))
    assert result.notes == (PERHAPS_EARLIER,)
    assert seen[2] == seen[3] == seen[4] != seen[5]


@pytest_twisted.ensureDeferred
async def test_after_a_plain_answer_that_may_be_to_an_earlier_request_the_measured_one_counts(peers: Any) -> None:
    sessions, seen = Sessions(), []

    def far(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append(data)
        if len(seen) in {1, 3}:
            hello(sock, data, sender)
        if len(seen) == 3:
            answer = sessions.answer(data, 0, len(data), None, 61, 0)
            assert answer is not None
            sock.sendto(answer, sender)

    _, found = await measured(peers.datagram(far), 3, timeout=0.45)
    assert [isinstance(result, Greeting) for result in found] == [True, False, True]
    assert found[2].notes == (PERHAPS_EARLIER,)


def hold_up_by_timer() -> None:
    """After this the reactor reads before it looks at its timers."""
    reactor.callLater(0.02, time.sleep, 0.7)


def hold_up_before_timers() -> None:
    """After this the timers of that time are run first."""
    reactor.callLater(0.02, reactor.callFromThread, time.sleep, 0.7)


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("hold_up", [hold_up_by_timer, hold_up_before_timers])
@pytest.mark.parametrize(("delay", "greeted"), [(0.05, True), (0.5, False)], ids=["in time", "too late"])
@pytest_twisted.ensureDeferred
async def test_when_an_answer_came_counts_and_not_when_a_busy_process_sees_it(
    peers: Any, delay: float, greeted: bool, hold_up: Callable[[], None], measure: bool
) -> None:
    far, asked = Measuring(), []

    def slow(sock: socket.socket, data: bytes, sender: Any) -> None:
        asked.append(data)
        Timer(delay, far, (sock, data, sender)).start()

    probe = Probe(parse(peers.datagram(slow)), ProbeOptions(timeout=0.45)).from_port(None, measure=measure)
    if measure and probe.history is not None:
        probe.history.asks = True
    hold_up()
    result = await result_of(probe.run())
    probe.close()
    assert isinstance(result, Greeting) is greeted
    assert result.notes == (() if greeted else (TOO_LATE,))
    assert len(asked) == 1


@pytest_twisted.ensureDeferred
async def test_strays_before_the_answer_do_not_hide_it_when_the_time_is_over(peers: Any) -> None:
    def crowded(sock: socket.socket, data: bytes, sender: Any) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for _ in range(20):
                other.sendto(b"somebody else", sender)
        hello(sock, data, sender)

    hold_up_before_timers()
    result = await result_of(Probe(parse(peers.datagram(crowded)), ProbeOptions(timeout=0.45)).run())
    assert isinstance(result, Greeting)
    assert len(result.attempts) == 1


@pytest_twisted.ensureDeferred
async def test_what_makes_a_request_doubtful_just_before_it_is_repeated_has_it_sent_once(peers: Any) -> None:
    """The plain answer is there, and the process wakes when the request is to be repeated."""
    far, seen = Measuring("", "there"), []

    def changed(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append(sender[1])
        if len(seen) < 4:
            far(sock, data, sender)
        elif len(seen) == 4:
            hello(sock, data, sender)
        else:
            Timer(0.05, hello, (sock, data, sender)).start()

    await after_a_loss(peers.datagram(changed), hold_up_before_timers)
    assert len(seen) == 5
    assert not [call for call in reactor.getDelayedCalls() if "_DatagramProbe" in str(call)]


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS])
@pytest_twisted.ensureDeferred
async def test_a_repeat_that_cannot_be_sent_ends_no_series(
    peers: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """All measured requests leave from one socket, which stays open."""
    far, sent = Measuring("", "there"), 0

    def fails_once(*arguments: Any) -> int:
        nonlocal sent
        sent += 1
        return number if sent == 4 else send_request(*arguments)

    monkeypatch.setattr(attempts, "send_request", fails_once)
    probe, found = await measured(peers.datagram(far), 5, timeout=2.0)
    assert [isinstance(result, Greeting) for result in found] == [True, True, number == errno.ENOBUFS, True, True]
    if number != errno.ENOBUFS:
        assert found[2].errno == number
    direction = probe.direction
    assert direction is not None, probe.unmeasured
    assert direction.there.lost == 1


@pytest_twisted.ensureDeferred
async def test_no_request_is_sent_after_the_time(peers: Any) -> None:
    asked: list[bytes] = []
    target = peers.datagram(lambda _, data, __: asked.append(data))
    hold_up_before_timers()
    assert isinstance(await failure(target, timeout=0.6), GreetFailed)
    assert len(asked) == 1


@pytest_twisted.ensureDeferred
async def test_a_silent_far_end_is_not_said_to_measure_nothing(peers: Any) -> None:
    probe, _ = await measured(peers.datagram(peers.hold), 1, timeout=0.05)
    assert (probe.direction, probe.unmeasured) == (None, "nothing answered")


@pytest_twisted.ensureDeferred
async def test_a_far_end_that_measures_only_at_times_makes_nothing_certain(peers: Any) -> None:
    far, seen = Measuring(), []

    def at_times(sock: socket.socket, data: bytes, sender: Any) -> None:
        seen.append(data)
        (hello if len(seen) == 3 else far)(sock, data, sender)

    probe, found = await measured(peers.datagram(at_times), 4)
    assert all(isinstance(result, Greeting) for result in found)
    assert (probe.direction, probe.unmeasured) == (None, "an answer was not measured")


@pytest_twisted.ensureDeferred
async def test_a_hostile_far_end_makes_no_traceback_and_no_certainty(peers: Any) -> None:
    lies: list[bytes] = []

    def liar(sock: socket.socket, data: bytes, sender: Any) -> None:
        if not wire.has_fields(data):
            hello(sock, data, sender)
            return
        fields, nonce = wire.fields_of(data), wire.nonce_of(data)
        honest = f"greeted 1 {nonce} s={fields['s']} n={fields['n']} a={fields['a']} seen={{}} seq={{}} rx={{}} tx=1"
        others = f"greeted 1 {'0' * 16} s={fields['s']} n=0 a=0 seen=1 seq=1 rx=1 tx=1 ttl=1 tos=1 size=1"
        lies[:] = [others.encode(), honest.format(5, 9, "9" * 19).encode() + b" ttl=255 tos=255 size=99999"]
        for lie in lies:
            sock.sendto(lie, sender)

    probe, found = await measured(peers.datagram(liar), 4)
    assert all(isinstance(result, Greeting) for result in found)
    assert probe.direction is None
    assert probe.unmeasured.startswith("the answers contradict each other")
    assert found[1].notes == ("an answer to another request came",)
    assert found[1].took == found[1].attempts[0].seconds, "a time that cannot be is not taken off"


@pytest_twisted.ensureDeferred
async def test_silence_times_out_and_the_number_of_requests_is_reported(peers: Any) -> None:
    failed = await failure(peers.datagram(peers.hold), timeout=0.7)
    assert (failed.errno, failed.phase) == (errno.ETIMEDOUT, "greet")
    assert failed.strerror == "no answer to 2 requests within 0.7 s"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest_twisted.ensureDeferred
async def test_port_unreachable_is_connection_refused_at_greet(host: str, free_port: int) -> None:
    failed = await failure(f"udp:{host}:{free_port}")
    assert (failed.errno, failed.phase) == (errno.ECONNREFUSED, "greet")
    message = "ICMPv6 type 1 code 4" if ":" in host else "ICMP type 3 code 3"
    by = f"reported by {host.strip('[]')}, the target"
    assert failed.strerror == f"Connection refused: port unreachable ({message}), {by}"
    assert failed.icmp is not None
    assert failed.icmp.sender == "target"


@pytest_twisted.ensureDeferred
async def test_an_answer_from_another_address_is_reported_and_not_taken(peers: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        place = f"127.0.0.1 port {other.getsockname()[1]}"
        failed = await failure(peers.datagram(lambda s, d, sender: other.sendto(b"psst", sender)), timeout=0.3)
        assert failed.errno == errno.ETIMEDOUT
        assert f"an answer came from another address: {place}" in str(failed)

        def both(sock: socket.socket, data: bytes, sender: Any) -> None:
            other.sendto(b"psst", sender)
            other.sendto(b"psst", sender)
            hello(sock, data, sender)

        greeting = await greet(peers.datagram(both))
    assert greeting.data == b"hello\r\n"
    assert greeting.notes == (f"an answer came from another address: {place}",)


@pytest_twisted.ensureDeferred
async def test_an_empty_answer_is_enodata_and_one_that_is_too_long_is_emsgsize(peers: Any) -> None:
    assert (await failure(peers.datagram(lambda s, d, sender: s.sendto(b"", sender)))).errno == errno.ENODATA
    target = peers.datagram(lambda s, d, sender: s.sendto(b"x" * 101, sender))
    assert (await failure(target, limit=100)).errno == errno.EMSGSIZE
    assert len((await greet(target, limit=101)).data) == 101


@pytest_twisted.ensureDeferred
async def test_a_request_that_the_system_refuses_to_send_is_a_failure_at_greet() -> None:
    failed = await failure("udp:255.255.255.255:9")
    assert failed.errno in (errno.EACCES, errno.ENETUNREACH)
    assert failed.phase == "greet"


@pytest_twisted.ensureDeferred
async def test_cancelling_leaves_nothing_behind(peers: Any) -> None:
    probing: Deferred[Greeting] = Deferred.fromCoroutine(greet(peers.datagram(peers.hold), timeout=30))
    probing.cancel()
    with pytest.raises(CancelledError):
        await probing


@pytest_twisted.ensureDeferred
async def test_where_errors_are_not_queued_a_connected_socket_gets_them(peers: Any, free_port: int) -> None:
    def remote(port: int) -> SocketAddress:
        return SocketAddress(socket.AF_INET, ("127.0.0.1", port))

    timeline = Timeline(parse(f"udp:127.0.0.1:{free_port}"), OPTIONS)
    with pytest.raises(GreetFailed) as caught:
        await probe_udp(timeline, remote(free_port), plain, reactor, queued=False)
    assert (caught.value.errno, caught.value.strerror) == (errno.ECONNREFUSED, "Connection refused")
    target = parse(peers.datagram(hello))
    assert (
        await probe_udp(Timeline(target, OPTIONS), remote(target.port), plain, reactor, queued=False) == b"hello\r\n"
    )


@pytest_twisted.ensureDeferred
async def test_a_socket_that_cannot_be_connected_is_named() -> None:
    timeline = Timeline(parse("udp:255.255.255.255:9"), OPTIONS)
    with pytest.raises(GreetFailed):
        await probe_udp(timeline, SocketAddress(socket.AF_INET, ("255.255.255.255", 9)), plain, reactor, queued=False)


@pytest_twisted.ensureDeferred
async def test_a_unix_datagram_socket_greets(peers: Any, tmp_path: Path) -> None:
    target = peers.datagram(hello, path=tmp_path / "s")
    greeting = await greet(target)
    assert greeting.data == b"hello\r\n"
    assert greeting.peer == Address(str(tmp_path / "s"), 0)
    assert greeting.seconds.connect is not None


@pytest_twisted.ensureDeferred
async def test_without_abstract_addresses_a_temporary_path_is_used_and_removed(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    senders: list[str] = []

    def watch(sock: socket.socket, data: bytes, sender: Any) -> None:
        senders.append(sender)
        hello(sock, data, sender)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    target = parse(peers.datagram(watch, path=tmp_path / "s"))
    assert (
        await probe_unixgram(Timeline(target, OPTIONS), target.path, plain, reactor, abstract=False) == b"hello\r\n"
    )
    assert senders[0].startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == [tmp_path / "s"]


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_answer_to_an_abstract_address_answers_to_a_path(
    peers: Any, tmp_path: Path
) -> None:
    """As one in another network namespace."""
    senders: list[Any] = []

    def elsewhere(sock: socket.socket, data: bytes, sender: Any) -> None:
        senders.append(sender)
        if isinstance(sender, str):
            assert Path(sender).stat().st_mode & 0o777 == 0o666
            hello(sock, data, sender)

    lines: list[str] = []
    target = parse(peers.datagram(elsewhere, path=tmp_path / "s"))
    timeline = Timeline(target, OPTIONS, trace=lines.append)
    assert await probe_unixgram(timeline, target.path, plain, reactor) == b"hello\r\n"
    assert [type(sender) for sender in senders] == [bytes, str]
    assert senders[1].startswith(f"{tmp_path}/s.")
    assert list(tmp_path.iterdir()) == [tmp_path / "s"], "the answer address is removed"
    assert f"* the answer address is now {senders[1]}" in lines


@pytest_twisted.ensureDeferred
async def test_a_path_too_long_for_an_answer_address_is_told_when_no_answer_comes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path = path.with_name("s" * (103 - len(str(tmp_path)) - 1))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        silent.bind(str(path))
        failed = await failure(f"unixgram:{path}", timeout=0.7)
    assert (failed.errno, failed.phase) == (errno.ETIMEDOUT, "greet")
    assert f"no answer to 2 requests within 0.7 s (no answer address beside {path}: " in str(failed)
    assert str(failed).endswith(": AF_UNIX path too long)")


@pytest_twisted.ensureDeferred
async def test_a_silent_unix_server_leaves_no_answer_address_behind(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        silent.bind(str(tmp_path / "s"))
        failed = await failure(f"unixgram:{tmp_path}/s", timeout=0.7)
    assert "no answer to 2 requests within 0.7 s" in str(failed)
    assert list(tmp_path.iterdir()) == [tmp_path / "s"]


@pytest_twisted.ensureDeferred
async def test_a_unix_datagram_path_without_a_listener_is_named_at_connect(tmp_path: Path) -> None:
    failed = await failure(f"unixgram:{tmp_path}/none")
    assert (failed.errno, failed.phase) == (errno.ENOENT, "connect")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "left"))
    failed = await failure(f"unixgram:{tmp_path}/left")
    assert (failed.errno, failed.phase) == (errno.ECONNREFUSED, "connect")


@pytest_twisted.ensureDeferred
async def test_a_unix_receiver_with_a_full_queue_gets_the_request_later(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with ExitStack() as open_sockets:

        def unix_socket() -> socket.socket:
            sock = open_sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sock.setblocking(False)
            return sock

        full = unix_socket()
        full.bind(path)
        for _ in range(100):
            filler, sent = unix_socket(), 0
            with suppress(BlockingIOError):
                for _ in range(1000):
                    sent += filler.sendto(b"x", path)
            if not sent:
                break
        probing: Deferred[Greeting] = Deferred.fromCoroutine(greet(f"unixgram:{path}"))

        def answer() -> None:
            with suppress(BlockingIOError):
                while True:
                    data, sender = full.recvfrom(2000)
                    if sender is not None:
                        hello(full, data, sender)
            if not probing.called:
                reactor.callLater(0.005, answer)

        reactor.callLater(0.02, answer)
        assert (await probing).data == b"hello\r\n"
        await deferLater(reactor, 0.01, lambda: None)


class Reactor(Clock):
    """Remembers who reads; the test says when there is something to read."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)


def started(clock: Reactor, port: int) -> tuple[Any, list[Any]]:
    """A probe that has sent its request, as the reactor sees it, and a list for its result."""
    result: list[Any] = []
    timeline = Timeline(parse(f"udp:127.0.0.1:{port}"), OPTIONS, now=clock.seconds)
    remote = SocketAddress(socket.AF_INET, ("127.0.0.1", port))
    probing = Deferred.fromCoroutine(probe_udp(timeline, remote, plain, cast("Any", clock)))
    probing.addBoth(result.append)
    return clock.readers[0], result


def test_a_spurious_event_changes_nothing(peers: Any) -> None:
    clock = Reactor()
    reader, result = started(clock, parse(peers.datagram(peers.hold)).port)
    reader.doRead()
    clock.removeReader(reader)
    reader.connectionLost(Failure(ConnectionDone()))
    assert clock.readers == [reader]
    clock.advance(5)
    assert result[0].value.errno == errno.ETIMEDOUT
    assert clock.readers == []


def test_a_reactor_may_report_an_error_as_readable(free_port: int) -> None:
    reader, result = started(Reactor(), free_port)
    reader.doRead()
    assert result[0].value.errno == errno.ECONNREFUSED


def test_a_request_that_is_too_long_for_the_path_is_sent_again(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Reactor()
    reader, result = started(clock, parse(peers.datagram(peers.hold)).port)
    monkeypatch.setattr(
        error_queue, "read", lambda *_: [error_queue.QueuedError(errno.EMSGSIZE, "192.0.2.1", 4, 3, 4)]
    )
    reader.connectionLost(Failure(ConnectionDone()))
    assert result == []
    monkeypatch.setattr(
        error_queue, "read", lambda *_: [error_queue.QueuedError(errno.EHOSTUNREACH, "192.0.2.1", 4, 3, 10)]
    )
    reader.connectionLost(Failure(ConnectionDone()))
    assert result[0].value.strerror == (
        "No route to host: host administratively prohibited "
        "(ICMP type 3 code 10), reported by 192.0.2.1, a router on the path"
    )
    assert result[0].value.icmp == Icmp(4, 3, 10, "192.0.2.1", "router")
