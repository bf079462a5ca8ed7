"""Why a step probably failed, in plain words: likely causes, not facts (docs/verdicts.md). Pure."""

from __future__ import annotations

import errno

from greetsvc.client.alerts import alert_cause
from greetsvc.client.certificates import certificate_cause
from greetsvc.client.result import Closed, GreetFailed

__all__ = ["likely", "likely_ending"]

_UNREACHABLE = "no way there: a route is missing, the host does not answer on its own network, or a firewall rejects"
_NO_SERVICE = "something else than a greeting service answers there"
_ECHO = "an echo service, a box that sends packets back, or our own socket (its source port is the target's)"

_RESOLVE = {
    errno.ENOENT: "the name is mistyped or not published, or this resolver does not know it: ask another resolver",
    errno.EAGAIN: "the resolver cannot be reached or has failed: look at /etc/resolv.conf, then try again",
    errno.ETIMEDOUT: "the resolver does not answer: its address is wrong, or port 53 is dropped on the way",
}

_CONNECT = {
    errno.ECONNREFUSED: "the host is there: nothing listens on that port, or a firewall rejects it with a reset",
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: "this host has no route to that network, or a router on the way has none",
    errno.EADDRINUSE: "another program on this host uses that source port",
    errno.EADDRNOTAVAIL: "an earlier connection from that port is not forgotten yet: wait a minute, or take another",
    errno.EACCES: "a source port below 1024 needs privilege, or a rule on this host forbids it",
}

_CONNECT_UNIX = {
    errno.ENOENT: "the server does not run, or its socket is at another path",
    errno.ECONNREFUSED: "the server has stopped and left its socket behind",
    errno.EACCES: "this user may not write to the socket, or not enter its folder",
    errno.EPROTOTYPE: "it is a socket of the other kind: unix: is for streams, unixgram: for datagrams",
    errno.ETIMEDOUT: "the server does not keep up: its queue is full",
}

_TLS = {
    errno.ETIMEDOUT: "the far end speaks no TLS and waits, or only long packets are lost (an MTU problem)",
    errno.ECONNRESET: "the far end speaks no TLS, or a firewall that reads the name asked for (SNI) ends it",
}

_GREET = {
    errno.ENODATA: "a limit or rule of the server, a load balancer with no live server, or it expects a PROXY header",
    errno.ECONNRESET: "a firewall or load balancer ended it; the server failed, refuses us, or wants a PROXY header",
    errno.ETIMEDOUT: "the listener waits for us to speak or hangs, or only long packets are lost (an MTU problem)",
    errno.EMSGSIZE: _NO_SERVICE,
}

_GREET_UDP = {
    errno.ECONNREFUSED: "ICMP port unreachable: nothing listens on that UDP port, or a firewall rejects it",
    errno.EHOSTUNREACH: _UNREACHABLE,
    errno.ENETUNREACH: _CONNECT[errno.ENETUNREACH],
    errno.EADDRINUSE: _CONNECT[errno.EADDRINUSE],
    errno.EACCES: "a broadcast address; a source port below 1024 needs privilege; or a rule on this host forbids it",
    errno.EPERM: "a firewall on this host forbids it",
    errno.ETIMEDOUT: "dropped on the way there or back, nothing that answers is there, or it keeps to its limits",
    errno.ENODATA: _NO_SERVICE,
    errno.EMSGSIZE: _NO_SERVICE,
    errno.EPROTO: _ECHO,
}

_GREET_UNIXGRAM = {
    errno.ETIMEDOUT: "the server does not read from its socket, or has nothing to answer there",
    errno.ENODATA: _NO_SERVICE,
    errno.EMSGSIZE: _NO_SERVICE,
    errno.EPROTO: _ECHO,
}

_ENDING: dict[Closed, str] = {
    "reset": "the server closed with our bytes unread, was killed, or a box on the way ended the connection",
    "timeout": "the FIN was lost or held back on the way, or the server waits for us to close",
}


def likely(failed: GreetFailed) -> tuple[str, ...]:
    """The likely causes of a failure, a line each; none when the verdict says it all."""
    found = _dropped(failed) if failed.phase == "connect" and failed.errno == errno.ETIMEDOUT else ""
    if failed.errno == errno.ETIMEDOUT and any("which was not asked" in note for note in failed.notes):
        found = "the server answers from another of its addresses, or address translation on the way back is wrong"
    found = found or _by_number(failed)
    return (f"likely: {found}",) if found else ()


def likely_ending(closed: Closed | None) -> tuple[str, ...]:
    """The same for a connection that did not end with a FIN after its greeting."""
    return (f"likely: {_ENDING[closed]}",) if closed in _ENDING else ()


def _by_number(failed: GreetFailed) -> str:
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
    """Silence at connecting; how often the SYN was sent tells it from a time-out that was too short."""
    if failed.target is not None and failed.target.local:
        return ""
    syns = failed.sent.syns if failed.sent else None
    count = "no answer to our SYN" if syns is None else f"no answer to {syns} SYN{'' if syns == 1 else 's'}"
    return f"packets are dropped ({count}): a firewall, no such host, or no way back"
