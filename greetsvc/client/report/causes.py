"""Likely causes of failures, in words; they are hints, not facts (docs/verdicts.md). Pure."""

from __future__ import annotations

import errno
from typing import Any

from attrs import define

from greetsvc.client.alerts import alert_cause
from greetsvc.client.certificates import certificate_cause
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.words import (
    IN_A_CHARACTER,
    LATE_ANSWER,
    NO_CLOSE_NOTIFY,
    NO_FREE_PORT,
    NO_IPV6,
    NO_LOOPBACK,
    NO_ROUTE,
    NO_TALK,
    NO_THREAD,
    OTHER_ADDRESS,
    REFUSED,
    STILL_COMING,
    TLS_RECORD,
    TOO_LATE,
    Closed,
)
from greetsvc.visit import Address

__all__ = ["Earlier", "explain", "likely_cause"]

_MAX_SAID = 200
"""Different remarks of one run: the far end chooses the addresses in them."""
_ENOUGH = "further remarks about the path are left out: they differ each time"

_UNREACHABLE = "a route is missing, the host does not answer on its own network, or a firewall rejects"
_NO_PORT = (
    "too many connections of this host are open or in TIME_WAIT for its range of ports (net.ipv4.ip_local_port_range)"
)
_NO_SERVICE = "something other than a greeting service answers there"
_ECHO = "an echo service, a device that sends packets back, or our own socket (its source port is the target's)"

_RESOLVE = {
    errno.ENOENT: "the name is mistyped or not published, or this resolver does not know it: ask another resolver",
    errno.EAGAIN: "the resolver cannot be reached or has failed: check /etc/resolv.conf, then try again",
    errno.ETIMEDOUT: "the resolver does not answer: its address is wrong, or packets to port 53 are dropped",
}

_NO_ADDRESS = "the name has no IPv"
_OTHER_FAMILY = "the name is published for the other address family only: leave out -4 and -6"

_HOST = {
    errno.EMFILE: "this process may not open more files: raise its limit (ulimit -n)",
    errno.ENFILE: "this host may not open more files: raise fs.file-max, or end the program that has them open",
    errno.ENOMEM: "this host has no memory left, or this process may not have more (ulimit -v)",
    errno.EAFNOSUPPORT: "this host has no such address family: IPv6 is turned off in its kernel; try -4",
    errno.ENODEV: "the zone, behind the %, must be the name or the number of an interface of this host (ip link)",
}
"""Faults of this host, in whatever step."""

_HOST_WORDS = (
    (NO_LOOPBACK, "turn it on: ip link set lo up"),
    (NO_THREAD, "this process or its user has too many threads, or no memory (ulimit -u, ulimit -v)"),
    (NO_FREE_PORT, _NO_PORT),
    (NO_IPV6, "IPv6 is turned off on this host: ask for an IPv4 address, or turn it on"),
    (NO_ROUTE, "a route is missing on this host, or rejects (ip route: unreachable), or its network is down"),
)

_CONNECT = {
    errno.ECONNREFUSED: "the host is there and nothing listens on that port, or a firewall rejects it with a reset",
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: "this host, or a router on the path, has no route to that network",
    errno.EINVAL: "a blackhole route of this host (ip route), or a link-local address without its zone",
    errno.EADDRINUSE: "another program on this host uses that source port",
    errno.EADDRNOTAVAIL: "the system still keeps an earlier connection from that port: wait a minute or use another",
    errno.EACCES: "a source port below 1024 needs privilege, or a prohibit route or a rule on this host forbids it",
}

_CONNECT_UNIX = {
    errno.ENOENT: "the server does not run, or its socket is at another path",
    errno.ECONNREFUSED: "the server has stopped and left its socket behind",
    errno.EACCES: "this user may not write to the socket, or may not enter its folder",
    errno.EPROTOTYPE: "the socket is of the other kind: unix: is for streams, unixgram: for datagrams",
    errno.ETIMEDOUT: "the server does not keep up: its queue is full",
}

