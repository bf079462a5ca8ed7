"""The date and the time as RFC 867 suggests, whatever the locale is."""

from __future__ import annotations

import locale
import time
from collections.abc import Iterator

import pytest

from greetsvc.greeters.daytime import DaytimeGreeter
from greetsvc.visit import Address, Visit


def _at(when: float) -> Visit:
    return Visit("tcp", Address("", 0), Address("", 0), when=when)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test choose the time zone."""
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PST8PDT", b"Monday, February 22, 1982 17:37:43-PST\r\n"),
        ("UTC0", b"Tuesday, February 23, 1982 01:37:43-UTC\r\n"),
        ("XYZ-14", b"Tuesday, February 23, 1982 15:37:43-XYZ\r\n"),
    ],
)
def test_the_local_time_is_given_with_its_zone(name: str, expected: bytes, zone: pytest.MonkeyPatch) -> None:
    zone.setenv("TZ", name)
    time.tzset()
    assert DaytimeGreeter().greet(_at(383276263)) == expected


def test_the_words_are_english_whatever_the_locale_is(zone: pytest.MonkeyPatch) -> None:
    zone.setenv("TZ", "UTC0")
    time.tzset()
    days = {DaytimeGreeter().greet(_at(86400 * 31 * month)).split(b",")[0] for month in range(12)}
    spoken = {DaytimeGreeter().greet(_at(86400.0 * 30.5 * month)).split()[1] for month in range(12)}
    assert days <= {b"Monday", b"Tuesday", b"Wednesday", b"Thursday", b"Friday", b"Saturday", b"Sunday"}
    assert {b"January", b"June", b"December"} <= spoken
    zone.setattr(locale, "setlocale", None)
    zone.setattr(time, "strftime", None)
    assert DaytimeGreeter().greet(_at(0)) == b"Thursday, January 1, 1970 00:00:00-UTC\r\n"


def test_the_encoding_is_kept_and_an_argument_refused() -> None:
    assert DaytimeGreeter.from_argument("", "utf-16").greet(_at(0)).decode("utf-16").endswith("\r\n")
    assert DaytimeGreeter().needs == {"when"}
    with pytest.raises(ValueError, match="'now'"):
        DaytimeGreeter.from_argument("now", "utf-8")
