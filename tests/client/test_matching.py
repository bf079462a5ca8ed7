"""Patterns on foreign text: the answer is that of `re`, and no text costs unbounded time."""

from __future__ import annotations

import gc
import re
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greetsvc.client.matching import Matcher, MatchingFailed
from greetsvc.client.stats import Expectations

EVIL = [
    (r"^(a+)+$", "a" * 40 + "!"),
    (r"(x+x+)+y", "x" * 60),
    (r"^(a|aa)+$", "a" * 80 + "!"),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 60),
    ("a?" * 40 + "a" * 20 + "b", "a" * 60),
    (r"a*a*a*a*a*a*a*a*a*b", "a" * 3000),
    (r"(?x) ^ (a+) + $", "a" * 40 + "!"),
    (r"(a*)*\1b", "a" * 60),
    ("(a|a)" * 40 + "b", "a" * 60),
    (r"^(?=(a+)+$)", "a" * 40 + "!"),
    (r"\d+\s*\w*[^x]*.*;$", "1" * 20000),
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that were started."""
    found: list[Any] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        found.append(popen(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return found


@pytest.mark.parametrize(("pattern", "text"), EVIL, ids=[pattern[:30] for pattern, _ in EVIL])
def test_a_text_that_would_take_for_ever_is_given_up(pattern: str, text: str, started: list[Any]) -> None:
    matcher = Matcher(re.compile(pattern))
    with pytest.raises(MatchingFailed, match=r"^matching took too long$"):
        matcher.matches(text, 0.1)
    (process,) = started
    assert process.returncode is not None


def test_it_goes_on_after_a_text_that_took_too_long(started: list[Any]) -> None:
    matcher = Matcher(re.compile(r"^(a+)+$"))
    assert matcher.matches("aaa")
    with pytest.raises(MatchingFailed):
        matcher.matches("a" * 40 + "!", 0.1)
    assert matcher.matches("aaa")
    assert not matcher.matches("b")
    assert len(started) == 2
    matcher.close()


def test_the_time_lost_in_a_run_is_bounded_and_comes_back() -> None:
    now = [0.0]
    matcher = Matcher(re.compile(r"^(a+)+$"), now=lambda: now[0])
    evil = "a" * 40 + "!"
    for _ in range(3):
        with pytest.raises(MatchingFailed, match=r"^matching took too long$"):
            matcher.matches(evil)
    with pytest.raises(MatchingFailed, match="matching took too long before"):
        matcher.matches("aaa")
    now[0] += 10.0
    assert matcher.matches("aaa")
    matcher.close()


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("Thank you", "Thank you for connecting"),
        ("^Thank.*connecting$", "Thank you for connecting"),
        (r"\d+ visits", "I had 12 visits"),
        ("a|b|c", "xxc"),
        (r"x[^)*+?]\+\(y", "x_+(y"),
        (r"(?i)(hello|welcome), \w+!", "Hello, world!"),
        ("hello", "x" * 60000 + "hello"),
    ],
)
def test_common_patterns_start_no_process(pattern: str, text: str, started: list[Any]) -> None:
    assert Matcher(re.compile(pattern)).matches(text)
    assert started == []


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("(ä|ö)+\\s", "Grüße: äöä\n", True),
        ("(?s)^(.|x)+$", "\udcff\u2028\x00\n", True),
        (re.compile("(STRASSE)+", re.IGNORECASE), "strassestrasse", True),
        (re.compile("^(b)+$", re.MULTILINE), "a\nb\nc", True),
        ("(a)+" + "b" * 100, "ab", False),
        ("(hello)+", "x" * 65536, False),
    ],
)
def test_the_answer_of_the_other_process_is_that_of_re(
    pattern: Any, text: str, found: bool, started: list[Any]
) -> None:
    matcher = Matcher(re.compile(pattern))
    assert matcher.matches(text) is found
    assert len(started) == 1
    matcher.close()


def test_the_other_process_ends_with_its_matcher(started: list[Any]) -> None:
    matcher = Matcher(re.compile("(a)+"))
    assert matcher.matches("a")
    (process,) = started
    assert process.poll() is None
    del matcher
    gc.collect()
    assert process.returncode is not None


def test_a_process_that_cannot_be_started_or_was_killed_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, started: list[Any]
) -> None:
    matcher = Matcher(re.compile("(a)+"))
    matcher.matches("a")
    started[0].kill()
    started[0].wait()
    with pytest.raises(MatchingFailed):
        matcher.matches("a")
    assert matcher.matches("a")
    matcher.close()
    monkeypatch.setattr("sys.executable", "/nonexistent")
    with pytest.raises(FileNotFoundError):
        matcher.matches("a")


# What counts as cheap is cheap: any pattern of these pieces, on the text that is worst for it.
PIECES = st.lists(
    st.sampled_from(
        ["a", "a*", "a+?", "[ab]*", ".*", "(a|a)", "(a)", "a?", "(?:a|.)", "$", "^", "b", r"\w*", "a{2,9}"]
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(PIECES, st.sampled_from([3, 8, 30, 100, 1000]))
def test_what_is_searched_here_takes_bounded_time(pieces: list[str], length: int) -> None:
    matcher = Matcher(re.compile("".join(pieces) + "!"))
    if matcher._is_cheap(length):
        before = time.process_time()
        matcher.matches("a" * length)
        assert time.process_time() - before < 5, "a million steps take a few hundredths of a second"


def test_the_document_tells_of_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
    assert "matching took too long" in text


@pytest.mark.parametrize("pattern", ["[[a]", "[a-z&&b]", "[a||b]", "[a~~b]"])
def test_a_pattern_that_a_later_python_may_read_otherwise_gives_no_warning(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Expectations.of(pattern, None).expect is not None