_TLS = {
    errno.ETIMEDOUT: "the server does not speak TLS and waits, or only long packets are lost (an MTU problem)",
    errno.ECONNRESET: "the server does not speak TLS, or a firewall that filters by server name (SNI) ended it",
}

_GREET = {
    errno.ENODATA: "a limit or rule of the server, a port that speaks TLS (try tls:), "
    "a proxy or a load balancer with no live server, or a missing PROXY header",
    errno.ECONNRESET: "a firewall or load balancer; or the server failed, refuses us, expects TLS (try tls:) "
    "or a PROXY header, or is a proxy with no live server",
    errno.ETIMEDOUT: "the server waits for a request or hangs, it speaks TLS (try tls:), its accept queue is full, "
    "it is a proxy with no live server or waits for a PROXY header, or only long packets are lost (an MTU problem)",
    errno.EPROTO: "that port speaks TLS: probe it as a tls: target",
    errno.EMSGSIZE: _NO_SERVICE,
}

_GREET_UDP = {
    errno.ECONNREFUSED: "ICMP port unreachable: nothing listens on that UDP port, or a firewall rejects it",
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: _CONNECT[errno.ENETUNREACH],
    errno.EADDRINUSE: _CONNECT[errno.EADDRINUSE],
    errno.EACCES: "a broadcast address, a source port below 1024 without privilege, a prohibit route, or a rule on "
    "this host",
    errno.EPERM: "a firewall on this host forbids it",
    errno.ETIMEDOUT: "the request or the answer was dropped, nothing answers there, the server limits its answers, "
    "or they come later than the time-out (-t)",
    errno.EINVAL: _CONNECT[errno.EINVAL],
    errno.ENODATA: _NO_SERVICE,
    errno.EMSGSIZE: _NO_SERVICE,
    errno.EPROTO: _ECHO,
}

_GREET_UNIX = {
    errno.ENODATA: "a limit or rule of the server, a proxy with no live server, or a missing PROXY header",
    errno.ECONNRESET: "the server failed, was killed, refuses us, expects a PROXY header, or is a proxy with no live "
    "server",
    errno.ETIMEDOUT: "the server waits for a request or hangs, or is a proxy with no live server",
    errno.EPROTO: _GREET[errno.EPROTO],
    errno.EMSGSIZE: _NO_SERVICE,
}

_GREET_UNIXGRAM = {
    errno.ETIMEDOUT: "the server does not read from its socket, does not answer, or is in another container, where"
    " our answer address does not exist",
    errno.ENODATA: _NO_SERVICE,
    errno.EMSGSIZE: _NO_SERVICE,
    errno.EPROTO: _ECHO,
}

_GREET_OVER = {"udp": _GREET_UDP, "unix": _GREET_UNIX, "unixgram": _GREET_UNIXGRAM}

_OTHER_PROTOCOL = "the server speaks another protocol than that of --talk"
_TALK = {
    ("greet", errno.EPROTO): _OTHER_PROTOCOL,
    ("greet", errno.ETIMEDOUT): f"{_OTHER_PROTOCOL}, waits for a request or hangs, or speaks TLS (try tls:)",
    ("greet", errno.ENODATA): f"{_OTHER_PROTOCOL} or TLS (try tls:), or a limit or rule of it ended the connection",
    ("talk", errno.EPROTO): _OTHER_PROTOCOL,
    ("talk", errno.ENODATA): "a limit or rule of the server, or it was stopped",
    ("talk", errno.ECONNRESET): "the server does not read our messages, was killed, or a device on the path ended it",
    ("talk", errno.ETIMEDOUT): f"{_OTHER_PROTOCOL} or hangs, or packets are lost or late",
}
"""Where the probe talks; without a message that was answered."""

_REFUSED = "a limit or rule of the server, or it reads another encoding than that of --encoding"
_NOT_TALKING = "the service greets and closes (--protocol once), or a limit or rule of the server"

