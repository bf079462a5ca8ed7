"""Reads endpoint strings: which socket, of which kind, and what is wrong with the string before anything is bound.

The grammar is Twisted's (``KIND:argument:key=value``, a backslash before a colon that is meant), and so are all kinds
except ``udp:`` and ``unixgram:``, and ``proxy:`` in front of another stream endpoint, which are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve, field, frozen

__all__ = ["DEFAULT_MODE", "Endpoint", "parse_endpoint", "port_number", "split_endpoint"]

DEFAULT_MODE = 0o666
"""The permissions of a UNIX socket's file when none are asked for: everybody may connect, as in Twisted."""

_PROXY = ("proxy:", "haproxy:")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "tls": ("path", "port", "backlog", "interface"),
    "ssl": (
        *("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
        *("extraCertChain", "dhParameters"),
    ),
    "udp": ("port", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "unixgram": ("address", "mode"),
}
"""What each kind takes, in the order of positions."""

_COLONS = r"; a colon that belongs to a value is written \:"
_TRANSPORTS = {"tcp6": "tcp", "ssl": "tls"}
_DEFAULT_HOSTS = {"tcp6": "::", "tls": "::"}
_DEFAULT_PORTS = {"tls": "443"}


@frozen
class Endpoint:
    """A parsed endpoint string.

    ``transport`` is ``tcp``, ``tls``, ``unix``, ``udp``, ``unixgram``, or another kind's own name. ``host`` is empty
    for every IPv4 address; it and ``port`` are None where the string does not tell. ``text`` is the string without
    ``proxy:``, which ``proxied`` stands for. ``options`` are all arguments by their names.
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
    options: Mapping[str, str] = field(factory=dict)

    @property
    def is_datagram(self) -> bool:
        """Whether datagrams are served, not connections."""
        return self.transport in {"udp", "unixgram"}

    @property
    def ipv4_port(self) -> int | None:
        """The IPv4 port that is bound; an IPv6 wildcard on the same port has to leave IPv4 alone."""
        return self.port if self.port and self.host is not None and ":" not in self.host else None


def parse_endpoint(text: str) -> Endpoint:
    """What an endpoint string asks for. Raises `ValueError` with one line that says what is wrong."""
    for prefix in _PROXY:
        if text.startswith(prefix):
            return _proxied(text.removeprefix(prefix))
    (kind, *arguments), options = split_endpoint(text)
    if kind == "stdio":
        raise ValueError("stdio has no peers to greet")
    if kind in _NAMES:
        options = _named(kind, arguments, options)
        return (_unix if "address" in _NAMES[kind] else _ip)(text, kind, options)
    if not kind.isidentifier():
        raise ValueError(f"an endpoint is KIND:ARGUMENTS, as in tcp:8088 or udp:8088, not {text!r}")
    return Endpoint(text, kind, kind)


def split_endpoint(text: str) -> tuple[list[str], dict[str, str]]:
    """The kind and the arguments, and the ``key=value`` options. Raises `ValueError` for a lone backslash."""
    parts = [[""]]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise ValueError("a backslash at the end escapes nothing")
            parts[-1][-1] += escaped
        elif character == ":":
            parts.append([""])
        elif character == "=" and len(parts[-1]) == 1:
            parts[-1].append("")
        else:
            parts[-1][-1] += character
    arguments = [part[0] for part in parts if len(part) == 1]
    return arguments or [""], {part[0]: part[1] for part in parts if len(part) == 2}


def port_number(text: str) -> int:
    """A port from 0 (any that is free) to 65535. Raises `ValueError` that says what it is not."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"the port must be a number from 0 to 65535, not {text!r}")
    return int(text)


def _proxied(text: str) -> Endpoint:
    inner = parse_endpoint(text)
    if inner.is_datagram or inner.proxied:
        raise ValueError(f"proxy: goes in front of a stream endpoint, not of {text!r}")
    return evolve(inner, proxied=True)


def _named(kind: str, arguments: Sequence[str], options: Mapping[str, str]) -> dict[str, str]:
    """All arguments by name, the positional ones too."""
    names = _NAMES[kind]
    if len(arguments) > len(names):
        raise ValueError(f"{kind}: takes {', '.join(names)}, and not {arguments[len(names)]!r} besides{_COLONS}")
    for name in options:
        if name not in names:
            raise ValueError(f"{kind}: takes {', '.join(names)}, and not {name!r}")
    named = dict(zip(names, arguments, strict=False))
    for name, value in named.items():
        if name in options:
            raise ValueError(f"{kind}: is given {name} twice, {value!r} and {options[name]!r}{_COLONS}")
    return {**named, **options}


def _ip(text: str, kind: str, options: Mapping[str, str]) -> Endpoint:
    if kind == "tls" and not options.get("path"):
        raise ValueError("tls: needs the folder of its certificates, as in tls:DIR:port=8443")
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
        raise ValueError(f"{kind}: the path {path!r} holds a NUL character")
    mode = options.get("mode", f"{DEFAULT_MODE:o}")
    if not re.fullmatch(r"[0-7]{1,4}", mode) or int(mode, 8) > 0o777:
        raise ValueError(f"the mode must be permissions in octal, as 660, not {mode!r}")
    if options.get("lockfile", "1") not in {"0", "1"}:
        # Taken as Twisted takes it, though a stale socket is told from a live one without a lock file.
        raise ValueError(f"the lockfile must be 0 or 1, not {options['lockfile']!r}")
    return Endpoint(
        text,
        kind,
        kind,
        path=str(Path(path).absolute()),
        mode=int(mode, 8),
        backlog=_backlog(options),
        options=options,
    )


def _backlog(options: Mapping[str, str]) -> int | None:
    text = options.get("backlog")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise ValueError(f"the backlog must be a whole number above 0, not {text!r}")
    return int(text)
