"""The settings of the service: one record for each, and the checked values together.

The command line, the TOML file, ``--help``, the defaults and the error messages all follow the records; a test holds
the tables of the documentation to them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import Flag, auto
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from attrs import frozen

from greetsvc.errors import ConfigError
from greetsvc.greeters import Greeter, text_encoding
from greetsvc.greeters.text import DEFAULT as DEFAULT_GREETING
from greetsvc.net.endpoint import Endpoint, parse_endpoint
from greetsvc.server.defaults import DEADLINE, LINGER, UDP_BUDGET

__all__ = [
    "PER_SOURCE",
    "SETTINGS",
    "SHARE_OF_FILES",
    "Listener",
    "Network",
    "Place",
    "Setting",
    "Settings",
    "Type",
    "shown",
]

Network = IPv4Network | IPv6Network

PER_SOURCE = 256
"""Connections of one source without ``max-per-source``; loopback is exempt then."""

SHARE_OF_FILES = 0.9
"""The share of the allowed open files that may be connections without ``max-connections``."""

_DAY = 86400.0
_SHORTEST = 0.0001
_MOST = 10_000_000
_LONGEST_NUMBER = 300
_LONGEST_SHOWN = 300


@frozen
class Listener:
    """One endpoint to listen on and its greeter.

    ``greeter_option`` is the greeter as ``--greeter`` names it. ``where`` is the setting that the listener comes
    from, for error messages.
    """

    endpoint: Endpoint
    greeter: Greeter
    greeter_option: str
    where: str


@frozen
class Settings:
    """All settings, checked. No listeners mean the default ones, which use ``greeter``."""

    listeners: tuple[Listener, ...]
    greeter: Greeter
    greeter_option: str
    deadline: float
    linger: float
    drain: float
    max_connections: int | None
    max_per_source: int | None
    udp_budget: float
    trust_proxy: tuple[Network, ...]
    client_ca: str | None
    log_visits: str
    log_format: str


class Place(Flag):
    """Where a setting may be given."""

    COMMAND_LINE = auto()
    FILE = auto()
    """At the top level of the TOML file."""
    LISTEN = auto()
    """In a ``[[listen]]`` table of the TOML file."""


@frozen
class Type:
    """The values that a setting takes.

    ``read`` checks a value as TOML gives it and returns what `Settings` holds. It raises `ConfigError`, `ValueError`
    or `OSError`. ``literal`` turns the text of a command line into what TOML would give.
    """

    read: Callable[[object], Any]
    literal: Callable[[str], object] = str


@frozen
class Setting:
    """One setting.

    ``default`` is a value as TOML gives it; ``default_text`` replaces it in the help, where a value alone would not
    tell enough. ``metavar`` is empty for a flag. ``reload``: whether a running service can take a new value.
    """

    name: str
    metavar: str
    meaning: str
    type: Type
    default: object = None
    default_text: str = ""
    places: Place = Place.COMMAND_LINE | Place.FILE
    repeatable: bool = False
    reload: bool = False

    @property
    def attribute(self) -> str:
        """The name in Python: that of the field of `Settings`."""
        return self.name.replace("-", "_")

    @property
    def option(self) -> str:
        """The option with its metavar, as in ``--deadline S``."""
        return f"--{self.name} {self.metavar}".rstrip()

    @property
    def shown_default(self) -> str:
        """The default in words; empty where there is nothing to say."""
        if self.default_text or self.default is None:
            return self.default_text
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def help(self) -> str:
        """The meaning, whether it may be repeated, and the default."""
        repeatable = "; repeatable" if self.repeatable else ""
        default = f" [default: {self.shown_default}]" if self.shown_default else ""
        return f"{self.meaning}{repeatable}{default}"


def shown(value: object) -> str:
    """A value as an error message quotes it; a long one is cut."""
    try:
        whole = repr(value)
    except ValueError:  # sys.set_int_max_str_digits
        return "a number of thousands of digits"
    return whole if len(whole) <= _LONGEST_SHOWN else f"{whole[:_LONGEST_SHOWN]}…"


def _not(allowed: str, value: object) -> ConfigError:
    return ConfigError(f"must be {allowed}, not {shown(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _not("text", value)
    return value


def _seconds(lowest: float) -> Type:
    allowed = f"a number of seconds {'above 0' if lowest else 'from 0'} to {_DAY:.0f}"

    def read(value: object) -> float:
        number = _number(value)
        if number is None or not lowest <= number <= _DAY:
            raise _not(allowed, value)
        return float(number)

    return Type(read, _literal)


def _whole(lowest: int, highest: int) -> Type:
    def read(value: object) -> int:
        number = _number(value)
        if not isinstance(number, int) or not lowest <= number <= highest:
            raise _not(f"a whole number from {lowest} to {highest}", value)
        return number

    return Type(read, _literal)


def _number(value: object) -> int | float | None:
    """A finite number as TOML gives it, or None. A boolean is not a number in TOML, though it is an int in Python."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _literal(given: str) -> object:
    """The number that the text would be in TOML; any other text stays text, which `_number` refuses."""
    if len(given) > _LONGEST_NUMBER:
        return given
    if re.fullmatch(r"-?[0-9]+", given):
        return int(given)
    return float(given) if re.fullmatch(r"-?[0-9]*\.?[0-9]+(e-?[0-9]{1,2})?", given) else given


