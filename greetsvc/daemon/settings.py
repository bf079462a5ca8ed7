"""The settings of the service: one record for each, and the checked values together.

The command line, the TOML file, ``--help``, the defaults and the error messages all follow the records; a test holds
the tables of the documentation to them.
"""

from __future__ import annotations

from enum import Flag, auto

from attrs import frozen

from greetsvc.daemon import values
from greetsvc.greeters import Greeter
from greetsvc.greeters.text import DEFAULT as DEFAULT_GREETING
from greetsvc.net.endpoint import Endpoint
from greetsvc.net.linger.watched import SILENCE
from greetsvc.server.stream import DEADLINE
from greetsvc.server.udp_policy import UDP_BUDGET

__all__ = ["PER_SOURCE", "SETTINGS", "SHARE_OF_FILES", "Listener", "Place", "Setting", "Settings"]

PER_SOURCE = 256
"""Connections of one source without ``max-per-source``; loopback is exempt then."""

SHARE_OF_FILES = 0.9
"""The share of the allowed open files that may be connections without ``max-connections``."""

_SHORTEST = 0.0001
_MOST = 10_000_000


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
    trust_proxy: tuple[values.Network, ...]
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
class Setting:
    """One setting.

    ``default`` is a value as TOML gives it; ``default_text`` replaces it in the help, where a value alone would not
    tell enough. ``metavar`` is empty for a flag. ``reload``: whether a reload of the file may change it.
    """

    name: str
    metavar: str
    meaning: str
    type: values.Type = values.TEXT
    default: object = None
    default_text: str = ""
    places: Place = Place.COMMAND_LINE | Place.FILE
    repeatable: bool = False
    reload: bool = True

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


_COUNT = values.whole(1, _MOST)
_ANYWHERE = Place.COMMAND_LINE | Place.FILE | Place.LISTEN
_MAX_CONNECTIONS = f"{SHARE_OF_FILES * 100:.0f} % of the file limit"
_MAX_PER_SOURCE = f"{PER_SOURCE}; loopback is exempt while this is the default"

SETTINGS = (
    Setting(
        "listen",
        "ENDPOINT",
        "where to listen: tcp:8088, udp:8088, unix:PATH, unixgram:PATH, tls:DIR:port=8443, or another endpoint",
        default_text="TCP and UDP 8088 on every address",
        repeatable=True,
    ),
    Setting("endpoint", "ENDPOINT", "where to listen", values.ENDPOINT, places=Place.LISTEN),
    Setting("greeting", "TEXT", "the greeting, a template", default=DEFAULT_GREETING, places=_ANYWHERE),
    Setting(
        "greeter",
        "KIND[:ARGS]",
        "the greeting, from a greeter of this kind (see --list); not together with --greeting",
        default_text="text:",
        places=_ANYWHERE,
    ),
    Setting("encoding", "NAME", "how text becomes bytes", values.ENCODING, "utf-8", places=_ANYWHERE),
    Setting(
        "config",
        "FILE",
        "a TOML file with the same settings; the command line wins",
        default_text="none",
        places=Place.COMMAND_LINE,
    ),
    Setting("check", "", "read all settings, bind, print what would run, and exit", places=Place.COMMAND_LINE),
    Setting("list", "", "print the known greeters, one line each, and exit", places=Place.COMMAND_LINE),
    Setting(
        "max-connections", "N", "maximum of open connections, lingering ones too", _COUNT, None, _MAX_CONNECTIONS
    ),
    Setting(
        "max-per-source", "N", "maximum of open connections per IPv4 /24 or IPv6 /56", _COUNT, None, _MAX_PER_SOURCE
    ),
    Setting("deadline", "S", "seconds that a connection may live", values.seconds(_SHORTEST), DEADLINE),
    Setting(
        "linger", "S", "seconds of silence allowed while draining what a peer still sends", values.seconds(0), SILENCE
    ),
    Setting("drain", "S", "on stop: seconds that open connections have to end", values.seconds(0), 5.0),
    Setting(
        "udp-budget",
        "BYTES",
        "bytes a second for UDP answers to the unmarked requests of one source prefix",
        values.whole(0, 10**9),
        UDP_BUDGET,
    ),
    Setting(
        "trust-proxy",
        "CIDR",
        "a network whose PROXY headers are trusted",
        values.NETWORKS,
        ["127.0.0.0/8", "::1"],
        "loopback",
        repeatable=True,
    ),
    Setting(
        "client-ca",
        "FILE",
        "TLS listeners require a client certificate that is signed by one of the certificates in FILE",
        values.AUTHORITIES,
        default_text="off",
        reload=False,
    ),
    Setting(
        "log-visits",
        "WHAT",
        "all: log each visit, or a summary each second when there are many; summary: only summaries; off: nothing",
        values.one_of("all", "summary", "off"),
        "all",
    ),
    Setting("log-format", "FORMAT", "text or json", values.one_of("text", "json"), "text"),
    Setting("version", "", "print the version and exit", places=Place.COMMAND_LINE),
    Setting("help", "", "print this help and exit", places=Place.COMMAND_LINE),
)
