"""The settings of the service: one record for each, how its values are read, and the checked values together.

The command line, the TOML file, ``--help``, the defaults and the error messages follow the records; a test holds the
tables of the documentation to them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from enum import Flag, auto
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, NamedTuple

from attrs import evolve, frozen

from greetsvc.address import DEFAULT_PORT
from greetsvc.daemon.systemd.unit import UNITS
from greetsvc.errors import ConfigError
from greetsvc.greeters.registry import Greeter, text_encoding
from greetsvc.greeters.text import DEFAULT as DEFAULT_GREETING
from greetsvc.net.endpoint import Endpoint, parse_endpoint
from greetsvc.net.linger.watched import SILENCE
from greetsvc.protocols.once import Once
from greetsvc.protocols.registry import DatagramPlugin, Plugin, StreamPlugin
from greetsvc.server.stream import DEADLINE
from greetsvc.server.udp_policy import UDP_BUDGET

__all__ = [
    "DEFAULT_GREETING",
    "ONCE",
    "PER_SOURCE",
    "SETTINGS",
    "SHARE_OF_FILES",
    "Listener",
    "Place",
    "Setting",
    "Settings",
    "serves",
    "shown",
]

DEFAULT_PROTOCOL = "once"

ONCE = Once()
"""The default protocol, which is also that of listeners that the one chosen for all cannot serve."""

PER_SOURCE = 256
"""Connections of one source without ``max-per-source``; loopback is exempt then."""

SHARE_OF_FILES = 0.9
"""The share of the allowed open files that may be connections without ``max-connections``."""

_LONGEST = 300
"""The characters of a number that is read, and of a value that an error quotes."""


_MAPPED_BITS = 96
"""The length of ::ffff:0:0/96, which holds all IPv4 addresses mapped into IPv6 (RFC 4291 2.5.5.2)."""


def shown(value: object) -> str:
    """A value as an error message quotes it; a long one is cut."""
    try:
        quoted = repr(value)
    except ValueError:  # sys.set_int_max_str_digits
        return "a number of thousands of digits"
    return quoted if len(quoted) <= _LONGEST else f"{quoted[:_LONGEST]}…"


def _not(allowed: str, value: object) -> ConfigError:
    return ConfigError(f"must be {allowed}, not {shown(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _not("text", value)
    return value


class _Number:
    """Reads a number within bounds."""

    def __init__(self, kind: type[int] | type[float], lowest: float, highest: float, allowed: str) -> None:
        self.kind = kind
        self.lowest = lowest
        self.highest = highest
        self.allowed = allowed

    def __call__(self, value: Any) -> float:
        # A boolean is not a number in TOML, though it is an int in Python. NaN is within no bounds.
        good = isinstance(value, int | self.kind) and not isinstance(value, bool)
        if not good or not self.lowest <= value <= self.highest:
            raise _not(self.allowed, value)
        return self.kind(value)


class _Workers(_Number):
    """Reads a number of processes, or ``auto``: as many as cores that this process may use."""

    def __call__(self, value: Any) -> float:
        if value == "auto":
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return super().__call__(value)


def _seconds(lowest: float) -> _Number:
    return _Number(float, lowest, 86400, f"a number of seconds from {lowest:g} to 86400")


def _whole(lowest: int, highest: int) -> _Number:
    return _Number(int, lowest, highest, f"a whole number from {lowest} to {highest}")


class _OneOf:
    """Reads one of ``words``."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def __call__(self, value: object) -> object:
        if value not in self.words:
            raise _not(f"one of {', '.join(self.words)}", value)
        return value


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise _not("true or false", value)
    return value


def _networks(value: object) -> tuple[IPv4Network | IPv6Network, ...]:
    if not isinstance(value, list):
        raise _not("an array of networks", value)
    return tuple(_network(_text(one)) for one in value)


def _network(name: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(name)
    except ValueError as error:
        raise ConfigError(
            f"must be a network as 192.0.2.0/24 or 2001:db8::/32, not {shown(name)} ({error})"
        ) from error
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))  # peers are compared as IPv4, see `Address.plain`


def _authorities(value: object) -> str:
    """The path of a file of certificates, which is read here so that an error is found without any TLS listener."""
    path = _text(value)
    if not path:
        raise _not("a file", path)
    from greetsvc.net.tls.pem import read_certificates  # only TLS needs cryptography

    read_certificates(Path(path))
    return path


