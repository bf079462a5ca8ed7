"""What a service does where the settings leave that to it: the limits of connections, and the listeners."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from attrs import evolve

from greetsvc.address import DEFAULT_PORT
from greetsvc.daemon.inherited import Inherited
from greetsvc.daemon.settings.memory import PER_CONNECTION, PER_TALKING, SHARE_OF_MEMORY, memory_limit
from greetsvc.daemon.settings.table import (
    DEFAULT_PROTOCOL,
    ONCE,
    PER_SOURCE,
    SHARE_OF_FILES,
    Listener,
    Settings,
    serves,
)
from greetsvc.errors import ConfigError
from greetsvc.net.descriptors import raise_limit
from greetsvc.net.endpoint import parse_endpoint
from greetsvc.net.sockets import ipv6_works

__all__ = ["AdmissionLimits", "admin_listener", "limits_of", "listeners_of"]

_ENDPOINTS = (f"tcp:{DEFAULT_PORT}", f"udp:{DEFAULT_PORT}")
_IPV6_ENDPOINTS = tuple(rf"{endpoint}:interface=\:\:" for endpoint in _ENDPOINTS)


class AdmissionLimits(NamedTuple):
    """Limits of open connections, as `greetsvc.server.admission.Admission` takes them."""

    max_connections: int
    max_per_source: int
    exempt_loopback: bool


def limits_of(settings: Settings, workers: int = 1) -> tuple[AdmissionLimits, list[str]]:
    """The limits of one of so many workers, and what an operator should know about them.

    Each worker has an equal part of what holds for all together; the file limit is that of a process.
    """
    notes: list[str] = []
    if settings.max_connections is not None:
        most = max(1, settings.max_connections // workers)
    else:
        most = int(raise_limit() * SHARE_OF_FILES)
        memory = memory_limit()
        plugins = [settings.plugin, *(listener.plugin for listener in settings.listeners)]
        talks = any(plugin is not ONCE for plugin in plugins)
        by_memory = max(1, int(memory * SHARE_OF_MEMORY) // (PER_TALKING if talks else PER_CONNECTION) // workers)
        if by_memory < most:
            most = by_memory
            notes.append(f"At most {by_memory} connections may be open: {memory >> 20} MiB of memory allow no more")
    per_source = max(1, (settings.max_per_source or PER_SOURCE) // workers)
    return AdmissionLimits(most, per_source, settings.max_per_source is None), notes


def listeners_of(settings: Settings, inherited: Inherited) -> tuple[tuple[Listener, ...], list[str]]:
    """The listeners, and what an operator should know about them.

    Where the settings have none, these are the sockets that a service manager passed, or else the default ones.
    Raises `ConfigError` for a passed socket that cannot be used.
    """
    if settings.listeners:
        return _servable(inherited.resolve(settings.listeners)), []
    six = ipv6_works()
    admin = settings.admin.endpoint.inherited if settings.admin is not None else None
    texts = [f"inherited:{index}" for index, one in enumerate(inherited.passed) if admin not in {index, one.name}]
    texts = texts or [*_ENDPOINTS, *(_IPV6_ENDPOINTS if six else ())]
    listeners = tuple(_default(settings, text) for text in texts)
    return _servable(inherited.resolve(listeners)), [] if six or inherited.passed else [
        "IPv6 does not work on this machine: only IPv4 is served"
    ]


def admin_listener(settings: Settings, inherited: Inherited, others: Sequence[Listener]) -> list[Listener]:
    """The listener of the admin site beside these ``others``; none if there is no site.

    Raises `ConfigError` for a passed socket that cannot be used.
    """
    if settings.admin is None:
        return []
    found = inherited.resolve([*others, settings.admin])[len(others) :]
    if len(found) > 1 or found[0].endpoint.is_datagram:
        raise ConfigError(f"{settings.admin.where}: must be one stream socket")
    return [*found]


def _default(settings: Settings, text: str) -> Listener:
    return Listener(
        parse_endpoint(text),
        settings.greeter,
        settings.greeter_option,
        f"the default {text}",
        settings.plugin,
        settings.protocol_option,
        settings.encoding,
    )


def _servable(listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """The listeners, with the default protocol where the one for all serves no sockets of this type."""
    return tuple(
        one if serves(one.plugin, one.endpoint) else evolve(one, plugin=ONCE, protocol_option=DEFAULT_PROTOCOL)
        for one in listeners
    )
