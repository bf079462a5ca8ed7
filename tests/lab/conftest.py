"""The lab: real programs, and network namespaces, where every port is free. All tests here carry the mark `lab`."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from attrs import field, frozen

from tests.support.process import STARTED, Program, Programs
from tests.support.waiting import PATIENCE

CLONE_NEWNET = 0x40000000
BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def machine(request: pytest.FixtureRequest, shared_folder: Path) -> Iterator[None]:
    """Let tests run side by side, as most of them wait for something; one with the mark `alone` has all cores."""
    alone = request.node.get_closest_marker("alone") is not None
    with (shared_folder / "turn").open("w") as turn, (shared_folder / "machine").open("w") as cores:
        fcntl.flock(turn, fcntl.LOCK_EX)  # who waits for all cores is not overtaken
        fcntl.flock(cores, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


@frozen
class Namespace:
    """A network namespace with nothing but loopback."""

    name: str
    folder: Path
    programs: Programs = field(factory=Programs)

    def command(self, *words: str) -> list[str]:
        """The command line that runs ``words`` in here; scripts of the test environment come first."""
        own = BIN / words[0]
        return ["ip", "netns", "exec", self.name, str(own) if own.exists() else words[0], *words[1:]]

    def run(self, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end, with ``given`` on its standard input."""
        return subprocess.run(
            self.command(*words), input=given, cwd=self.folder, capture_output=True, timeout=PATIENCE, check=False
        )

    def start(self, *words: str, until: str, times: int = 1) -> Program:
        """Start a program, and wait until its log holds ``until`` so many times."""
        program = self.programs.start(self.command(*words), self.folder)
        program.wait_for(until, times)
        return program

    def twistd(self, *options: str, listeners: int = 1) -> Program:
        """Start ``twistd greetsvc``, and wait until its log names this many listeners."""
        return self.start("twistd", "-n", "--pidfile=", "greetsvc", *options, until=STARTED, times=listeners)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=PATIENCE)


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    """A namespace for this test."""
    assert os.geteuid() == 0, "the lab needs root: make lab says so"
    name = f"greet-{uuid4().hex[:8]}"
    here = Namespace(name, tmp_path)
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield here
    finally:
        here.programs.kill()
        _ip("netns", "delete", name)