def _endpoint(value: object) -> Endpoint:
    return parse_endpoint(_text(value))


def _admin(value: object) -> Endpoint:
    """The endpoint of the admin site: without an address it is for this machine alone."""
    endpoint = _endpoint(value)
    if endpoint.is_datagram or endpoint.proxied:
        raise _not("a stream endpoint without proxy:, as in tcp:9090", value)
    if endpoint.host is None or "interface" in endpoint.options:
        return endpoint
    host, written = ("::1", r"\:\:1") if endpoint.kind == "tcp6" else ("127.0.0.1", "127.0.0.1")
    text = f"{endpoint.text}:interface={written}"
    return evolve(endpoint, text=text, host=host, options={**endpoint.options, "interface": host})


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _not("an array of names", value)
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", _text(name)):
            raise _not("a host name without a port", name)
    return tuple(value)


@frozen
class Listener:
    """One endpoint to listen on, its greeter and its protocol (``plugin``).

    ``greeter_option`` is the greeter as ``--greeter`` names it, and ``protocol_option`` the protocol. ``where`` is
    its setting, for error messages. ``measure``: whether a UDP listener gives measured answers.
    """

    endpoint: Endpoint
    greeter: Greeter
    greeter_option: str
    where: str
    plugin: Plugin = ONCE
    protocol_option: str = DEFAULT_PROTOCOL
    encoding: str = "utf-8"
    measure: bool = True


def serves(protocol: Plugin, endpoint: Endpoint) -> bool:
    """Whether this protocol is one for the streams or the datagrams of this endpoint."""
    return isinstance(protocol, DatagramPlugin if endpoint.is_datagram else StreamPlugin)


@frozen
class Settings:
    """All settings, checked. No listeners mean the default ones, which use ``greeter`` and ``plugin``."""

    listeners: tuple[Listener, ...]
    greeter: Greeter
    greeter_option: str
    plugin: Plugin
    protocol_option: str
    encoding: str
    deadline: float
    linger: float
    drain: float
    max_connections: int | None
    max_per_source: int | None
    udp_budget: float
    trust_proxy: tuple[IPv4Network | IPv6Network, ...]
    client_ca: str | None
    admin: Listener | None
    admin_host: tuple[str, ...]
    workers: int
    log_visits: str
    log_format: str


class Place(Flag):
    """Where a setting may be given: ``LISTEN`` is a ``[[listen]]`` table, ``FILE`` the top level of the TOML file."""

    COMMAND_LINE = auto()
    FILE = auto()
    LISTEN = auto()


class Setting(NamedTuple):
    """One setting.

    ``metavar`` is empty for a flag. ``read`` checks a value as TOML gives it and returns what `Settings` holds; it
    raises `ConfigError`, `ValueError` or `OSError`. ``default`` is as TOML gives it; ``default_text`` replaces it in
    the help, where a value alone would not tell enough. ``reload``: whether a reload of the file may change it.
    """

    name: str
    metavar: str
    meaning: str
    read: Callable[[object], Any] = _text
    default: object = None
    default_text: str = ""
    places: Place = Place.COMMAND_LINE | Place.FILE
    repeatable: bool = False
    reload: bool = True

    @property
    def attribute(self) -> str:
        """The name in Python: that of the field of `Settings`."""
        return self.name.replace("-", "_")

    def literal(self, given: str) -> object:
        """What TOML would give where the command line gives this text: a number, if the setting is one."""
        if not isinstance(self.read, _Number) or len(given) > _LONGEST:
            return given
        if re.fullmatch(r"-?[0-9]+", given):
            return int(given)
        return (
            float(given)
            if self.read.kind is float and re.fullmatch(r"-?[0-9]*\.?[0-9]+(e-?[0-9]{1,2})?", given)
            else given
        )

    @property
    def words(self) -> tuple[str, ...]:
        """All values that it may have; empty where these are not a few words."""
        return self.read.words if isinstance(self.read, _OneOf) else ()

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


_ANYWHERE = Place.COMMAND_LINE | Place.FILE | Place.LISTEN
_COUNT = _whole(1, 10_000_000)
_MAX_CONNECTIONS = f"{SHARE_OF_FILES * 100:.0f} % of the file limit, and no more than memory allows"
_MAX_PER_SOURCE = f"{PER_SOURCE}; loopback is exempt while this is the default"

