"""Likely causes of failures, in words; they are hints, not facts (docs/verdicts.md). Pure."""

from __future__ import annotations

import errno

from greetsvc.client.alerts import alert_cause
from greetsvc.client.certificates import certificate_cause
from greetsvc.client.result import (
    NO_FREE_PORT,
    NO_IPV6,
    NO_ROUTE,
    NO_THREAD,
    OTHER_ADDRESS,
    Closed,
    GreetFailed,
    Greeting,
)

__all__ = ["explain", "likely_cause"]

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

_HOST = {
    errno.EMFILE: "this process may not open more files: raise its limit (ulimit -n)",
    errno.ENFILE: "this host may not open more files: raise fs.file-max, or end the program that has them open",
    errno.ENOMEM: "this host has no memory left, or this process may not have more (ulimit -v)",
    errno.EAFNOSUPPORT: "this host has no such address family: IPv6 is turned off in its kernel; try -4",
}
"""Faults of this host, in whatever step."""

_HOST_WORDS = (
    (NO_THREAD, "this process or its user has too many threads, or no memory (ulimit -u, ulimit -v)"),
    (NO_FREE_PORT, _NO_PORT),
    (NO_IPV6, "IPv6 is turned off on this host: ask for an IPv4 address, or turn it on"),
    (NO_ROUTE, "a route is missing on this host, or its network is down"),
)

_CONNECT = {
    errno.ECONNREFUSED: "the host is there: nothing listens on that port, or a firewall rejects it with a reset",
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: "this host, or a router on the path, has no route to that network",
    errno.EADDRINUSE: "another program on this host uses that source port",
    errno.EADDRNOTAVAIL: "the system still keeps an earlier connection from that port: wait a minute or use another",
    errno.EACCES: "a source port below 1024 needs privilege, or a rule on this host forbids it",
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
    errno.ENODATA: "a limit or rule of the server, a load balancer with no live server, or a missing PROXY header",
    errno.ECONNRESET: "a firewall or load balancer; or the server failed, refuses us or expects a PROXY header",
    errno.ETIMEDOUT: "the server waits for a request or hangs, or only long packets are lost (an MTU problem)",
    errno.EMSGSIZE: _NO_SERVICE,
}

_GREET_UDP = {
    errno.ECONNREFUSED: "ICMP port unreachable: nothing listens on that UDP port, or a firewall rejects it",
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: _CONNECT[errno.ENETUNREACH],
    errno.EADDRINUSE: _CONNECT[errno.EADDRINUSE],
    errno.EACCES: "a broadcast address, a source port below 1024 without privilege, or a rule on this host",
    errno.EPERM: "a firewall on this host forbids it",
    errno.ETIMEDOUT: "the request or the answer was dropped, nothing answers there, or the server limits its answers",
    errno.ENODATA: _NO_SERVICE,
    errno.EMSGSIZE: _NO_SERVICE,
    errno.EPROTO: _ECHO,
}

_GREET_UNIXGRAM = {
    errno.ETIMEDOUT: "the server does not read from its socket, does not answer, or is in another container, where"
    " our answer address does not exist",
    errno.ENODATA: _NO_SERVICE,
    errno.EMSGSIZE: _NO_SERVICE,
    errno.EPROTO: _ECHO,
}

_ENDING: dict[Closed | None, str] = {
    "reset": "the server closed with unread data, was killed, or a device on the path ended the connection",
    "timeout": "the FIN was lost or held back on the path, or the server waits for us to close",
}


def explain(result: Greeting | GreetFailed, said: set[str]) -> list[str]:
    """What the path did and what caused a failure, a line each; what a run has ``said`` is not said again."""
    notes = result.path.notes if isinstance(result, Greeting) and result.path else ()
    found = {note.key: note.text for note in notes if note.notable}
    found |= {cause: cause for cause in likely_cause(result)}
    new = {key: text for key, text in found.items() if key not in said}
    if len(said) + len(new) > _MAX_SAID:
        new = {} if _ENOUGH in said else {_ENOUGH: _ENOUGH}
    said.update(new)
    return list(new.values())


def likely_cause(result: Greeting | GreetFailed) -> tuple[str, ...]:
    """The likely cause of a failure, or of an end without a FIN, as a line; nothing when the result says it all."""
    if isinstance(result, Greeting):
        cause = _ENDING.get(result.closed, "")
    else:
        cause = result.icmp.cause if result.icmp else _by_host(result) or _by_errno(result)
        if result.errno == errno.ETIMEDOUT:
            if result.phase == "connect" and not (result.target and result.target.local):
                cause = _dropped(result)
            if any(note.startswith(OTHER_ADDRESS) for note in result.notes):
                cause = "the server answers from another of its addresses, or NAT on the way back is wrong"
    return (f"likely: {cause}",) if cause else ()


def _by_host(failed: GreetFailed) -> str:
    said = failed.strerror or ""
    return _HOST.get(failed.errno or 0, "") or next((cause for words, cause in _HOST_WORDS if words in said), "")


def _by_errno(failed: GreetFailed) -> str:
    transport, number = failed.target.transport if failed.target else "tcp", failed.errno or 0
    if failed.phase == "resolve":
        return _RESOLVE.get(number, "")
    if failed.phase == "tls":
        words = failed.strerror or ""
        return _TLS.get(number) or certificate_cause(words) or alert_cause(words)
    if failed.phase == "connect":
        return (_CONNECT_UNIX if transport in {"unix", "unixgram"} else _CONNECT).get(number, "")
    return {"udp": _GREET_UDP, "unixgram": _GREET_UNIXGRAM}.get(transport, _GREET).get(number, "")


def _dropped(failed: GreetFailed) -> str:
    """No answer to connecting. The number of SYNs tells dropped packets from a time-out that was too short."""
    syns = failed.sent.syns if failed.sent else None
    count = "no answer to our SYN" if syns is None else f"no answer to {syns} SYN{'' if syns == 1 else 's'}"
    return f"packets are dropped ({count}): a firewall, no such host, or no route back"
