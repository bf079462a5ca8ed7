"""Who is measured: each with the command that starts it, and what a reader has to know of it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from bench.servers import GREETING, HOST
from greetsvc.wire import request

GREETSVC = "greetsvc"
STOCK = "stock Twisted"
ASYNCIO = "asyncio"
UVLOOP = "uvloop"
NGINX = "nginx stream return"
TUTORIAL = "tutorial, blocking"
BARE = "bare Python loop"
BARE_WILDCARD = "bare Python loop, wildcard"
FLOOR = "C floor"
GREETSVC_WILDCARD = "greetsvc, wildcard"
STOCK_WILDCARD = "stock Twisted, wildcard"
GREETSVC_NET = "greetsvc.net, the same Protocol"
GREETSVC_OWN = "greetsvc, own protocol"
TWO_WORKERS = "greetsvc, two workers"
MEASURED = "greetsvc, measured answers"
WATCHED = "greetsvc, watched by 200"
LINGERING = "greetsvc as shipped, lingering"
EMPTY = "twistd, empty service"

EMPTY_TAC = Path(__file__).with_name("servers") / "empty.tac"
ELSEWHERE = "127.0.0.2"
"""What wildcard listeners are asked at: a connected client sees only an answer that leaves from there."""


NONCE = "0123456789abcdef"
GREETED = ("--request", request(NONCE, 64).decode("ascii"), "--expect", GREETING.decode("ascii"))
_SESSION = {"s": "fedcba9876543210", "n": 1, "a": 0, "w": "count"}
COUNTED = (
    "--request",
    request(NONCE, 200, _SESSION).decode("ascii"),
    "--begins",
    f"greeted 1 {NONCE} s={_SESSION['s']}",
)
"""What the load generator asks for (over UDP), and what the answer has to be."""


@frozen(kw_only=True)
class Peer:
    """A server to measure. ``missing`` says why it cannot be; ``host`` is where it is asked, for what ``asks`` says.

    One of several ``workers`` consists of so many processes beside their parent.
    """

    name: str
    transport: str
    command: Sequence[str]
    note: str = ""
    host: str = HOST
    asks: Sequence[str] = GREETED
    missing: str | None = None
    workers: int = 1


@frozen
class Tools:
    """What this machine has besides Python; None for what it has not."""

    floor: Path | None
    nginx: str | None
    uvloop: bool

    @classmethod
    def of_this_machine(cls, floor: Path | None) -> Tools:
        """Look."""
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        return cls(floor, nginx, importlib.util.find_spec("uvloop") is not None)


def _module(name: str, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", f"bench.servers.{name}", *arguments]


def _twistd(*arguments: str) -> Sequence[str]:
    return [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", *arguments]


def _greetsvc(
    name: str, listen: str, *, host: str = HOST, asks: Sequence[str] = GREETED, note: str = "", workers: int = 1
) -> Peer:
    return Peer(
        name=name,
        transport=listen[:3],
        command=_twistd("greetsvc", "--listen", listen, "--workers", str(workers)),
        note=note,
        host=host,
        asks=asks,
        workers=workers,
    )


def _uvloop(kind: str, tools: Tools) -> Peer:
    return Peer(
        name=UVLOOP,
        transport="udp" if kind == "udp" else "tcp",
        command=_module("aio", "uvloop", kind),
        note="write and stay"
        if kind == "hold"
        else "no linger, no limits, no log"
        if kind == "tcp"
        else "no rule, no log",
        missing=None if tools.uvloop else "uvloop is not installed (dependency group bench)",
    )


def _floor(kind: str, tools: Tools) -> Peer:
    return Peer(
        name=FLOOR,
        transport="udp" if kind == "udp" else "tcp",
        command=[str(tools.floor), kind, GREETING.decode("ascii")],
        note="system calls and nothing else",
        missing=None if tools.floor else "no C compiler (cc)",
    )


def tcp_peers(tools: Tools, folder: Path) -> list[Peer]:
    """Those that greet and close. ``folder`` is for nginx's configuration."""
    return [
        _greetsvc(GREETSVC, f"tcp:0:interface={HOST}", note="as shipped: linger, limits, counters and log on"),
        _greetsvc(
            TWO_WORKERS, f"tcp:0:interface={HOST}", note="as shipped; on one core where there are only two", workers=2
        ),
        Peer(
            name=WATCHED,
            transport="tcp",
            command=_module("watched"),
            note="as shipped, with the admin site; half of the watchers do not read",
        ),
        Peer(
            name=GREETSVC_OWN,
            transport="tcp",
            command=_module("eager", "own"),
            note="a subclass of GreetingProtocol, built for each connection; linger, limits and counters, no log",
        ),
        Peer(name=STOCK, transport="tcp", command=_module("stock", "tcp"), note="no linger, no limits, no log"),
        Peer(
            name=ASYNCIO,
            transport="tcp",
            command=_module("aio", "asyncio", "tcp"),
            note="no linger, no limits, no log",
        ),
        _uvloop("tcp", tools),
        Peer(
            name=NGINX,
            transport="tcp",
            command=_module("nginx", str(tools.nginx), str(folder)),
            note="one process, no log",
            missing=None if tools.nginx else "no nginx",
        ),
        Peer(name=TUTORIAL, transport="tcp", command=_module("tutorial", "tcp"), note="backlog 5; prints each peer"),
        Peer(name=BARE, transport="tcp", command=_module("bare", "tcp"), note="no framework, no log"),
        _floor("tcp", tools),
    ]


