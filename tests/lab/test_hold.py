"""`greet --hold` through a router that forgets connections after 20 s of silence."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import Network

LIMIT = 20
HEALTHY, SILENT, REJECTED = 8001, 8002, 8003

# What conntrack does not know is a new connection, though it does not begin with a SYN.
RULES = f"""
 tcp dport {SILENT} ct state new tcp flags & (syn | ack) != syn drop
 tcp dport {REJECTED} ct state new tcp flags & (syn | ack) != syn reject with tcp reset
 ct state new accept
"""


def started(there: Network, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        there.client.command("greet", "--json", "-t", "1.5", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def found(process: subprocess.Popen[bytes], status: int) -> dict[str, Any]:
    out, err = process.communicate(timeout=90)
    assert process.returncode == status, (out, err)
    hold: dict[str, Any] = json.loads(out)["hold"]
    assert hold["active"] is True
    assert hold["refused"] == 0
    return hold


@pytest.fixture
def there(network: Callable[[int], Network]) -> Network:
    """A server that allows an hour of silence, behind a router that forgets after 20 s."""
    here = network(1)
    here.filter(RULES)
    timeout = f"net.netfilter.nf_conntrack_tcp_timeout_established={LIMIT}"
    assert here.router.run("sysctl", "-w", timeout).returncode == 0
    listeners = [f"--listen=tcp:{port}" for port in (HEALTHY, SILENT, REJECTED)]
    here.server.twistd("--protocol", "lines", "--deadline", "3600", *listeners, listeners=3)
    return here


def test_a_limit_of_the_router_is_found_and_reset_is_told_from_silence_and_from_health(there: Network) -> None:
    """All at once, because each takes as long as the silences do."""
    search = started(there, "--hold", "auto", f"{there.host}:{SILENT}")
    silent, rejected, healthy = (
        started(there, "--hold", "22", f"{there.host}:{port}") for port in (SILENT, REJECTED, HEALTHY)
    )
    hold = found(healthy, 0)
    assert (hold["survived"], hold["closed"], hold["limit"], hold["packets"]) == (True, None, None, 0)
    assert hold["seconds"] == pytest.approx(22, abs=0.5)

    hold = found(rejected, 1)
    assert (hold["survived"], hold["closed"], hold["spoken"], hold["limit"]) == (False, "reset", True, None)

    hold = found(silent, 1)
    assert (hold["survived"], hold["closed"], hold["spoken"], hold["limit"]) == (False, "timeout", True, None)
    assert hold["acknowledged"] is False
    assert hold["sent_again"] >= 1

    hold = found(search, 1)
    assert (hold["survived"], hold["closed"]) == (False, "timeout")
    assert abs(hold["limit"] - LIMIT) < 2
    least, most = hold["between"]
    assert least <= LIMIT + 0.5
    assert most >= LIMIT
    assert most - least <= 1
