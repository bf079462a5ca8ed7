"""Ask one place for a greeting, once: resolve, connect, agree on TLS, listen, judge."""

from __future__ import annotations

import math
import os
import socket
from codecs import lookup
from ipaddress import ip_address
from typing import Any, Literal

from attrs import frozen

from greetsvc.client.outgoing import AS_EVER, Outgoing
from greetsvc.client.path import place
from greetsvc.client.probe.datagram import ask_udp, ask_unixgram
from greetsvc.client.probe.resolve import find
from greetsvc.client.probe.stream import ask_stream
from greetsvc.client.probe.timeline import Progress, Trace
from greetsvc.client.result import GreetFailed, Greeting
from greetsvc.client.target import DEFAULT_HOST, Target, parse
from greetsvc.client.tls import ClientTls
from greetsvc.errors import ConfigError
from greetsvc.wire import request

__all__ = ["LONGEST_REQUEST", "LONGEST_TIMEOUT", "Asking", "ask", "greet", "greet_ex"]

LONGEST_REQUEST = 65507
"""The most bytes that one UDP datagram carries over IPv4: 65535 less the headers."""

LONGEST_TIMEOUT = 86400.0

_FAMILIES = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}


@frozen
class Asking:
    """How to ask: everything `greet` takes besides the target, checked.

    :raises ConfigError: a `ValueError`, for what cannot be.
    """

    timeout: float = 5.0
    family: Literal[4, 6] | None = None
    size: int = 1200
    encoding: str = "utf-8"
    limit: int = 65536
    tls: ClientTls | None = None
    outgoing: Outgoing = AS_EVER

    def __attrs_post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and 0 < self.timeout <= LONGEST_TIMEOUT):
            raise ConfigError(
                f"must be more than 0 and at most {LONGEST_TIMEOUT:g} seconds", name="timeout", value=self.timeout
            )
        if self.family not in _FAMILIES:
            raise ConfigError("must be 4, 6 or None", name="family", value=self.family)
        if not 0 <= self.size <= LONGEST_REQUEST:
            raise ConfigError(f"must be from 0 to {LONGEST_REQUEST} bytes", name="size", value=self.size)
        if self.limit < 1:
            raise ConfigError("must be at least 1 byte", name="limit", value=self.limit)
        _check_encoding(self.encoding)

    def check(self, target: Target) -> None:
        """Whether this target can be asked so.

        :raises ConfigError: when it cannot.
        """
        if self.tls is not None and target.transport != "tls":
            raise ConfigError("only a tls: target speaks TLS", name="tls", value=target)
        self._check_outgoing(target)
        if self.family is None:
            return
        if target.local:
            raise ConfigError("a UNIX socket has no address family", name="family", value=target)
        try:
            version = ip_address(target.host).version
        except ValueError:
            return
        if version != self.family:
            raise ConfigError(f"an IPv{version} address is not IPv{self.family}", name="family", value=target)

    def _check_outgoing(self, target: Target) -> None:
        out = self.outgoing
        if target.local and out.dscp is not None:
            raise ConfigError(f"needs packets, and {target} has none", name="dscp", value=out.dscp)
        if target.local and out.source_port is not None:
            raise ConfigError(f"needs ports, and {target} has none", name="source-port", value=out.source_port)
        if target.datagram and out.claim is not None:
            name = f"proxy-v{out.claim.version}"
            raise ConfigError(f"needs a connection, and {target} has none", name=name, value=place(out.claim.source))


def _check_encoding(name: str) -> None:
    try:
        lookup(name)
    except (LookupError, ValueError):
        # A name that holds a NUL or a byte that is no character does not even reach the search for it.
        raise ConfigError("is no text encoding that Python knows", name="encoding", value=name or "''") from None
    try:
        b"\xff\x00".decode(name, "backslashreplace")
    except LookupError:
        raise ConfigError("is no text encoding that Python knows", name="encoding", value=name) from None
    except ValueError:
        raise ConfigError("cannot show bytes that do not decode", name="encoding", value=name) from None


async def greet(
    target: str | Target = DEFAULT_HOST,
    *,
    timeout: float = 5.0,
    family: Literal[4, 6] | None = None,
    size: int = 1200,
    encoding: str = "utf-8",
    limit: int = 65536,
    tls: ClientTls | None = None,
    trace: Trace | None = None,
    reactor: Any = None,
) -> Greeting:
    """Ask ``target`` (as ``udp:127.0.0.1:8088``; see docs/client.md) for its greeting.

    :param timeout: seconds for all of it, from the look-up of the name to the end of the greeting.
    :param family: 4 or 6 to use only that family of addresses. One address is asked, always.
    :param size: bytes of a datagram request.
    :param encoding: how ``text`` is made of the bytes.
    :param limit: the longest greeting, in bytes.
    :param tls: whom to trust and who we are, for a ``tls:`` target.
    :param trace: called with a line for each step as it happens.
    :raises GreetFailed: an `OSError`: when no greeting came.
    :raises ValueError: for a target or a setting that cannot be; nothing was sent.
    """
    asked = target if isinstance(target, Target) else parse(target)
    asking = Asking(timeout=timeout, family=family, size=size, encoding=encoding, limit=limit, tls=tls)
    return await ask(asked, asking, trace=trace, reactor=reactor)


async def greet_ex(target: str | Target = DEFAULT_HOST, **options: Any) -> int:
    """The same as `greet`, in the manner of ``socket.connect_ex``: 0 when greeted, or the errno.

    :raises ValueError: as `greet` does.
    """
    try:
        await greet(target, **options)
    except GreetFailed as failed:
        return int(failed.errno or 0)
    return 0


async def ask(target: Target, asking: Asking, *, trace: Trace | None = None, reactor: Any = None) -> Greeting:
    """Ask with settings that were checked before; see `greet`."""
    asking.check(target)
    if reactor is None:
        from twisted.internet import reactor
    progress = Progress(target, asking.timeout, trace=trace, outgoing=asking.outgoing)
    transport = target.transport
    if transport == "unixgram":
        data = await ask_unixgram(progress, target.path, _request(asking), asking.limit, reactor)
        return progress.greeted(data, asking.encoding)
    if transport == "unix":
        data, closed = await ask_stream(progress, target.path, None, asking.limit, reactor)
        return progress.greeted(data, asking.encoding, closed)
    tls = (asking.tls or ClientTls()) if transport == "tls" else None
    remote = await find(progress, _FAMILIES[asking.family], reactor)
    if transport == "udp":
        data = await ask_udp(progress, remote, _request(asking), asking.limit, reactor)
        return progress.greeted(data, asking.encoding)
    data, closed = await ask_stream(progress, remote, tls, asking.limit, reactor)
    return progress.greeted(data, asking.encoding, closed)


def _request(asking: Asking) -> bytes:
    return request(os.urandom(8).hex(), asking.size)