@frozen
class Network:
    """A client and a server with routers between them: namespaces, and veth pairs with a /24 each."""

    nodes: tuple[Namespace, ...]

    @property
    def client(self) -> Namespace:
        """10.0.1.1, on the left."""
        return self.nodes[0]

    @property
    def server(self) -> Namespace:
        """10.0.N.2, on the right."""
        return self.nodes[-1]

    @property
    def router(self) -> Namespace:
        """The one next to the client."""
        return self.nodes[1]

    @property
    def host(self) -> str:
        """The server's address."""
        return f"10.0.{len(self.nodes) - 1}.2"

    @property
    def host_v6(self) -> str:
        """The server's IPv6 address, once there is one."""
        return f"fd00:{len(self.nodes) - 1}::2"

    def filter(self, rule: str, chain: str = "type filter hook forward priority -150") -> str:
        """Give the router a rule (nftables), in a table of its own; its name, for `nft delete table ip`."""
        return self.rule(1, rule, chain)

    def rule(self, at: int, rule: str, chain: str, family: str = "ip") -> str:
        """Give a node a rule, in a table of its own of this family; the name of the table."""
        name = f"t{uuid4().hex[:8]}"
        table = f"table {family} {name} {{\n chain c {{\n {chain};\n {rule}\n }}\n}}\n"
        done = self.nodes[at].run("nft", "-f", "-", given=table.encode())
        assert done.returncode == 0, done.stderr.decode()
        return name

    def limit(self, *, there: int, back: int) -> None:
        """Have the router forward packets up to these sizes only."""
        for size, device, net in ((there, "right", 2), (back, "left", 1)):
            # The kernel's own route of IPv6 has metric 256, that of IPv4 0, and the lowest counts.
            for prefix, metric in ((f"10.0.{net}.0/24", "0"), (f"fd00:{net}::/64", "1")):
                words = ("dev", device, "metric", metric, "mtu", "lock", str(size))
                _ip("-n", self.router.name, "route", "replace", prefix, *words)

    def no_icmp(self) -> None:
        """Have the router say nothing about packets that are too long."""
        rule = "icmp type destination-unreachable drop\n icmpv6 type packet-too-big drop"
        self.rule(1, rule, "type filter hook output priority 0", family="inet")

    def jumbo(self, mtu: int) -> None:
        """Set the MTU of all links."""
        for node in self.nodes:
            for device in ("left", "right"):
                node.run("ip", "link", "set", device, "mtu", str(mtu))

    def second_link(self, at: int) -> None:
        """A second link from this router to the next one, for packets to the server from odd source ports."""
        left, right = self.nodes[at], self.nodes[at + 1]
        _ip("-n", left.name, "link", "add", "right2", "type", "veth", "peer", "name", "left2", "netns", right.name)
        for node, device, end in ((left, "right2", 1), (right, "left2", 2)):
            _ip("-n", node.name, "address", "add", f"10.9.0.{end}/24", "dev", device)
            _ip("-n", node.name, "link", "set", device, "up")
            node.run("sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=0", f"net.ipv4.conf.{device}.rp_filter=0")
        right.run("sysctl", "-q", "-w", "net.ipv4.icmp_errors_use_inbound_ifaddr=1")
        self.rule(at, "th sport & 1 == 1 meta mark set 9", "type filter hook prerouting priority mangle")
        _ip("-n", left.name, "rule", "add", "fwmark", "9", "table", "9")
        _ip("-n", left.name, "route", "add", f"10.0.{len(self.nodes) - 1}.0/24", "via", "10.9.0.2", "table", "9")

    def wire(self) -> None:
        """Lay the links and the routes."""
        last = len(self.nodes) - 1
        for at in range(last):
            left, right = self.nodes[at], self.nodes[at + 1]
            _ip("-n", left.name, "link", "add", "right", "type", "veth", "peer", "name", "left", "netns", right.name)
            for node, device, end in ((left, "right", 1), (right, "left", 2)):
                _ip("-n", node.name, "address", "add", f"10.0.{at + 1}.{end}/24", "dev", device)
                _ip("-n", node.name, "link", "set", device, "up")
        for at, node in enumerate(self.nodes):
            if 0 < at < last:
                node.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
            for net in range(1, last + 1):
                if net < at:
                    _ip("-n", node.name, "route", "add", f"10.0.{net}.0/24", "via", f"10.0.{at}.1")
                elif net > at + 1:
                    _ip("-n", node.name, "route", "add", f"10.0.{net}.0/24", "via", f"10.0.{at + 1}.2")

    def wire_v6(self) -> None:
        """The same for IPv6: fd00:N::1 and fd00:N::2."""
        last = len(self.nodes) - 1
        for at, node in enumerate(self.nodes):
            if 0 < at < last:
                node.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
            for net, device, end in ((at, "left", 2), (at + 1, "right", 1)):
                if 0 < net <= last:
                    _ip("-n", node.name, "address", "add", f"fd00:{net}::{end}/64", "dev", device, "nodad")
            for net in range(1, last + 1):
                if net < at:
                    _ip("-n", node.name, "route", "add", f"fd00:{net}::/64", "via", f"fd00:{at}::1")
                elif net > at + 1:
                    _ip("-n", node.name, "route", "add", f"fd00:{net}::/64", "via", f"fd00:{at + 1}::2")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Callable[[int], Network]]:
    """Makes a network with so many routers; 0 is a cable from client to server."""
    made: list[Namespace] = []

    def make(routers: int) -> Network:
        mark = f"greet-{os.getpid()}-{uuid4().hex[:6]}"
        for at, role in enumerate(["client", *["router"] * routers, "server"]):
            folder = tmp_path / f"{role}-{at}"
            folder.mkdir()
            node = Namespace(f"{mark}-{role}-{at}", folder)
            done = subprocess.run(
                ["ip", "netns", "add", node.name], capture_output=True, timeout=PATIENCE, check=False
            )
            if done.returncode:
                pytest.skip(f"network namespaces are not allowed here: {done.stderr.decode().strip()}")
            made.append(node)
            _ip("-n", node.name, "link", "set", "lo", "up")
            # Without duplicate address detection: until that is over, after a second, IPv6 neighbours do not answer.
            node.run("sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0")
        there = Network(tuple(made))
        there.wire()
        return there

    yield make
    for node in reversed(made):
        node.programs.kill()
        _ip("netns", "delete", node.name)


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
