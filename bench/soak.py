"""`python -m bench.soak`: a service under everything at once for a long time; what it loses, and what it takes.

A greetsvc of this environment serves every transport and the admin site, under load from `greet`. Meanwhile peers
reset and fall silent, watchers of the admin site come and go and half of them do not read, and the settings are
reloaded, every other time from a bad file. Memory, descriptors and threads are read from /proc (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import IO

from attrs import asdict, define, field, frozen

from bench.plot import LEFT, RIGHT, document, line, text

BIN = Path(sys.executable).parent

CONFIG = """
greeting = "hello {number}"
log-visits = "summary"
admin = "unix:{folder}/admin.sock"
deadline = {deadline}

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
[[listen]]
endpoint = "udp:0:interface=127.0.0.1"
[[listen]]
endpoint = "unix:{folder}/greet.sock"
[[listen]]
endpoint = "tls:{folder}/tls:port=0:interface=127.0.0.1"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
protocol = "lines"
"""

LOADS = {
    "TCP": (200, "tcp:127.0.0.1:{0}"),
    "UDP, measured": (200, "udp:127.0.0.1:{1}"),
    "UNIX": (200, "unix:{folder}/greet.sock"),
    "TLS": (20, "--insecure tls:127.0.0.1:{2}"),
    "lines": (50, "--talk lines --say you tcp:127.0.0.1:{3}"),
}
"""By name: visits a second, and what `greet` is told."""

RELOAD, STRANGERS = 5.0, 2.0
"""Seconds between two reloads, and between two crowds of strangers."""

CROWD, WATCHERS = 30, 20
WARM = 0.4
"""The part of the time before which growth does not count: tables and caches fill."""

MORE_MEMORY, MORE_DESCRIPTORS = 0.03, 10
"""How much more the last fifth may take than the fifth after `WARM`: a part of the memory, and descriptors."""


@frozen
class Sample:
    """The service at one moment: seconds from the start, bytes of memory, descriptors and threads."""

    at: float
    memory: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int, at: float) -> Sample:
        """Read it."""
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        descriptors, threads = (sum(1 for _ in Path(f"/proc/{pid}/{name}").iterdir()) for name in ("fd", "task"))
        return cls(at, pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads)


@define
class Strangers:
    """Peers that no service asks for. Each crowd takes the place of the one before."""

    tcp: int
    admin: str
    crowd: list[socket.socket] = field(factory=list)
    watchers: list[socket.socket] = field(factory=list)

    def come(self) -> None:
        """A third of them resets, a third says nothing, a third talks nonsense; a watcher in two reads nothing."""
        self.leave()
        for number in range(CROWD):
            sock = socket.create_connection(("127.0.0.1", self.tcp), 10)
            if number % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
                continue
            if number % 3 == 1:
                with suppress(OSError):
                    sock.sendall(os.urandom(500))
            self.crowd.append(sock)
        for _ in range(WATCHERS):
            watcher = socket.socket(socket.AF_UNIX)
            watcher.settimeout(10)
            watcher.connect(self.admin)
            watcher.sendall(b"GET /events HTTP/1.0\r\n\r\n")
            self.watchers.append(watcher)
        for watcher in self.watchers[::2]:
            with suppress(OSError):
                watcher.recv(1 << 16)

    def leave(self) -> None:
        """All go."""
        for sock in (*self.crowd, *self.watchers):
            sock.close()
        self.crowd.clear()
        self.watchers.clear()


@frozen
class Outcome:
    """What a run showed: samples, visits that were sent and lost by load, and reloads."""

    samples: list[Sample]
    sent: dict[str, int]
    lost: dict[str, int]
    reloads: int
    status: int
    said: str

    def faults(self) -> list[str]:
        """What is wrong, in words."""
        found = [f"{name}: {lost} of {self.sent[name]} lost" for name, lost in self.lost.items() if lost]
        found += [f"{name}: nothing was sent" for name, sent in self.sent.items() if not sent]
        found += ["a traceback in the log"] * ("Traceback" in self.said)
        found += [f"the service ended with status {self.status}"] * bool(self.status)
        early, late = self._fifth(WARM), self._fifth(0.8)
        before, after = (median(one.memory for one in samples) for samples in (early, late))
        if after > before * (1 + MORE_MEMORY):
            found.append(f"memory grew from {before / 2**20:.1f} to {after / 2**20:.1f} MiB")
        before, after = (median(one.descriptors for one in samples) for samples in (early, late))
        if after > before + MORE_DESCRIPTORS:
            found.append(f"descriptors grew from {before:g} to {after:g}")
        return found

    def _fifth(self, start: float) -> list[Sample]:
        end = self.samples[-1].at
        return [one for one in self.samples if start * end <= one.at <= (start + 0.2) * end]

    def words(self) -> str:
        """The figures, a line each."""
        lines = [f"{name}: {self.sent[name]:,} sent, {self.lost[name]} lost" for name in self.sent]
        for name in ("memory", "descriptors", "threads"):
            values = [getattr(one, name) / (2**20 if name == "memory" else 1) for one in self.samples]
            unit = " MiB" if name == "memory" else ""
            lines.append(
                f"{name}: {values[0]:.4g} at first, at most {max(values):.4g}, {values[-1]:.4g}{unit} at last"
            )
        return "\n".join([*lines, f"reloads: {self.reloads}, every other one from a bad file"])

    def plot(self) -> str:
        """Two curves as SVG: memory and descriptors."""
        parts: list[str] = []
        for top, name, scale, unit in ((60, "memory", 2**20, "MiB"), (240, "descriptors", 1, "descriptors")):
            values = [getattr(one, name) / scale for one in self.samples]
            most, end = max(values) * 1.15, self.samples[-1].at
            parts += [
                text(16, top - 8, f"{unit}, at most {max(values):.4g}"),
                line(LEFT, top + 130, RIGHT, top + 130),
            ]
            points = " ".join(
                f"{LEFT + (RIGHT - LEFT) * one.at / end:.1f},{top + 130 - 130 * value / most:.1f}"
                for one, value in zip(self.samples, values, strict=True)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="1.5"/>')
            parts += [text(LEFT, top + 148, "0"), text(RIGHT, top + 148, f"{end / 60:.3g} min", anchor="end")]
        return document("A soak: memory and descriptors of the service", 400, parts)


def soak(seconds: float, folder: Path) -> Outcome:
    """Run it, with its files in ``folder``."""
    _write_certificate(folder / "tls")
    config = folder / "greetsvc.toml"
    config.write_text(CONFIG.format(number=0, folder=folder, deadline=10), encoding="utf-8")
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w+b"))
        service = _start(stack, [str(BIN / "greetsvc"), "--config", str(config)], log)
        ports = _ports(folder / "log", 4)
        words = [str(BIN / "greet"), "--json", "--duration", f"{seconds + 60:g}"]
        loads = {
            name: _start(
                stack,
                [*words, "--rate", str(rate), *told.format(*ports, folder=folder).split()],
                stack.enter_context((folder / f"load {number}").open("w+b")),
            )
            for number, (name, (rate, told)) in enumerate(LOADS.items())
        }
        strangers = Strangers(ports[0], str(folder / "admin.sock"))
        stack.callback(strangers.leave)
        samples, reloads = _watch(service, seconds, strangers, config)
        for load in loads.values():
            load.send_signal(signal.SIGINT)
        sent, lost = {}, {}
        for number, (name, load) in enumerate(loads.items()):
            load.wait(60)
            last = (folder / f"load {number}").read_text(encoding="utf-8").splitlines()[-1]
            summary = json.loads(last)["summary"]
            sent[name], lost[name] = summary["sent"], summary["lost"]
        service.terminate()
        status = service.wait(60)
    return Outcome(samples, sent, lost, reloads, status, (folder / "log").read_text(encoding="utf-8"))


def _watch(
    service: subprocess.Popen[bytes], seconds: float, strangers: Strangers, config: Path
) -> tuple[list[Sample], int]:
    """Disturb the service and take samples, five hundred at the most; and how many reloads there were."""
    samples: list[Sample] = []
    began = time.monotonic()
    reload_at, come_at, reloads = RELOAD, 0.0, 0
    while (now := time.monotonic() - began) < seconds and service.poll() is None:
        samples.append(Sample.of(service.pid, now))
        if now >= come_at:
            strangers.come()
            come_at = now + STRANGERS
        if now >= reload_at:
            reloads += 1
            deadline = 10 if reloads % 2 else "'soon'"
            written = CONFIG.format(number=reloads, folder=config.parent, deadline=deadline)
            config.write_text(written, encoding="utf-8")
            service.send_signal(signal.SIGHUP)
            reload_at = now + RELOAD
        time.sleep(max(0.25, seconds / 500))
    return samples, reloads


def _start(stack: ExitStack, command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _ports(log: Path, number: int) -> list[int]:
    """The ports of the service, once it has said them."""
    for _ in range(600):
        found = re.findall(r"Server start at port: (\d+)", log.read_text(encoding="utf-8"))
        if len(found) == number:
            return [int(port) for port in found]
        time.sleep(0.1)
    raise TimeoutError(f"the service did not start:\n{log.read_text(encoding='utf-8')}")


def _write_certificate(folder: Path) -> None:
    folder.mkdir()
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate"), "-subj", "/CN=localhost"]
    subprocess.run([*words, *files, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    (folder / "localhost.pem").write_bytes((folder / "key").read_bytes() + (folder / "certificate").read_bytes())


def main() -> int:
    """Run it, print the figures, and write samples and curves; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--out", type=Path, default=Path("bench/results/soak"), help="the folder for the results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        outcome = soak(60 * given.minutes, Path(folder))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "samples.json").write_text(json.dumps([*map(asdict, outcome.samples)]) + "\n", encoding="utf-8")
    (given.out / "soak.svg").write_text(outcome.plot(), encoding="utf-8")
    faults = outcome.faults()
    print("\n".join([outcome.words(), *faults]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