_ENDING: dict[Closed | None, str] = {
    "reset": "the server closed with unread data, was killed, or a device on the path ended the connection",
    "timeout": "the FIN was lost or held back on the path, or the server waits for us to close",
}
_ENDING_UNIX: dict[Closed | None, str] = {
    "reset": "the server closed with unread data, or was killed",
    "timeout": "the server waits for us to close",
}

_DOWN = "the server was stopped, or one of several behind that address is down"
_LOST = "packets are lost or late, the server is overloaded, or the path or the server went down"
_AFTER_GREETINGS: dict[Any, str] = {
    ("resolve", errno.ENOENT): "the name was withdrawn, or the resolvers do not agree",
    ("resolve", errno.EAGAIN): "the resolver, or the path to it, fails at times",
    ("resolve", errno.ETIMEDOUT): "the resolver, or the path to it, fails at times",
    errno.ECONNREFUSED: _DOWN,
    errno.ECONNRESET: _DOWN,
    errno.ENODATA: "a limit of the server, or one of several behind that address fails",
    errno.ETIMEDOUT: _LOST,
    errno.EHOSTUNREACH: "a route or a host on the path went down",
    errno.ENETUNREACH: "a route or a host on the path went down",
}

_LONG_PACKETS = (
    "long packets of the server are lost and short ones arrive: an MTU black hole on the way back, whose router "
    "sends no ICMP, or a firewall drops it (greet --mtu)"
)

_TOO_SLOW = "the answers come, but later than the time-out (-t): the path is slow, or the server is busy"

_BY_NOTE = {
    OTHER_ADDRESS: "the server answers from another of its addresses, or NAT on the way back is wrong",
    LATE_ANSWER: _TOO_SLOW,
    TOO_LATE: _TOO_SLOW,
}

_CUT_SHORT = {
    STILL_COMING: "the server or the path is slower than the time-out (-t)",
    IN_A_CHARACTER: "the server failed while it greeted, or its greeting has another encoding (--encoding)",
    NO_CLOSE_NOTIFY: "the server was stopped, or something on the path ended the connection too early",
}


@define
class Earlier:
    """The earlier probes of a run: how many were greeted, and whether a cause was told that a greeting refutes."""

    greeted: int = 0
    doubted: bool = False


def explain(result: Greeting | GreetFailed, said: set[str], earlier: Earlier | None = None) -> list[str]:
    """What the path did and what caused a failure, a line each; what a run has ``said`` is not said again.

    After a greeting, a failure has other causes than before one: the name, the host and the service do exist.
    """
    earlier = earlier or Earlier()
    found: dict[str, str] = {}
    if isinstance(result, Greeting):
        earlier.greeted += 1
        found = {note.key: note.text for note in (result.path.notes if result.path else ()) if note.notable}
        if earlier.doubted:
            found["greeted"] = "greeted now: the likely cause of the earlier failures does not hold any more"
        earlier.doubted = False
        causes = likely_cause(result)
    else:
        causes = likely_cause(result, earlier.greeted)
        # A fault of this host is still there when another probe is greeted.
        refutable = not result.never_sent or result.phase == "resolve"
        earlier.doubted |= refutable and not earlier.greeted and not _by_host(result) and bool(causes)
    found |= {cause: cause for cause in causes}
    new = {key: text for key, text in found.items() if key not in said}
    if len(said) + len(new) > _MAX_SAID:
        new = {} if _ENOUGH in said else {_ENOUGH: _ENOUGH}
    said.update(new)
    return list(new.values())


