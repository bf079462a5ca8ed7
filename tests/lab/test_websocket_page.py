"""A page in a real Chromium talks to the protocol ``websocket``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.browser import browser
from tests.support.process import Program

PAGE = """
globalThis.heard = []; globalThis.ending = null;
globalThis.peer = new WebSocket("ws://127.0.0.1:PORT/greet");
peer.onmessage = event => heard.push(event.data);
peer.onclose = event => { ending = [event.code, event.wasClean] };
true
"""


def test_a_page_is_greeted_by_name_and_told_what_it_did_wrong(child: Callable[..., Program], tmp_path: Path) -> None:
    names = ["Ada", "李雷", "ペンギン 🐧", "x" * 1000]
    server = child("--listen", "tcp:0:interface=127.0.0.1", "--protocol", "websocket", "--greeting", "Hello, {name}")
    (port,) = server.ports()
    with browser(tmp_path) as page:
        # Chromium lets only a page of this machine connect to this machine: what a plain request gets will do.
        page.open(f"http://127.0.0.1:{port}/")
        page.until("document.body.innerText.includes('This is a WebSocket')")
        page.run(PAGE.replace("PORT", str(port)))
        page.until("heard.length == 1")
        page.run(f"for (const name of {json.dumps(names)}) peer.send(name); true")
        page.until(f"heard.length == {1 + len(names)}")
        assert page.run("heard") == ["Hello, 127.0.0.1", *(f"Hello, {name}" for name in names)]
        page.run("peer.send(new Uint8Array([255])); true")
        page.until("ending !== null")
        assert page.run("heard.at(-1)") == "error: messages must be text"
        assert page.run("ending") == [1008, True]
        page.run(PAGE.replace("PORT", str(port)))
        page.until("heard.length == 1")
        page.run("peer.close(); true")
        page.until("ending !== null")
        assert page.run("ending") == [1005, True]
    server.stop()
    assert "Traceback" not in server.said()
