"""The settings of HAProxy in deploy/, with a real HAProxy and two services."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import ROOT
from tests.support.haproxy import tell
from tests.support.process import Program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.installed import Installed

pytestmark = pytest.mark.lab

CONFIG = ROOT / "deploy" / "haproxy.cfg"


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _differs(said: Callable[[], bytes], other: bytes) -> bool:
    return said() != other


def test_a_service_that_restarts_behind_haproxy_loses_nobody(installed: Installed, tmp_path: Path) -> None:
    """Both are checked over the admin site; a drained one gets no more visits, and comes back."""
    front, *ports = (_free() for _ in range(5))

    def start(which: int) -> Program:
        listen, admin = ports[which], ports[which + 2]
        return installed.twistd(
            tmp_path, "--listen", f"proxy:tcp:{listen}:interface=127.0.0.1", "--admin", f"tcp:{admin}",
            "--greeting", f"{{peer_host}} by {which}", "--log-visits", "off",
        )  # fmt: skip

    documented = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    services = [start(0), start(1)]
    text = CONFIG.read_text("utf-8").replace("bind :::8088 v4v6", f"bind 127.0.0.1:{front}")
    text = text.replace("stats socket /run/haproxy/admin.sock", f"stats socket {tmp_path}/admin.sock")
    for which, name in enumerate(("one", "two")):
        text = re.sub(rf"server {name} \S+", f"server {name} 127.0.0.1:{ports[which]} port {ports[which + 2]}", text)
    config = tmp_path / "haproxy.cfg"
    config.write_text(text)
    proxy = installed.programs.start(["haproxy", "-db", "-f", str(config)], tmp_path)

    def said() -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", front), 10) as peer, peer.makefile("rb") as stream:
                return stream.read()
        except ConnectionRefusedError:
            return b""

    assert wait_until(said, proxy.said).startswith(b"127.0.0.1 by ")
    load = installed.start(
        tmp_path, "greet", "--json", "--duration", "100", "--rate", "100", "--expect", "^127.0.0.1 by [01]$",
        f"tcp:127.0.0.1:{front}",
    )  # fmt: skip
    load.wait_for('"second"')
    for which in (0, 1):
        services[which].stop()
        other = b"127.0.0.1 by %d" % (1 - which)
        assert {said() for _ in range(20)} == {other}
        services[which] = start(which)
        wait_until(partial(_differs, said, other), "the other one does not come back")
        command = f"set server greetsvc/{('one', 'two')[which]} state"
        assert command.partition("/")[0] in documented
        tell(tmp_path / "admin.sock", f"{command} maint")
        assert {said() for _ in range(20)} == {other}
        tell(tmp_path / "admin.sock", f"{command} ready")
        wait_until(partial(_differs, said, other), "the other one is not used again")
    load.stop(signal.SIGINT)
    summary = json.loads(load.said().splitlines()[-1])["summary"]
    assert summary["sent"] > 0
    assert (summary["lost"], summary["greeted"]) == (0, summary["sent"])
