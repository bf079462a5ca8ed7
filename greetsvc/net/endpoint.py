r"""Parses endpoint strings, and finds what is wrong in one before anything is bound.

The grammar is Twisted's: ``KIND:argument:key=value``, with a backslash before a colon that belongs to a value. The
kinds are Twisted's too, except ``udp:``, ``unixgram:`` and ``inherited:``, and ``proxy:`` in front of a stream
endpoint, which are ours. They must be in lower case: Twisted takes ``TLS:`` for its own ``tls:``, which knows nothing
of our settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve, field, frozen

from greetsvc.printable import escaped

__all__ = [
    "DEFAULT_MODE",
    "Endpoint",
    "check_kind",
    "parse_endpoint",
    "port_number",
    "split_endpoint",
    "split_options",
]

DEFAULT_MODE = 0o666
"""The permissions of a UNIX socket without ``mode``: everybody may connect, as in Twisted."""

_PROXY = ("proxy:", "haproxy:")
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "tls": ("path", "port", "backlog", "interface", "inherited"),
    "ssl": (
        *("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
        *("extraCertChain", "dhParameters"),
    ),
    "udp": ("port", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "unixgram": ("address", "mode"),
    "inherited": ("socket",),
    "systemd": ("domain", "index", "name"),
}
"""The options of each kind, in the order of positional arguments."""

_NOT_SUPPORTED = ("sslmethod", "dhParameters")
"""Options of Twisted's ``ssl:`` that weaken TLS: they are refused, but keep their position."""

_KINDS = (*_OPTIONS, "stdio", *(prefix.rstrip(":") for prefix in _PROXY))
_DOMAINS = {"INET": "tcp", "INET6": "tcp", "UNIX": "unix"}
"""The domains of sockets that a service manager passes, and the transport of each."""

_COLONS = r"; a colon inside a value is written \:"
_TRANSPORTS = {"tcp6": "tcp", "ssl": "tls"}
_DEFAULT_HOSTS = {"tcp6": "::", "tls": "::"}
_DEFAULT_PORTS = {"tls": "443"}


