"""The options of a probe, with their defaults and limits, and the limits of series and load runs."""

from __future__ import annotations

import re
from codecs import lookup
from ipaddress import ip_address
from typing import Literal

from attrs import frozen

from greetsvc.client.basics import BASICS, Family
from greetsvc.client.talk.protocols import LINES, PROTOCOLS, WEBSOCKET
from greetsvc.client.target import Target, format_address
from greetsvc.client.tls import ClientTls
from greetsvc.errors import ConfigError
from greetsvc.visit import Address

__all__ = [
    "DEFAULTS",
    "DEFAULT_INTERVAL",
    "DEFAULT_ROUNDS",
    "DEFAULT_SAY",
    "MAX_CONCURRENCY",
    "MAX_DATAGRAM",
    "MAX_DSCP",
    "MAX_FLOWS",
    "MAX_RATE",
    "MAX_SECONDS",
    "NO_TALK_FROM_A_PORT",
    "ROUTE_SECONDS",
    "ProbeOptions",
    "ProxyClaim",
    "Talk",
    "check_above_0",
    "check_range",
    "parse_proxy_claim",
]

DEFAULT_INTERVAL = 1.0
DEFAULT_ROUNDS = 5
"""Probes of each flow without a count: enough to tell a broken flow from bad luck."""

DEFAULT_SAY = "greet"
"""The message of a talking probe that has none."""

ROUTE_SECONDS = 30.0
"""The time-out of a trace, or of a search for the MTU, without -t: each silent hop takes up to 2 s."""

NO_TALK_FROM_A_PORT = "cannot be combined with --talk: whoever closes first keeps the port for a minute"

MAX_SECONDS = 86400.0
"""The longest time-out, interval and load run: a day."""
MAX_DATAGRAM = 65507
"""Bytes that one UDP datagram carries over IPv4: 65535 less the headers."""
MAX_DSCP = 63
"""DSCP has six bits (RFC 2474 3)."""
MAX_FLOWS = 256
MAX_CONCURRENCY = 100_000
MAX_RATE = 1_000_000.0
"""Probes a second."""

_PORT = re.compile(r"[0-9]{1,5}")


@frozen
class ProxyClaim:
    """A PROXY header to send first: its version, and the source address that it claims."""

    version: Literal[1, 2]
    source: Address

    def header(self, destination: Address) -> bytes:
        """The header. It cannot name a UNIX socket as destination, and gives the unspecified address instead."""
        from greetsvc.net.proxy.header import encode_v1, encode_v2

        host, port = destination.host.partition("%")[0], destination.port
        if not port:
            host = "::" if ":" in self.source.host else "0.0.0.0"
        encode = encode_v1 if self.version == 1 else encode_v2
        return encode((self.source.host, self.source.port), (host, port))