def udp_peers(tools: Tools) -> list[Peer]:
    """Those that answer datagrams."""
    return [
        _greetsvc(GREETSVC, f"udp:0:interface={HOST}", note="as shipped: the UDP rule, counters and log on"),
        _greetsvc(TWO_WORKERS, f"udp:0:interface={HOST}", note="as shipped, a socket for each worker", workers=2),
        _greetsvc(
            MEASURED,
            f"udp:0:interface={HOST}",
            asks=COUNTED,
            note="as shipped; what runs of `greet` over UDP ask for",
        ),
        _greetsvc(
            GREETSVC_WILDCARD, "udp:0", host=ELSEWHERE, note="the same; answers leave from the address that was asked"
        ),
        Peer(name=STOCK, transport="udp", command=_module("stock", "udp"), note="no rule, no log"),
        Peer(
            name=STOCK_WILDCARD,
            transport="udp",
            command=_module("stock", "udp-wildcard"),
            note="asked at 127.0.0.1: elsewhere its answers leave from the wrong address",
        ),
        Peer(name=ASYNCIO, transport="udp", command=_module("aio", "asyncio", "udp"), note="no rule, no log"),
        _uvloop("udp", tools),
        Peer(name=TUTORIAL, transport="udp", command=_module("tutorial", "udp"), note="prints each peer"),
        Peer(name=BARE, transport="udp", command=_module("bare", "udp"), note="no framework, no rule, no log"),
        Peer(
            name=BARE_WILDCARD,
            transport="udp",
            command=_module("bare", "udp-wildcard"),
            host=ELSEWHERE,
            note="the same; answers leave from the address that was asked",
        ),
        _floor("udp", tools),
    ]


def holding_peers(tools: Tools) -> list[Peer]:
    """Those that greet and keep the connection, and greetsvc as shipped, which lingers."""
    return [
        Peer(
            name=GREETSVC_NET,
            transport="tcp",
            command=_module("eager", "hold"),
            note="write and stay, on the listener of greetsvc.net",
        ),
        _greetsvc(LINGERING, f"tcp:0:interface={HOST}", note="greeted, FIN sent, the peer keeps its end open"),
        Peer(
            name=STOCK, transport="tcp", command=_module("stock", "hold"), note="write and stay, on reactor.listenTCP"
        ),
        Peer(name=ASYNCIO, transport="tcp", command=_module("aio", "asyncio", "hold"), note="write and stay"),
        _uvloop("hold", tools),
    ]


HEALTH_CHECK = "`greet --healthcheck` of a service that greets"
REACTOR = "`import twisted.internet.reactor`"


def commands(port: int) -> dict[str, list[str]]:
    """Commands that run once, to be compared by their processor time; ``port`` is that of greetsvc."""
    return {
        HEALTH_CHECK: [f"{sysconfig.get_path('scripts')}/greet", "--healthcheck", f"127.0.0.1:{port}"],
        REACTOR: [sys.executable, "-c", "import twisted.internet.reactor"],
    }


def starting_peers() -> list[Peer]:
    """Those whose start is timed."""
    return [
        _greetsvc(GREETSVC, f"tcp:0:interface={HOST}", note="until a first peer has been greeted"),
        Peer(
            name=EMPTY,
            transport="tcp",
            command=_twistd("-y", str(EMPTY_TAC)),
            note="until its startService has written to the log; it listens nowhere",
        ),
        Peer(
            name=STOCK,
            transport="tcp",
            command=_module("stock", "tcp"),
            note="a script, no twistd; until a first peer has been greeted",
        ),
    ]