@frozen
class Endpoint:
    """A parsed endpoint string.

    ``transport`` is ``tcp``, ``tls``, ``unix``, ``udp``, ``unixgram``, or the name of a kind from a plugin. ``host``
    is empty for every IPv4 address; it and ``port`` are None where the string does not contain them. ``text`` is the
    string without ``proxy:``, and ``proxied`` is true instead. ``options`` has all arguments by name.

    ``inherited`` is the index or the name of a socket that a service manager passes. The ``transport`` is
    ``inherited`` as long as nobody has looked at the socket.
    """

    text: str
    kind: str
    transport: str
    host: str | None = None
    port: int | None = None
    path: str | None = None
    mode: int = DEFAULT_MODE
    backlog: int | None = None
    proxied: bool = False
    inherited: int | str | None = None
    options: Mapping[str, str] = field(factory=dict)

    def __str__(self) -> str:
        return f"{'proxy:' * self.proxied}{self.text}"

    @property
    def is_datagram(self) -> bool:
        """Whether this endpoint receives datagrams, not connections."""
        return self.transport in {"udp", "unixgram"}

    @property
    def ipv4_port(self) -> int | None:
        """The IPv4 port that is bound. An IPv6 wildcard on the same port must not take IPv4 as well."""
        return self.port if self.port and self.host is not None and ":" not in self.host else None

    def overlaps(self, other: Endpoint) -> bool:
        """Whether the two cannot be bound at the same time, as far as the strings tell."""
        if self.path is not None:
            return self.path == other.path  # one file, whatever the kind of socket
        if self.is_datagram != other.is_datagram or not self.port:
            return False
        if (self.port, self.path) != (other.port, other.path):
            return False
        hosts = {self.host or "0.0.0.0", other.host or "0.0.0.0"}
        one_family = len({":" in host for host in hosts}) == 1
        return len(hosts) == 1 or (one_family and not hosts.isdisjoint({"0.0.0.0", "::"}))


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that a string describes. Raises `ValueError` with one line that says what is wrong."""
    for prefix in _PROXY:
        if text.startswith(prefix):
            text = text.removeprefix(prefix)
            inner = None if text.startswith(_PROXY) else parse_endpoint(text)
            if inner is None or inner.is_datagram:
                raise ValueError(f"proxy: must be followed by a stream endpoint, not by {text!r}")
            return evolve(inner, proxied=True)
    (kind, *arguments), options = split_endpoint(text)
    if kind not in _KINDS and kind.lower() in _KINDS:
        raise ValueError(f"the kind must be written {kind.lower()!r}, not {kind!r}")
    if kind == "stdio":
        raise ValueError("stdio: has no peers to greet; listen on a socket")
    if kind in _OPTIONS:
        options = _named(kind, arguments, options)
        return _PARSERS.get(kind, _ip)(text, kind, options)
    if not kind.isidentifier():
        raise ValueError(f"an endpoint must be KIND:ARGUMENTS, as in tcp:8088 or udp:8088, not {text!r}")
    return Endpoint(text, kind, kind)


def check_kind(endpoint: Endpoint) -> None:
    """Raise `ValueError` if neither we nor a plugin of Twisted knows this kind. Reads the plugins."""
    if endpoint.kind in _OPTIONS:
        return
    from twisted.internet.interfaces import IStreamServerEndpointStringParser
    from twisted.plugin import getPlugins

    # Twisted takes the kinds of plugins in any case.
    known = {plugin.prefix.lower() for plugin in getPlugins(IStreamServerEndpointStringParser)}
    if endpoint.kind.lower() not in known:
        raise ValueError(
            f"there is no endpoint kind {endpoint.kind!r}; known are {', '.join(sorted({*_KINDS, *known}))}"
        )


def split_endpoint(text: str) -> tuple[list[str], dict[str, str]]:
    """The kind and the arguments, and the ``key=value`` options.

    Raises `ValueError` for a backslash at the end, and for an option that is given twice.
    """
    parts = split_options(text)
    arguments = [part[0] for part in parts if len(part) == 1]
    options: dict[str, str] = {}
    for name, value in (part for part in parts if len(part) == 2):
        if name in options:
            raise _twice(arguments[0] if arguments else "", name, options[name], value)
        options[name] = value
    return arguments or [""], options


def split_options(text: str) -> list[list[str]]:
    r"""What stands between the colons, each as a word, or as a name and the value behind its ``=``.

    A character behind a backslash stands for itself, as in Twisted's endpoints: ``\:`` is no separator. Raises
    `ValueError` for a backslash at the end.
    """
    parts = [[""]]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise ValueError("there is no character after the backslash at the end")
            parts[-1][-1] += escaped
        elif character == ":":
            parts.append([""])
        elif character == "=" and len(parts[-1]) == 1:
            parts[-1].append("")
        else:
            parts[-1][-1] += character
    return parts


def _twice(kind: str, name: str, first: str, second: str) -> ValueError:
    return ValueError(f"{escaped(kind)}: {escaped(name)} is given twice, {first!r} and {second!r}{_COLONS}")


def port_number(text: str) -> int:
    """A port from 0 (any free one) to 65535. Raises `ValueError`."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"the port must be a number from 0 to 65535, not {text!r}")
    return int(text)


def _named(kind: str, arguments: Sequence[str], options: Mapping[str, str]) -> dict[str, str]:
    """All arguments by name, the positional ones too."""
    names = _OPTIONS[kind]
    allowed = ", ".join(name for name in names if name not in _NOT_SUPPORTED)
    if len(arguments) > len(names):
        raise ValueError(f"{kind}: too many arguments: {arguments[len(names)]!r}; allowed are {allowed}{_COLONS}")
    named = dict(zip(names, arguments, strict=False))
    for name in filter(options.__contains__, named):
        raise _twice(kind, name, named[name], options[name])
    named.update(options)
    for name, value in named.items():
        if name in _NOT_SUPPORTED:
            always = "it is always TLS 1.2 or later with elliptic curves"
            raise ValueError(f"{kind}: {name} cannot be chosen: {value!r}; {always}")
        if name not in names:
            raise ValueError(f"{kind}: unknown option {name!r}; allowed are {allowed}")
    return named