SETTINGS = (
    Setting(
        "listen",
        "ENDPOINT",
        "where to listen: tcp:8088, udp:8088, unix:PATH, unixgram:PATH, tls:DIR:port=8443, or another endpoint",
        default_text=f"TCP and UDP {DEFAULT_PORT} on every address",
        repeatable=True,
    ),
    Setting(
        "endpoint", "ENDPOINT", "where to listen", lambda value: parse_endpoint(_text(value)), places=Place.LISTEN
    ),
    Setting("greeting", "TEXT", "the greeting, a template", default=DEFAULT_GREETING, places=_ANYWHERE),
    Setting(
        "greeter",
        "KIND[:ARGS]",
        "the greeting, from a greeter of this kind (see --list); not together with --greeting",
        default_text="text:",
        places=_ANYWHERE,
    ),
    Setting(
        "protocol",
        "NAME[:ARGS]",
        "how it is said (see --list): once greets and closes; others go on talking",
        default=DEFAULT_PROTOCOL,
        places=_ANYWHERE,
    ),
    Setting(
        "encoding",
        "NAME",
        "how text becomes bytes",
        lambda value: text_encoding(_text(value)),
        "utf-8",
        places=_ANYWHERE,
    ),
    Setting(
        "measure",
        "BOOL",
        "whether a UDP listener gives measured answers",
        _switch,
        True,
        "true",
        places=Place.LISTEN,
    ),
    Setting(
        "config",
        "FILE",
        "a TOML file with the same settings; the command line wins",
        default_text="none",
        places=Place.COMMAND_LINE,
    ),
    Setting("check", "", "read all settings, bind, print what would run, and exit", places=Place.COMMAND_LINE),
    Setting("list", "", "print the known greeters and protocols, one line each, and exit", places=Place.COMMAND_LINE),
    Setting(
        "max-connections", "N", "maximum of open connections, lingering ones too", _COUNT, None, _MAX_CONNECTIONS
    ),
    Setting(
        "max-per-source", "N", "maximum of open connections per IPv4 /24 or IPv6 /56", _COUNT, None, _MAX_PER_SOURCE
    ),
    Setting(
        "deadline",
        "S",
        "seconds that a connection may last; for talking protocols, seconds that it may be silent",
        _seconds(0.0001),
        DEADLINE,
    ),
    Setting(
        "linger",
        "S",
        "after the greeting: seconds without a byte after which a peer that stays is closed",
        _seconds(0),
        SILENCE,
    ),
    Setting("drain", "S", "on stop: seconds that open connections have to end", _seconds(0), 5.0),
    Setting(
        "udp-budget",
        "BYTES",
        "bytes a second for UDP answers to the unmarked requests of one source prefix",
        _whole(0, 10**9),
        UDP_BUDGET,
    ),
    Setting(
        "trust-proxy",
        "CIDR",
        "a network whose PROXY headers are trusted",
        _networks,
        ["127.0.0.0/8", "::1"],
        "loopback",
        repeatable=True,
    ),
    Setting(
        "client-ca",
        "FILE",
        "TLS listeners require a client certificate that is signed by one of the certificates in FILE",
        _authorities,
        default_text="off",
    ),
    Setting(
        "admin",
        "ENDPOINT",
        "where the admin site listens, as tcp:9090: health, metrics and a live page; without interface= on 127.0.0.1",
        _admin,
        default_text="off",
        reload=False,
    ),
    Setting(
        "admin-host",
        "NAME",
        "a host name for requests to the admin site, besides its addresses, localhost and the machine's name",
        _names,
        [],
        "none",
        repeatable=True,
        reload=False,
    ),
    Setting(
        "workers",
        "N",
        "processes that share the listening sockets and the limits; auto: one for each core",
        _Workers(int, 1, 1024, "a whole number from 1 to 1024, or auto"),
        1,
        reload=False,
    ),
    Setting(
        "log-visits",
        "WHAT",
        "all: log each visit, or a summary each second when there are many; summary: only summaries; off: nothing",
        _OneOf(("all", "summary", "off")),
        "all",
    ),
    Setting("log-format", "FORMAT", "text or json", _OneOf(("text", "json")), "text"),
    Setting(
        "print-unit",
        "KIND",
        "print the systemd unit of this kind, service or socket, with the path of this installation, and exit",
        _OneOf(UNITS),
        places=Place.COMMAND_LINE,
    ),
    Setting("version", "", "print the version and exit", places=Place.COMMAND_LINE),
    Setting("help", "", "print this help and exit", places=Place.COMMAND_LINE),
)
