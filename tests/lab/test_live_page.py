"""The live page in a real Chromium."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.browser import Tab, browser
from tests.support.process import Program
from tests.support.waiting import wait_until

ADMIN = "Admin site at port: "
MARKUP = "<img src=x onerror=alert(1)>"
PICTURES = [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]


@pytest.fixture
def service(child: Callable[..., Program], tmp_path: Path) -> Program:
    """The service with its admin site, on free ports of this machine and a UNIX socket."""
    here = "interface=127.0.0.1"
    program = child(
        *("--listen", f"tcp:0:{here}", "--listen", f"udp:0:{here}", "--listen", f"unix:{tmp_path / 'sock'}"),
        *("--udp-budget", "0", "--admin", "tcp:0"),
    )
    program.ports(2)
    return program


@pytest.fixture
def address(service: Program) -> str:
    """Where the live page is."""
    return f"http://127.0.0.1:{int(service.wait_for(ADMIN)[0].split()[0])}/"


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Tab]:
    """The live page, when the first figures are there."""
    with browser(tmp_path) as tab:
        tab.open(address)
        tab.until("document.querySelector('#status')?.className === 'ready'")
        yield tab


def greeted(to: tuple[str, int] | str, own: str = "") -> None:
    """Visit, from a socket with the name ``own``."""
    with socket.socket(socket.AF_UNIX if isinstance(to, str) else socket.AF_INET) as sock:
        if own:
            sock.bind(own)
        sock.connect(to)
        while sock.recv(1000):
            pass


def test_it_shows_what_happens_as_it_happens(service: Program, page: Tab, address: str, tmp_path: Path) -> None:
    greeted(("127.0.0.1", service.ports()[0]))
    begun = time.monotonic()
    page.until("document.querySelectorAll('#visits tr').length === 1")
    assert time.monotonic() - begun < 1
    assert page.run("document.querySelector('#latest').textContent").startswith("Over tcp, from 127.0.0.1 port ")
    calls = page.run("[...document.querySelectorAll('#calls code')].map(code => code.textContent)")
    assert calls == ["accept()", "send()", "recv()", "close()"]

    # What a visitor sent is text, whatever it is.
    (tmp_path / MARKUP).parent.mkdir(exist_ok=True)
    greeted(str(tmp_path / "sock"), str(tmp_path / MARKUP))
    page.until(f"document.querySelector('#latest').textContent.includes({MARKUP!r})")
    assert page.run("document.querySelectorAll('img').length") == 0

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", ("127.0.0.1", service.ports(2)[1]))
    page.until("document.querySelector('#reasons').textContent.includes('budget')")

    for theme, width in PICTURES:
        path = tmp_path / f"{theme}-{width}.png"
        page.screenshot(path, width=width, height=900, theme=theme)
        assert path.stat().st_size > 10_000
        assert page.run("document.documentElement.scrollWidth") <= width
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.run(background)
    page.screenshot(tmp_path / "again.png", width=1280, height=900, theme="light")
    assert page.run(background) != dark

    assert page.complaints() == []
    asked = [each for each in page.requests() if not each.startswith("data:")]
    assert asked
    assert all(each.startswith(address) for each in asked)


def test_a_keyboard_reaches_everything_and_each_thing_has_a_name(page: Tab) -> None:
    page.until("document.querySelector('#rate input').max > 2")
    can_have_focus = page.run("document.querySelectorAll('a, button, input, summary').length")
    reached = []
    for _ in range(can_have_focus):
        page.press("Tab")
        reached.append(
            page.run(
                "document.activeElement.id || document.activeElement.textContent || document.activeElement.ariaLabel"
            )
        )
        assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if reached[-1] == "pause":
            page.press("Space")
            assert page.run("document.activeElement.getAttribute('aria-pressed')") == "true"
            page.press("Space")
        elif reached[-1] == "Moment of: Greetings a second":
            page.press("ArrowLeft")
            assert page.run("document.activeElement.getAttribute('aria-valuetext').includes('tcp 0')")
            assert page.run("Number(document.activeElement.value) < Number(document.activeElement.max)")
        elif reached[-1] == "Settings and start":
            page.press("Enter")
            wait_until(lambda: page.run("document.querySelector('details').open"))
            assert "deadline" in page.run("document.querySelector('#settings').textContent")
    assert len(set(reached)) == can_have_focus == 10
    assert page.without_a_name() == []


def test_it_says_that_the_service_ended_and_goes_on_with_the_next_one(
    child: Callable[..., Program], service: Program, page: Tab, address: str
) -> None:
    service.stop()
    page.until("document.querySelector('#status').textContent.startsWith('Connection lost')")
    assert page.run("document.querySelector('#status').className") == ""
    child("--listen", "tcp:0:interface=127.0.0.1", "--admin", f"tcp:{address.strip('/').rpartition(':')[2]}")
    page.until("document.querySelector('#status').className === 'ready'")


def rows(page: Tab) -> int:
    return int(page.run("document.querySelectorAll('#visits tr').length"))


def test_what_is_paused_stays_as_it_is_but_for_the_state(service: Program, page: Tab) -> None:
    port = service.ports()[0]
    greeted(("127.0.0.1", port))
    page.until("document.querySelectorAll('#visits tr').length === 1")
    page.run("document.querySelector('#pause').click()")
    before = page.run("document.querySelector('main').textContent")
    greeted(("127.0.0.1", port))
    page.until("waiting.length === 1")
    assert page.run("document.querySelector('main').textContent") == before
    page.run("document.querySelector('#pause').click()")
    page.until("document.querySelectorAll('#visits tr').length === 2")
    page.run("document.querySelector('#pause').click()")
    assert page.run("document.querySelector('#status').textContent") == "ready, paused"
    service.stop()
    page.until("document.querySelector('#status').textContent === 'Connection lost; trying again, paused'")


def test_a_visit_that_is_told_again_is_shown_once(service: Program, page: Tab) -> None:
    """A browser that lost the connection is told the latest visits again."""
    for _ in range(3):
        greeted(("127.0.0.1", service.ports()[0]))
    page.until("document.querySelectorAll('#visits tr').length === 3")
    page.run("listen()")
    page.until("states.filter(each => each.figures.greeted.tcp === 3).length > 4")
    assert rows(page) == 3


def test_figures_of_a_service_that_started_anew_are_not_compared_with_those_before(page: Tab) -> None:
    page.until("states.length > 3")
    page.run(
        "paused = true;state({...states[0], now: Date.now() / 1000 + 9, figures: {...states[0].figures, started: 5}})"
    )
    assert page.run("states.length") in {1, 2}


def test_each_kind_of_refusal_has_a_line_that_looks_like_no_other(page: Tab) -> None:
    page.until("states.length > 1")
    page.run("paused = true")
    page.run(
        "globalThis.one = {...states[0], figures: {...states[0].figures}};"
        "globalThis.two = {...one, now: one.now + 1,"
        " figures: {...one.figures, refused: {greeter: 2}, unanswered: {greeter: 3}}}"
    )
    assert page.run("pointOf(one, two).refusals") == {"greeter": 2, "datagram: greeter": 3}
    lines = page.run("[...Array(25).keys()].map(lineOf)")
    assert len(set(lines)) == 25


def test_a_screen_reader_is_not_spoken_to_twice_a_second(page: Tab) -> None:
    live = "document.querySelectorAll('output, [aria-live], [role=status], [role=alert], [role=log]')"
    assert page.run(f"[...{live}].map(each => each.id)") == ["status", "spoken"]
