"""The real service, in this process and in its own, and the clients that visit it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor
from twisted.internet.task import deferLater

from greetsvc.daemon.config import settings
from greetsvc.daemon.listeners import DatagramListening
from greetsvc.daemon.service import GreetingService
from greetsvc.ledger import Ledger

# Attackers come from all over 127.0.0.0/8, which is one machine's own only on Linux.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]

PATIENCE = 20.0
CLONE_NEWNET = 0x40000000


@frozen
class Child:
    """A service in a process of its own; ``log`` is its standard output and error."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="backslashreplace")

    def wait_for(self, text: str, times: int = 1, patience: float = PATIENCE) -> list[str]:
        """The rest of each line that holds ``text``, once there are that many."""
        end = time.monotonic() + patience
        while self.said().count(text) < times:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.said()}"
            assert time.monotonic() < end, f"no {text!r} in:\n{self.said()}"
            time.sleep(0.01)
        return [line.partition(text)[2] for line in self.said().splitlines() if text in line]

    def ports(self, number: int = 1) -> list[int]:
        """The ports it was given, in the order of its listeners."""
        return [int(rest) for rest in self.wait_for("Server start at port: ", number)]

    def rss(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def cpu(self) -> float:
        """Seconds of processor time spent so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """How many files it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts children. What is left at the end is killed; none may have logged a traceback."""
    started: list[Child] = []

    def start(*options: str, command: tuple[str, ...] = ("-m", "greetsvc"), **popen: Any) -> Child:
        log = tmp_path / f"child-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command, *options],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                **{"stdout": output, **popen},
            )
        started.append(Child(process, log))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait(PATIENCE)
        assert "Traceback" not in one.said(), one.said()


@frozen
class Serving:
    """A service in this process."""

    service: GreetingService

    @property
    def ledger(self) -> Ledger:
        """Its counts."""
        return self.service.ledger

    @property
    def ports(self) -> list[int]:
        """Its ports, in the order of its listeners."""
        places = [place for one in self.service._listening for place in one.places()]
        return [int(place.removeprefix("port: ")) for place in places if place.startswith("port: ")]

    def send(self, datagram: bytes, to: Any) -> None:
        """Send from the socket of its first datagram listener: what whoever forges its address can do."""
        first = next(one for one in self.service._listening if isinstance(one, DatagramListening))
        first.protocol.transport.write(datagram, to)


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts services in this process; they are stopped at the end."""
    started: list[GreetingService] = []

    def start(*listen: str, **options: object) -> Serving:
        given = {name.replace("_", "-"): value for name, value in options.items()}
        service = GreetingService(settings({"drain": 0, "log-visits": "off", **given}, listen))
        service.bind()
        service.startService()
        started.append(service)
        return Serving(service)

    yield start
    for service in started:
        if service.running:
            pytest_twisted.blockon(service.stopService())


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waits, while the reactor runs, until something holds; fails after ``patience`` seconds."""

    async def wait(holds: Callable[[], object], patience: float = 10.0) -> None:
        end = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < end, "it never came to hold"
            await deferLater(reactor, 0.01, lambda: None)

    return wait


@frozen
class Visitor:
    """Connects from an address that the test chooses, and reads to the end."""

    opened: list[socket.socket] = field(factory=list)

    def connect(
        self, port: int, host: str = "127.0.0.1", source: str = "", timeout: float = 10.0, window: int = 0
    ) -> socket.socket:
        """A connection that stays open until the test ends or closes it.

        With a small ``window`` in bytes, much of a long greeting stays with the service until it is read; the
        segments then have the size that they have elsewhere, for which the kernel keeps buffers of the usual size.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        self.opened.append(sock)
        sock.settimeout(timeout)
        if window:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        if source:
            sock.bind((source, 0))
        sock.connect((host, port))
        return sock

    def read(self, sock: socket.socket) -> bytes:
        """What comes until the end of the connection; a reset is an end."""
        data = bytearray()
        try:
            while part := sock.recv(65536):
                data += part
        except ConnectionError:
            pass
        sock.close()
        return bytes(data)

    def visit(self, port: int, host: str = "127.0.0.1", source: str = "", said: bytes = b"") -> bytes:
        """The greeting."""
        sock = self.connect(port, host, source)
        if said:
            sock.sendall(said)
        return self.read(sock)


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    """A visitor whose connections are closed at the end."""
    one = Visitor()
    yield one
    for sock in one.opened:
        sock.close()


@frozen
class Issued:
    """A key and its certificate; ``pem`` holds both."""

    key: EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """For a server, or a client that shows it."""
        form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        return self.key.private_bytes(*form) + self.certificate.public_bytes(Encoding.PEM)


@pytest.fixture
def issue() -> Callable[..., Issued]:
    """Issues certificates for names, signed by another or by themselves."""

    def make(name: str, signer: Issued | None = None) -> Issued:
        key = generate_private_key(SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer.certificate.subject if signer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        )
        return Issued(key, builder.sign(signer.key if signer else key, SHA256()))

    return make


# Visits from another process, so that what the test does meanwhile does not count.
HONEST = """
import json, socket, sys, time
port, source, seconds, pause = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
took, missed, end = [], 0, time.perf_counter() + seconds
while time.perf_counter() < end:
    begun = time.perf_counter()
    with socket.socket() as sock:
        sock.settimeout(5)
        try:
            sock.bind((source, 0))
            sock.connect(("127.0.0.1", port))
            said = b""
            while part := sock.recv(1000):
                said += part
        except OSError:
            said = b""
    took.append(time.perf_counter() - begun)
    missed += not said
    time.sleep(pause)
print(json.dumps([took, missed]))
"""


@frozen
class Greeted:
    """How honest clients fared: the seconds that each visit took, sorted, and how many had no greeting."""

    took: list[float]
    missed: int

    def p(self, share: float) -> float:
        """A percentile, in seconds."""
        return self.took[min(int(len(self.took) * share), len(self.took) - 1)]

    def __str__(self) -> str:
        times = f"p50 {self.p(0.5):.4f} s, p99 {self.p(0.99):.4f} s, longest {self.took[-1]:.4f} s"
        return f"{len(self.took)} visits, {self.missed} missed, {times}"


@pytest.fixture
def honest() -> Callable[..., Greeted]:
    """Visits a port, one connection after the other, for so many seconds, and tells how it went."""

    def visit(port: int, seconds: float, source: str = "127.200.0.1", pause: float = 0.005) -> Greeted:
        command = [sys.executable, "-c", HONEST, str(port), source, str(seconds), str(pause)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=seconds + PATIENCE)
        took, missed = json.loads(done.stdout)
        return Greeted(sorted(took), missed)

    return visit


@pytest.fixture
def in_namespace() -> Callable[[Callable[[], Any]], Any]:
    """Runs a function in a thread that has a network namespace of its own, with a loopback interface that is up.

    Processes that it starts are in that namespace too. Needs root.
    """

    def run(work: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()

        def inside() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.unshare(CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "no network namespace")
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=inside).start()
        return done.result(60)

    return run