def likely_cause(result: Greeting | GreetFailed, greeted: int = 0) -> tuple[str, ...]:
    """The likely cause of a failure, or of an end without a FIN, as a line; nothing when the result says it all.

    ``greeted`` is how many earlier probes were greeted: what a greeting refutes is no likely cause.
    """
    if _misses_long_packets(result):
        return (f"likely: {_LONG_PACKETS}",)
    if isinstance(result, Greeting):
        cut_short = [cause for how, cause in _CUT_SHORT.items() if how in result.cut_short]
        ending = _ENDING_UNIX if result.target.local else _ENDING
        cause = cut_short[0] if cut_short else ending.get(result.closed, "")
    else:
        cause = result.icmp.cause if result.icmp else _by_host(result) or _after_greetings(result, greeted)
        if not cause:
            dropped = (result.phase, result.errno) == ("connect", errno.ETIMEDOUT)
            local = result.target is not None and result.target.local
            cause = _dropped(result) if dropped and not local else _by_errno(result)
        if result.errno == errno.ETIMEDOUT:
            for note, why in _BY_NOTE.items():
                if any(told.startswith(note) for told in result.notes):
                    cause = why
    return (f"likely: {cause}",) if cause else ()


def _misses_long_packets(result: Greeting | GreetFailed) -> bool:
    """Whether the time passed while later packets of the server were there and an earlier one was not."""
    timed_out = result.errno == errno.ETIMEDOUT if isinstance(result, GreetFailed) else result.closed == "timeout"
    later = result.sent.later if result.sent else None
    return timed_out and later is not None and bool(later.out_of_order)


_NO_ZONE = "a link-local address needs its zone: a % behind it, and the name of an interface (ip link)"


def _by_host(failed: GreetFailed) -> str:
    if failed.peer is not None and failed.peer.host.lower().startswith("fe80:") and "%" not in failed.peer.host:
        return _NO_ZONE
    said = failed.strerror or ""
    return _HOST.get(failed.errno or 0, "") or next((cause for words, cause in _HOST_WORDS if words in said), "")


def _after_greetings(failed: GreetFailed, greeted: int) -> str:
    """The cause of a failure between greetings, or after them; nothing where a greeting refutes no cause."""
    if not greeted or (failed.never_sent and failed.phase != "resolve"):
        return ""
    after = _AFTER_GREETINGS.get((failed.phase, failed.errno), _AFTER_GREETINGS.get(failed.errno, ""))
    return f"it was greeted before: {after}" if after else ""


def _by_errno(failed: GreetFailed) -> str:
    transport, number = failed.target.transport if failed.target else "tcp", failed.errno or 0
    if failed.phase == "resolve":
        return _OTHER_FAMILY if _NO_ADDRESS in (failed.strerror or "") else _RESOLVE.get(number, "")
    if failed.phase == "tls":
        words = failed.strerror or ""
        return _TLS.get(number) or certificate_cause(words) or alert_cause(words)
    if failed.talk is not None and (failed.phase, number) in _TALK and TLS_RECORD not in (failed.strerror or ""):
        by_words = {NO_TALK: _NOT_TALKING, REFUSED: _REFUSED}
        said = failed.strerror or ""
        return next((cause for words, cause in by_words.items() if words in said), _TALK[failed.phase, number])
    if failed.phase == "connect":
        return (_CONNECT_UNIX if transport in {"unix", "unixgram"} else _CONNECT).get(number, "")
    return _GREET_OVER.get(transport, _GREET).get(number, "")


def _dropped(failed: GreetFailed) -> str:
    """No answer to connecting. The number of SYNs tells dropped packets from a time-out that was too short."""
    syns = failed.sent.syns if failed.sent else None
    count = "no answer to our SYN" if syns is None else f"no answer to {syns} SYN{'' if syns == 1 else 's'}"
    return f"packets are dropped ({count}): {_DROPPED[_is_ours(failed)]}"


_DROPPED = {
    False: "a firewall, no such host, no route back, or a server whose accept queue is full",
    True: "the accept queue of the server is full, or a rule of this host drops them",
}


def _is_ours(failed: GreetFailed) -> bool:
    """Whether the address that was asked is one of this host: an unspecified one is."""
    local = failed.sent.local if failed.sent else None
    if failed.peer is None or local is None:
        return False
    return Address.plain(failed.peer.host).host in {local.host, "0.0.0.0", "::"}
