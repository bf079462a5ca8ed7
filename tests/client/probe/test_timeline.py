"""The account of one probe, on a clock of the test's own."""

from __future__ import annotations

from greetsvc.client.probe.timeline import Progress
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
    progress = Progress(parse("tls:localhost"), 5, now=clock)
    for phase, seconds in (("resolve", 0.5), ("connect", 1.0), ("tls", 0.25)):
        progress.enter(phase)  # type: ignore[arg-type]
        clock.now += seconds
        progress.leave()
    progress.enter("greet")
    clock.now += 0.125
    progress.first_byte()
    clock.now += 1
    progress.first_byte()
    assert progress.seconds() == Seconds(resolve=0.5, connect=1.0, tls=0.25, first_byte=0.125, total=2.875)
    assert progress.remaining() == 2.125
    clock.now += 10
    assert progress.remaining() == 0


def test_a_note_is_kept_and_told_once_and_goes_with_the_verdict() -> None:
    told: list[str] = []
    progress = Progress(parse("localhost"), 5, trace=told.append)
    progress.peer = Address("127.0.0.1", 1)
    progress.note("odd")
    progress.note("odd")
    assert told == ["* odd"]
    assert progress.greeted(b"x", "ascii").notes == ("odd",)
    failed = progress.failed(1, "why")
    assert failed.strerror == "why (odd)"
    assert failed.notes == ("odd",)
