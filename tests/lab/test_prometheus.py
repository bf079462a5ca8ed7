"""A real Prometheus scrapes the service: its metrics, our alerts, and every query of the dashboard."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.support.certificates import issue
from tests.support.documents import ROOT, blocks
from tests.support.process import Program, Programs
from tests.support.waiting import PATIENCE, wait_until

ALERTS = ROOT / "deploy/prometheus-alerts.yml"
DASHBOARD = ROOT / "deploy/grafana.json"
ADMIN = "Admin site at port: "
CONFIG = """
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms }}
rule_files: [{rules}]
scrape_configs:
  - job_name: greetsvc
    static_configs: [{{ targets: ["127.0.0.1:{port}"] }}]
"""
# What the rules measure in minutes happens here in seconds.
SOONER = {"for: 2m": "for: 1s", "[5m]": "[3s]", "offset 5m": "offset 3s", "[1h]": "[60s]"}


@frozen
class Prometheus:
    """One that runs, and its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

    port: int

    def get(self, path: str, **query: str) -> Any:
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        return list(self.get("query", query=expression)["result"])

    def firing(self) -> set[str]:
        return {each["labels"]["alertname"] for each in self.get("alerts")["alerts"] if each["state"] == "firing"}


@pytest.fixture
def service(child: Callable[..., Program], tmp_path: Path) -> Program:
    """A service on which everything can happen that the dashboard shows."""
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    (certificates / "a.pem").write_bytes(issue("a.example", "a.example").both_pem)
    here = "interface=127.0.0.1"
    program = child(
        *("--listen", f"tcp:0:{here}", "--listen", f"udp:0:{here}", "--listen", f"proxy:tcp:0:{here}"),
        *("--listen", f"tls:{certificates}:port=0:{here}", "--udp-budget", "0", "--admin", "tcp:0"),
    )
    program.ports(4)
    return program


@pytest.fixture
def prometheus(service: Program, tmp_path: Path) -> Iterator[Prometheus]:
    """Prometheus, which scrapes the service."""
    rules = ALERTS.read_text("utf-8")
    for minutes, seconds in SOONER.items():
        assert minutes in rules
        rules = rules.replace(minutes, seconds)
    folder = tmp_path / "prometheus"
    folder.mkdir()
    (folder / "rules.yml").write_text(rules)
    port = service.wait_for(ADMIN)[0].split()[0]
    (folder / "prometheus.yml").write_text(CONFIG.format(rules=folder / "rules.yml", port=port))
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    programs = Programs()
    program = programs.start(
        [
            *("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address=127.0.0.1:{own}"),
            f"--storage.tsdb.path={folder / 'data'}",
        ],
        folder,
    )
    program.wait_for("Server is ready to receive web requests")
    yield Prometheus(own)
    programs.kill()


@pytest.fixture
def visited(service: Program) -> Iterator[Callable[[], None]]:
    """Visits of every kind, without a pause until the test calls what this gives."""
    over = threading.Event()
    tcp, udp, proxied, tls = service.ports(4)

    def visit() -> None:
        while not over.wait(0.05):
            for port, said in ((tcp, b""), (proxied, b"hello\r\n"), (tls, b"hello\r\n")):
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    sock.sendall(said)
                    while True:
                        try:
                            if not sock.recv(1000):
                                break
                        except ConnectionError:
                            break
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", ("127.0.0.1", udp))

    visitor = threading.Thread(target=visit)
    visitor.start()

    def stop() -> None:
        over.set()
        visitor.join()

    yield stop
    stop()


def scraped(service: Program) -> bytes:
    port = service.wait_for(ADMIN)[0].split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        return bytes(answer.read())


def promtool(*words: str, given: bytes = b"") -> None:
    """Check or test something; it says nothing on standard error where nothing is wrong."""
    done = subprocess.run(["promtool", *words], input=given, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr


def test_promtool_finds_nothing_wrong_with_the_rules_and_the_settings_that_the_documents_show(tmp_path: Path) -> None:
    (tmp_path / ALERTS.name).write_bytes(ALERTS.read_bytes())
    (shown,) = (block for block in blocks(ROOT / "docs/monitoring.md") if "scrape_configs" in block.text)
    (tmp_path / "prometheus.yml").write_text(shown.text)
    promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_alerts_fire_as_long_as_they_should_and_only_then() -> None:
    promtool("test", "rules", str(ROOT / "tests/lab/alerts.yml"))


def test_the_dashboard_has_data_and_alerts_fire_when_greetings_stop_and_when_the_service_does(
    service: Program, prometheus: Prometheus, visited: Callable[[], None]
) -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 15

    def without_data() -> list[str]:
        return [each for each in queries if not prometheus.query(_filled(each))]

    wait_until(lambda: not without_data(), lambda: f"no data: {without_data()}")
    promtool("check", "metrics", given=scraped(service))
    wait_until(lambda: prometheus.query('sum(rate(greetsvc_greetings_total{transport="tcp"}[3s])) > 0'))
    assert prometheus.firing() <= {"GreetsvcRefusesConnections"}

    visited()
    wait_until(lambda: "GreetsvcGreetingsStopped" in prometheus.firing(), lambda: str(prometheus.get("rules")))

    service.stop(signal.SIGKILL)
    wait_until(lambda: "GreetsvcDown" in prometheus.firing())


def _filled(query: str) -> str:
    """A query of the dashboard as Grafana would send it."""
    query = re.sub(r"\$(job|instance)\b", ".*", query.replace("$__rate_interval", "3s"))
    assert "$" not in query
    return query
