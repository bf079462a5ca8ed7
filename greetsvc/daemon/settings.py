"""What the service can be told: every setting with its bounds, the same on the command line and in TOML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from attrs import field, frozen

from greetsvc.errors import ConfigError
from greetsvc.greeters import Greeter
from greetsvc.greeters.text import DEFAULT, TextGreeter
from greetsvc.net.endpoint import Endpoint

__all__ = ["KEYS", "LOOPBACK", "Key", "Listener", "Network", "Settings", "shown", "text"]

_DAY = 86400.0

_SHORTEST = 0.0001
_LONGEST_NUMBER = 300
_MOST = 10_000_000
_LONGEST_SHOWN = 300

Network = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))


def shown(value: object) -> str:
    """A value as a mistake quotes it, cut where it is longer than anybody reads."""
    try:
        whole = repr(value)
    except ValueError:  # sys.set_int_max_str_digits
        return "a number of thousands of digits"
    return whole if len(whole) <= _LONGEST_SHOWN else f"{whole[:_LONGEST_SHOWN]}…"


@frozen
class Listener:
    """One thing to listen on, and what is said there. ``where`` names the setting that asked for it."""

    endpoint: Endpoint
    greeter: Greeter
    says: str
    where: str


@frozen
class Settings:
    """Everything that the service is told. No listeners mean the default ones."""

    listeners: tuple[Listener, ...] = ()
    greeter: Greeter = field(factory=TextGreeter)
    says: str = f"text:{DEFAULT}"
    deadline: float = 10.0
    linger: float = 2.0
    drain: float = 5.0
    max_connections: int | None = None
    max_per_source: int | None = None
    udp_budget: float = 1024.0
    trust_proxy: tuple[Network, ...] = LOOPBACK
    client_ca: str | None = None
    log_visits: str = "all"
    log_format: str = "text"


def text(value: object) -> str:
    """The value, which must be text."""
    if not isinstance(value, str):
        raise ConfigError(f"must be text, not {shown(value)}")
    return value


def _seconds(lowest: float) -> Callable[[object], float]:
    bound = f"a number of seconds {'above 0' if lowest else 'from 0'} to {_DAY:.0f}"

    def read(value: object) -> float:
        number = _number(value)
        if number is None or not lowest <= number <= _DAY:
            raise ConfigError(f"must be {bound}, not {shown(value)}")
        return float(number)

    return read


def _whole(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = _number(value)
        if not isinstance(number, int) or not lowest <= number <= highest:
            raise ConfigError(f"must be a whole number from {lowest} to {highest}, not {shown(value)}")
        return number

    return read


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in words:
            raise ConfigError(f"must be one of {', '.join(words)}, not {shown(value)}")
        return str(value)

    return read


def _authorities(value: object) -> str:
    """The path of a file of certificates: checked also where no TLS listener reads it."""
    path = text(value)
    if not path:
        raise ConfigError("must be a file, not ''")
    from greetsvc.net.tls.contexts import read_authorities  # what only TLS needs is loaded for TLS

    read_authorities(Path(path))
    return path


def _networks(value: object) -> tuple[Network, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"must be an array of networks, not {shown(value)}")
    return tuple(_network(text(entry)) for entry in value)


def _network(entry: str) -> Network:
    try:
        return ip_network(entry)
    except ValueError as error:
        raise ConfigError(f"must be a network as 192.0.2.0/24 or 2001:db8::/32, not {entry!r} ({error})") from error


def _number(value: object) -> int | float | None:
    """A finite number as TOML gives it (booleans are none), or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _literal(given: str) -> object:
    """What a number on the command line would be in TOML; other text is itself, which no number is."""
    if len(given) > _LONGEST_NUMBER:
        return given
    if re.fullmatch(r"-?[0-9]+", given):
        return int(given)
    return float(given) if re.fullmatch(r"-?[0-9]*\.?[0-9]+(e-?[0-9]{1,2})?", given) else given


@frozen
class Key:
    """A setting: its option name, how its value is read, and what it means."""

    name: str
    metavar: str
    meaning: str
    read: Callable[[object], Any]
    literal: Callable[[str], object] = _literal
    repeatable: bool = False

    @property
    def attribute(self) -> str:
        """The name in `Settings`."""
        return self.name.replace("-", "_")


KEYS = (
    Key("greeting", "TEXT", "what is said: a template", text, str),
    Key("greeter", "KIND[:ARGS]", "what is said, by a greeter of this kind (--list shows them)", text, str),
    Key("encoding", "NAME", "how text becomes bytes [default: utf-8]", text, str),
    Key("deadline", "S", "seconds a connection may live [default: 10]", _seconds(_SHORTEST)),
    Key("linger", "S", "seconds of silence allowed while draining a peer that still sends [default: 2]", _seconds(0)),
    Key("drain", "S", "seconds open connections may take to end on stop [default: 5]", _seconds(0)),
    Key("max-connections", "N", "connections open at once [default: 90 % of the file limit]", _whole(1, _MOST)),
    Key(
        "max-per-source",
        "N",
        "the same per IPv4 /24 or IPv6 /56 [default: 256, not for loopback]",
        _whole(1, _MOST),
    ),
    Key(
        "udp-budget", "BYTES", "bytes a second for unmarked UDP answers to a prefix [default: 1024]", _whole(0, 10**9)
    ),
    Key("trust-proxy", "CIDR", "networks whose PROXY headers count [default: loopback]", _networks, repeatable=True),
    Key("client-ca", "FILE", "TLS listeners ask for a certificate signed by one of these", _authorities, str),
    Key("log-visits", "WHAT", "all, summary or off [default: all]", _one_of("all", "summary", "off"), str),
    Key("log-format", "FORMAT", "text or json [default: text]", _one_of("text", "json"), str),
)
