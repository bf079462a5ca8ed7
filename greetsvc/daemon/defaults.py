"""What a service does where the settings leave that to it: the limits of connections, and the listeners."""

from __future__ import annotations

from attrs import frozen

from greetsvc.daemon.memory import PER_CONNECTION, SHARE_OF_MEMORY, memory_limit
from greetsvc.daemon.settings import ONCE, PER_SOURCE, SHARE_OF_FILES, Listener, Settings, serves
from greetsvc.net.descriptors import raise_limit
from greetsvc.net.endpoint import parse_endpoint
from greetsvc.net.sockets import ipv6_works

__all__ = ["Limits", "limits_of", "listeners_of"]

_ENDPOINTS: tuple[str, ...] = ("tcp:8088", "udp:8088")
_IPV6_ENDPOINTS = (r"tcp:8088:interface=\:\:", r"udp:8088:interface=\:\:")


@frozen
class Limits:
    """Limits of open connections, as `greetsvc.server.admission.Admission` takes them."""

    max_connections: int
    max_per_source: int
    exempt_loopback: bool


def limits_of(settings: Settings) -> tuple[Limits, list[str]]:
    """The limits, and what an operator should know about them."""
    notes: list[str] = []
    most = settings.max_connections
    if most is None:
        most = int(raise_limit() * SHARE_OF_FILES)
        memory = memory_limit()
        by_memory = max(1, int(memory * SHARE_OF_MEMORY) // PER_CONNECTION)
        if by_memory < most:
            most = by_memory
            notes.append(f"At most {by_memory} connections may be open: {memory >> 20} MiB of memory allow no more")
    return Limits(most, settings.max_per_source or PER_SOURCE, settings.max_per_source is None), notes


def listeners_of(settings: Settings) -> tuple[tuple[Listener, ...], list[str]]:
    """The listeners, the default ones where the settings have none, and what an operator should know about them."""
    if settings.listeners:
        return settings.listeners, []
    six = ipv6_works()
    texts = (*_ENDPOINTS, *(_IPV6_ENDPOINTS if six else ()))
    listeners = tuple(_listener(settings, text) for text in texts)
    return listeners, [] if six else ["IPv6 does not work on this machine: only IPv4 is served"]


def _listener(settings: Settings, text: str) -> Listener:
    """A listener with the greeter and the protocol for all; `ONCE` where that protocol cannot serve it."""
    endpoint = parse_endpoint(text)
    plugin, option = settings.plugin, settings.protocol_option
    if not serves(plugin, endpoint):
        plugin, option = ONCE, "once"
    where = f"the default {text}"
    return Listener(endpoint, settings.greeter, settings.greeter_option, where, plugin, option, settings.encoding)
