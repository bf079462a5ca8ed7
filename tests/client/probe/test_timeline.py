"""The timeline of one probe, on a clock of the test's own."""

from __future__ import annotations

from greetsvc.client.options import ProbeOptions
from greetsvc.client.probe.timeline import Timeline
from greetsvc.client.result import Seconds
from greetsvc.client.target import parse
from greetsvc.visit import Address


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_step_is_timed_by_itself() -> None:
    clock = Clock()
    timeline = Timeline(parse("tls:localhost"), ProbeOptions(), now=clock)
    for phase, seconds in (("resolve", 0.5), ("connect", 1.0), ("tls", 0.25)):
        timeline.enter(phase)  # type: ignore[arg-type]
        clock.now += seconds
        timeline.leave()
    timeline.enter("greet")
    clock.now += 0.125
    timeline.first_byte()
    clock.now += 1
    timeline.first_byte()
    assert timeline.seconds() == Seconds(resolve=0.5, connect=1.0, tls=0.25, first_byte=0.125, total=2.875)
    assert timeline.remaining() == 2.125
    clock.now += 10
    assert timeline.remaining() == 0


def test_a_note_is_kept_and_traced_once_and_is_part_of_the_result() -> None:
    traced: list[str] = []
    timeline = Timeline(parse("localhost"), ProbeOptions(encoding="ascii"), trace=traced.append)
    timeline.peer = Address("127.0.0.1", 1)
    timeline.note("odd")
    timeline.note("odd")
    assert traced == ["* odd"]
    assert timeline.greeted(b"x").notes == ("odd",)
    failed = timeline.failed(1, "why")
    assert failed.strerror == "why (odd)"
    assert failed.notes == ("odd",)