def parse_proxy_claim(version: Literal[1, 2], text: str) -> ProxyClaim:
    """Read ``SRC:PORT``, such as ``192.0.2.1:1234`` or ``[2001:db8::1]:1234``.

    :raises ConfigError: when it is anything else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    elif ":" in host:
        host = ""
    try:
        source = str(ip_address(host))
    except ValueError:
        source = ""
    if not source or "%" in source or not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ConfigError("must be ADDRESS:PORT, such as 192.0.2.1:1234", name=f"proxy-v{version}", value=text)
    return ProxyClaim(version, Address(source, int(port)))


@frozen
class Talk:
    """Talk on the connection: the protocol that frames the messages, and what to ``say``, one message after another.

    :raises ConfigError: when the protocol is not known, or a message cannot be one.
    """

    protocol: str
    say: tuple[str, ...] = (DEFAULT_SAY,)

    def __attrs_post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"must be one of {', '.join(PROTOCOLS)}", name="talk", value=self.protocol or "''")
        for text in self.say:
            if self.protocol == LINES and re.search("[\r\n]", text):
                raise ConfigError("a message in a line cannot have a line end", name="say", value=text)

    def messages(self, encoding: str) -> tuple[bytes, ...]:
        """What to say, in bytes.

        :raises ConfigError: when this encoding cannot say it.
        """
        if self.protocol == WEBSOCKET and lookup(encoding).name != "utf-8":
            raise ConfigError("the text of WebSocket is UTF-8", name="encoding", value=encoding)
        return tuple(_encoded(text, encoding) for text in self.say)


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except ValueError:
        raise ConfigError(f"cannot be written in {encoding}", name="say", value=text) from None


@frozen
class ProbeOptions:
    """Everything that can be set for a probe besides its target, checked.

    ``timeout`` is in seconds, ``size`` (of a datagram request) and ``limit`` (of a greeting) in bytes. None leaves
    ``dscp`` and ``source_port`` to the system.

    :raises ConfigError: a `ValueError` that names the option.
    """

    timeout: float = BASICS.timeout
    family: Family | None = BASICS.family
    size: int = BASICS.size
    encoding: str = BASICS.encoding
    limit: int = BASICS.limit
    tls: ClientTls | None = None
    dscp: int | None = None
    source_port: int | None = None
    proxy: ProxyClaim | None = None
    talk: Talk | None = None

    def __attrs_post_init__(self) -> None:
        check_above_0("timeout", self.timeout, MAX_SECONDS, "seconds")
        if self.family not in (None, 4, 6):
            raise ConfigError("must be 4, 6 or None", name="family", value=self.family)
        check_range("size", self.size, 0, MAX_DATAGRAM, " bytes")
        if self.limit < 1:
            raise ConfigError("must be at least 1 byte", name="limit", value=self.limit)
        check_range("dscp", self.dscp, 0, MAX_DSCP)
        check_range("source-port", self.source_port, 1, 65535)
        _check_encoding(self.encoding)
        if self.talk is not None:
            self.talk.messages(self.encoding)

    def check_target(self, target: Target) -> None:
        """Check that this target can be probed with these options.

        :raises ConfigError: when it cannot.
        """
        if self.tls is not None and target.transport != "tls":
            raise ConfigError("needs a tls: target", name="tls", value=target)
        if target.datagram and self.proxy is not None:
            name, value = f"proxy-v{self.proxy.version}", format_address(self.proxy.source)
            raise ConfigError(f"needs a stream target, not {target}", name=name, value=value)
        if self.talk is not None and self.source_port is not None:
            raise ConfigError(NO_TALK_FROM_A_PORT, name="source-port", value=self.source_port)
        if target.datagram and self.talk is not None:
            raise ConfigError(f"needs a stream target, not {target}", name="talk", value=self.talk.protocol)
        if target.local:
            for name, number in (("dscp", self.dscp), ("source-port", self.source_port)):
                if number is not None:
                    raise ConfigError(f"needs an IP target, not {target}", name=name, value=number)
        if self.family is not None:
            _check_family(self.family, target)


def check_above_0(name: str, value: float | None, most: float, unit: str) -> None:
    """Raise `ConfigError` when an option that is set is not above 0, or above ``most``."""
    if value is not None and not 0 < value <= most:
        raise ConfigError(f"must be more than 0 and at most {most:.10g} {unit}", name=name, value=value)


def check_range(name: str, value: float | None, least: int, most: float, unit: str = "") -> None:
    """Raise `ConfigError` when an option that is set is not from ``least`` to ``most``."""
    if value is not None and not least <= value <= most:
        raise ConfigError(f"must be from {least} to {most:.10g}{unit}", name=name, value=value)


def _check_family(family: Family, target: Target) -> None:
    if target.local:
        raise ConfigError("a UNIX socket has no address family", name="family", value=target)
    try:
        version = ip_address(target.host).version
    except ValueError:
        return
    if version != family:
        raise ConfigError(f"the address is IPv{version}, not IPv{family}", name="family", value=target)


def _check_encoding(name: str) -> None:
    unknown = ConfigError("is not a text encoding that Python knows", name="encoding", value=name or "''")
    try:
        lookup(name)
    except (LookupError, ValueError):  # ValueError: a NUL or a surrogate in the name
        raise unknown from None
    try:
        b"\xff\x00".decode(name, "backslashreplace")
    except LookupError:  # a codec, but not one for text, such as hex
        raise unknown from None
    except ValueError:
        raise ConfigError("cannot show bytes that do not decode", name="encoding", value=name) from None


DEFAULTS = ProbeOptions()
"""Every default of a probe."""