def _one_of(*words: str) -> Type:
    def read(value: object) -> str:
        if value not in words:
            raise _not(f"one of {', '.join(words)}", value)
        return str(value)

    return Type(read)


def _networks(value: object) -> tuple[Network, ...]:
    if not isinstance(value, list):
        raise _not("an array of networks", value)
    return tuple(map(_network, value))


def _network(value: object) -> Network:
    try:
        return ip_network(_text(value))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"must be a network as 192.0.2.0/24 or 2001:db8::/32, not {value!r} ({error})") from error


def _authorities(value: object) -> str:
    """The path of a file of certificates, which is read here so that an error is found without any TLS listener."""
    path = _text(value)
    if not path:
        raise _not("a file", path)
    from greetsvc.net.tls.pem import read_certificates  # only TLS needs cryptography

    read_certificates(Path(path))
    return path


def _flag(name: str, meaning: str) -> Setting:
    return Setting(name, "", meaning, TEXT, places=Place.COMMAND_LINE)


TEXT = Type(_text)

_ANYWHERE = Place.COMMAND_LINE | Place.FILE | Place.LISTEN

SETTINGS = (
    Setting(
        "listen",
        "ENDPOINT",
        "where to listen: tcp:8088, udp:8088, unix:PATH, unixgram:PATH, tls:DIR:port=8443, or another endpoint",
        TEXT,
        default_text="TCP and UDP 8088 on every address",
        repeatable=True,
        reload=True,
    ),
    Setting(
        "endpoint",
        "ENDPOINT",
        "where to listen",
        Type(lambda value: parse_endpoint(_text(value))),
        places=Place.LISTEN,
        reload=True,
    ),
    Setting("greeting", "TEXT", "the greeting, a template", TEXT, DEFAULT_GREETING, places=_ANYWHERE, reload=True),
    Setting(
        "greeter",
        "KIND[:ARGS]",
        "the greeting, from a greeter of this kind (see --list); not together with --greeting",
        TEXT,
        default_text="text:",
        places=_ANYWHERE,
        reload=True,
    ),
    Setting(
        "encoding",
        "NAME",
        "how text becomes bytes",
        Type(lambda value: text_encoding(_text(value))),
        "utf-8",
        places=_ANYWHERE,
        reload=True,
    ),
    Setting(
        "config",
        "FILE",
        "a TOML file with the same settings; the command line wins",
        TEXT,
        default_text="none",
        places=Place.COMMAND_LINE,
    ),
    _flag("check", "read all settings, bind, print what would run, and exit"),
    _flag("list", "print the known greeters, one line each, and exit"),
    Setting(
        "max-connections",
        "N",
        "maximum of open connections, including those that linger",
        _whole(1, _MOST),
        default_text=f"{SHARE_OF_FILES * 100:.0f} % of the file limit",
        reload=True,
    ),
    Setting(
        "max-per-source",
        "N",
        "maximum of open connections per IPv4 /24 or IPv6 /56",
        _whole(1, _MOST),
        default_text=f"{PER_SOURCE}; loopback is exempt while this is the default",
        reload=True,
    ),
    Setting("deadline", "S", "seconds that a connection may live", _seconds(_SHORTEST), DEADLINE, reload=True),
    Setting(
        "linger",
        "S",
        "seconds of silence allowed while the server reads what a peer still sends after its greeting",
        _seconds(0),
        LINGER,
        reload=True,
    ),
    Setting("drain", "S", "on stop: seconds that open connections have to end", _seconds(0), 5.0, reload=True),
    Setting(
        "udp-budget",
        "BYTES",
        "bytes a second for UDP answers to the unmarked requests of one source prefix",
        _whole(0, 10**9),
        UDP_BUDGET,
        reload=True,
    ),
    Setting(
        "trust-proxy",
        "CIDR",
        "a network whose PROXY headers are trusted",
        Type(_networks),
        ["127.0.0.0/8", "::1"],
        default_text="loopback",
        repeatable=True,
        reload=True,
    ),
    Setting(
        "client-ca",
        "FILE",
        "TLS listeners require a client certificate that is signed by one of the certificates in FILE",
        Type(_authorities),
        default_text="off",
    ),
    Setting(
        "log-visits",
        "WHAT",
        "all: log each visit, or a summary each second when there are many; summary: only summaries; off: nothing",
        _one_of("all", "summary", "off"),
        "all",
        reload=True,
    ),
    Setting("log-format", "FORMAT", "text or json", _one_of("text", "json"), "text", reload=True),
    _flag("version", "print the version and exit"),
    _flag("help", "print this help and exit"),
)
