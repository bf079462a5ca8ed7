"""Targets of probes, such as ``udp:[::1]:8088``. Pure: no name is looked up here."""

from __future__ import annotations

import os
import re
from ipaddress import AddressValueError, IPv6Address
from typing import Literal, NamedTuple

from greetsvc.address import DEFAULT_PORT, Address
from greetsvc.client.names import host_name

__all__ = ["DEFAULT_HOST", "Target", "Transport", "default_host", "format_address", "parse"]

Transport = Literal["tcp", "tls", "unix", "udp", "unixgram"]

DEFAULT_HOST = "127.0.0.1"

_TRANSPORTS: tuple[Transport, ...] = ("tcp", "udp", "tls", "unix", "unixgram")
_UNIX = ("unix", "unixgram")
_MAX_PATH = 103
"""Bytes of a path that ``sun_path`` holds on every platform, without the NUL at its end (macOS 103, Linux 107)."""

_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}")


class Target(NamedTuple):
    """One server to probe: a transport with a host and a port, or with the path of a UNIX socket.

    ``str`` gives the full spelling, which `parse` reads back.
    """

    transport: Transport
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def datagram(self) -> bool:
        """Whether requests are datagrams; otherwise a probe connects."""
        return self.transport in ("udp", "unixgram")

    @property
    def local(self) -> bool:
        """Whether it is a UNIX socket, which has neither host nor address family."""
        return self.transport in _UNIX

    def __str__(self) -> str:
        return f"{self.transport}:{self.path if self.local else _host_port(self.host, self.port)}"


def default_host(family: int | None) -> str:
    """The target where none is written."""
    return "::1" if family == 6 else DEFAULT_HOST


def format_address(address: Address) -> str:
    """An address as it is shown: ``192.0.2.1:8088``, ``[2001:db8::1]:8088``, or a path."""
    return _host_port(address.host, address.port) if address.port else address.host


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(text: str | Target) -> Target:
    """Read a target; TCP and port 8088 are the defaults. A `Target` is returned as it is.

    :raises ValueError: with one line that says what is wrong.
    """
    if isinstance(text, Target):
        return text
    if not isinstance(text, str):
        raise _wrong(text, "must be text such as 'udp:127.0.0.1:8088'")
    transport: Transport = next((name for name in _TRANSPORTS if text.startswith(f"{name}:")), "tcp")
    rest = text.removeprefix(f"{transport}:")
    if transport in _UNIX:
        return Target(transport, path=_path(text, rest))
    host, port = _split(text, rest)
    return Target(transport, host=host, port=_port(text, port))


def _wrong(text: str, why: str) -> ValueError:
    return ValueError(f"target {text!a}: {why}")


def _path(text: str, path: str) -> str:
    if not path:
        raise _wrong(text, "the path is missing")
    if "\0" in path:
        raise _wrong(text, "a path cannot contain NUL")
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise _wrong(text, "the path cannot be written in this locale's encoding") from None
    if size > _MAX_PATH:
        raise _wrong(text, f"the path has {size} bytes; the maximum is {_MAX_PATH}")
    return path


def _split(text: str, rest: str) -> tuple[str, str | None]:
    """The host, checked, and the port as written, or None where it is left out."""
    if bracketed := _BRACKETED.fullmatch(rest):
        host, port = bracketed.groups()
        if not _is_v6(host):
            raise _wrong(text, f"{host!a} is not an IPv6 address")
        return host, port
    if rest.count(":") > 1:
        if _is_v6(rest):
            return rest, None
        scheme = rest.partition(":")[0]
        raise _wrong(text, f"{scheme!a} is not a transport; use one of {' '.join(_TRANSPORTS)}")
    host, colon, port = rest.partition(":")
    return _name(text, host), port if colon else None


def _is_v6(host: str) -> bool:
    try:
        IPv6Address(host)
    except AddressValueError:
        return False
    # IPv6Address accepts any text as a zone; in a target it is an interface name or number (RFC 4007 11).
    zone = host.partition("%")[2]
    return not zone or re.fullmatch(r"[A-Za-z0-9._-]+", zone) is not None


def _name(text: str, host: str) -> str:
    """A host name in the form the resolver takes, or an IPv4 address."""
    if not host:
        raise _wrong(text, "the host is missing")
    try:
        name = host_name(host)
    except ValueError:
        raise _wrong(text, f"{host!a} is not a host name") from None
    if name.isdigit():
        if len(name) > 5 or not 1 <= int(name) <= 65535:
            raise _wrong(text, "a number is not a host, and this one is not a port from 1 to 65535")
        raise _wrong(text, f"a port alone is not a target; write {DEFAULT_HOST}:{name}")
    return name


def _port(text: str, port: str | None) -> int:
    if port is None:
        return DEFAULT_PORT
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise _wrong(text, f"port {port!a} is not a number from 1 to 65535")
    return int(port)