def _ip(text: str, kind: str, options: Mapping[str, str]) -> Endpoint:
    if kind == "tls" and not options.get("path"):
        raise ValueError("tls: needs the folder of its certificates, as in tls:DIR:port=8443")
    if "inherited" in options:
        for name in {"port", "interface", "backlog"} & options.keys():
            raise ValueError(
                f"{kind}: {name} {options[name]!r} belongs to the inherited socket, and cannot be chosen"
            )
        return Endpoint(text, kind, "tls", inherited=_which(kind, options["inherited"]), options=options)
    return Endpoint(
        text,
        kind,
        _TRANSPORTS.get(kind, kind),
        host=options.get("interface", _DEFAULT_HOSTS.get(kind, "")),
        port=port_number(options.get("port", _DEFAULT_PORTS.get(kind, ""))),
        backlog=_backlog(options),
        options=options,
    )


def _unix(text: str, kind: str, options: Mapping[str, str]) -> Endpoint:
    path = options.get("address", "")
    if not path:
        raise ValueError(f"{kind}: needs a path, as in {kind}:/run/greet.sock")
    if "\0" in path:
        raise ValueError(f"{kind}: the path {path!r} contains a NUL character")
    mode = options.get("mode", f"{DEFAULT_MODE:o}")
    if not re.fullmatch(r"[0-7]{1,4}", mode) or int(mode, 8) > 0o777:
        raise ValueError(f"the mode must be permissions in octal, as 660, not {mode!r}")
    if options.get("lockfile", "1") not in {"0", "1"}:
        # Accepted as in Twisted, and not used: a stale socket is recognized without a lock file.
        raise ValueError(f"the lockfile must be 0 or 1, not {options['lockfile']!r}")
    path = str(Path(path).absolute())
    return Endpoint(text, kind, kind, path=path, mode=int(mode, 8), backlog=_backlog(options), options=options)


def _systemd(text: str, kind: str, options: Mapping[str, str]) -> Endpoint:
    domain, index = options.get("domain", ""), options.get("index")
    if domain not in _DOMAINS:
        raise ValueError(f"{kind}: the domain must be one of {', '.join(_DOMAINS)}, not {domain!r}")
    if (index is None) == ("name" not in options):
        raise ValueError(f"{kind}: needs either index or name, as in {kind}:domain={domain}:index=0, not {text!r}")
    if index is not None and not re.fullmatch("[0-9]{1,4}", index):
        raise ValueError(f"{kind}: the index must be a whole number from 0, not {index!r}")
    inherited = int(index) if index is not None else options["name"]
    return Endpoint(text, kind, _DOMAINS[domain], inherited=inherited, options=options)


def _inherited(text: str, kind: str, options: Mapping[str, str]) -> Endpoint:
    return Endpoint(text, kind, kind, inherited=_which(kind, options.get("socket", "")), options=options)


def _which(kind: str, text: str) -> int | str:
    """The index of an inherited socket, or its name."""
    if not text:
        raise ValueError(f"{kind}: needs the name or the index of the socket, as in inherited:web or inherited:0")
    return int(text) if re.fullmatch("[0-9]{1,4}", text) else text


def _backlog(options: Mapping[str, str]) -> int | None:
    text = options.get("backlog")
    if text is not None and (not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1):
        raise ValueError(f"the backlog must be a whole number above 0, not {text!r}")
    return None if text is None else int(text)


_PARSERS = {"unix": _unix, "unixgram": _unix, "inherited": _inherited, "systemd": _systemd}
