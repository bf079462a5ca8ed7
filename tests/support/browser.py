"""A real Chromium without a window, driven over the DevTools protocol (https://chromedevtools.github.io/)."""

from __future__ import annotations

import base64
import json
import os
import signal
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from websockets.sync.client import ClientConnection, connect

from tests.support.process import Program
from tests.support.waiting import PATIENCE, wait_until

KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " "), "ArrowLeft": (37, "")}
_LISTENING = "DevTools listening on "


@define
class Tab:
    """One page. ``events`` are those that the browser sent so far."""

    socket: ClientConnection
    events: list[dict[str, Any]] = field(factory=list)
    _number: int = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, address: str) -> None:
        """Load a page, of which everything is noted that it requests and complains about."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)

    def until(self, script: str, patience: float = PATIENCE) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        return wait_until(lambda: self.run(script), lambda: f"never true: {script}\n{self.complaints()}", patience)

    def press(self, key: str) -> None:
        """Press a key of `KEYS` and let it go."""
        code, text = KEYS[key]
        named = {"key": text or key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def screenshot(self, path: Path, *, width: int, height: int, theme: str) -> None:
        """Write a picture of the whole page, as a screen of this width shows it in this theme."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def without_a_name(self) -> list[str]:
        """What can have the focus, but a screen reader has no words for: its role."""
        found = []
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            focusable = any(
                each["name"] == "focusable" and each["value"]["value"] for each in node.get("properties", ())
            )
            if focusable and not node["ignored"] and not node.get("name", {}).get("value"):
                found.append(str(node["role"]["value"]))
        return found

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        return [each["params"]["request"]["url"] for each in self._of("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, and exceptions."""
        thrown = [str(each["params"]["exceptionDetails"]) for each in self._of("Runtime.exceptionThrown")]
        said = [str(each["params"]["args"]) for each in self._of("Runtime.consoleAPICalled")]
        logged = [str(each["params"]["entry"]["text"]) for each in self._of("Log.entryAdded")]
        return thrown + said + logged

    def _of(self, method: str) -> Sequence[Mapping[str, Any]]:
        return [each for each in self.events if each.get("method") == method]


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Chromium with one empty page; its files are in ``folder``."""
    program = Program.start(
        [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank"),
        ],
        folder / "chromium.log",
        start_new_session=True,
    )
    try:
        address = program.wait_for(_LISTENING)[0]
        port = address.split(":")[2].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as answer:
            page = next(each for each in json.load(answer) if each["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None, compression=None, ping_interval=None) as socket:
            yield Tab(socket)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
