"""The admin site within the daemon: it listens as other endpoints do, and outlives them while the service drains."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve

from greetsvc.admin.hosts import own_names
from greetsvc.admin.site import DEADLINE, MAX_CONNECTIONS, AdminFactory, Shown
from greetsvc.daemon.inherited import INHERITED
from greetsvc.daemon.listeners import Premises, Spot, StreamListening, TakenError, announce, taken
from greetsvc.daemon.settings.table import SETTINGS, Listener, Place, Settings
from greetsvc.errors import ConfigError
from greetsvc.ledger import Ledger
from greetsvc.net.bound import BoundSockets, BoundTo
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.server.admission import Admission
from greetsvc.server.sources import is_loopback

__all__ = ["AdminSite", "settings_shown"]

SEND_BUFFER = 64 * 1024
"""Bytes that the kernel keeps for a watcher that does not read; by itself it would keep megabytes."""

_KIND = "admin/"
"""How the kind of what its sockets are bound to begins outside."""


class AdminSite:
    """Serves what is ``shown`` where ``listener`` says. Call `bind` before a fork, and `begin` after it.

    ``premises`` are those of the service, of which the site uses the reactor and the settings: it has counters and
    limits of its own. ``listening`` is its listener.
    """

    def __init__(self, premises: Premises, listener: Listener, shown: Shown) -> None:
        settings, reactor = premises.settings, premises.reactor
        lingerers = Lingerers(reactor, silence=settings.linger, lifetime=DEADLINE, max_sockets=MAX_CONNECTIONS)
        # Its sockets have a kind of their own, so that one with port 0 is not mixed up with that of a listener.
        held = [
            (bound._replace(kind=bound.kind.removeprefix(_KIND)), sock)
            for bound, sock in premises.inherited.held
            if bound.kind.startswith(_KIND)
        ]
        self._factory = AdminFactory(shown, own_names(settings.admin_host), reactor)
        self._lingerers = lingerers
        own = evolve(
            premises,
            ledger=Ledger(),
            admission=Admission(),
            lingerers=lingerers,
            sockets=BoundSockets(held, clear=premises.clear),
        )
        self.listening = _Listening(own, listener, self._factory)
        self._taken = ""
        self._begun = False

    def bind(self, late: Callable[[ConfigError], object], others: Collection[Listener], *, check: bool) -> None:
        """See `StreamListening.bind`. With ``check`` a socket that another than ``others`` has bound is no error."""
        try:
            self.listening.bind(late)
        except TakenError as error:
            self._taken = taken(error, self.listening.listener, others, check=check)

    def begin(self) -> None:
        """Answer from now on, and log where."""
        if self._begun:
            return
        self._begun = True
        spots = self.spots()
        self._factory.private = bool(spots) and all(not spot.port or is_loopback(spot.host) for spot in spots)
        self.listening.begin(partial(announce, what="Admin site"))

    async def stop(self) -> None:
        """Listen no longer, and abort what is open."""
        await self.listening.stop()
        self.listening.abort()
        self._lingerers.stop()

    def leave(self) -> None:
        """Leave the socket, and its file, to a successor: what comes now is for that one."""
        self.listening.release()

    @property
    def bound(self) -> list[tuple[BoundTo, socket.socket]]:
        """Its socket, unless the service manager passed it."""
        bound = self.listening.premises.sockets.bound
        return [(each._replace(kind=f"{_KIND}{each.kind}"), sock) for each, sock in bound if each.kind != INHERITED]

    @property
    def path(self) -> str | None:
        """The file of its UNIX socket."""
        return self.listening.listener.endpoint.path

    def spots(self) -> list[Spot]:
        """Where it can be reached."""
        return self.listening.spots()

    def describe(self) -> str:
        """One line with where it is."""
        return self._taken or f"{', '.join(map(str, self.spots()))} is the admin site"


class _Listening(StreamListening):
    """A listener with another factory than that of greetings."""

    def __init__(self, premises: Premises, listener: Listener, factory: AdminFactory) -> None:
        super().__init__(premises, listener)
        self.factory: Any = factory

    def bind(self, late: Callable[[ConfigError], object]) -> None:
        """As inherited. The sockets that are accepted inherit the size of the buffer."""
        super().bind(late)
        for port in self._facade.ports:
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def release(self) -> None:
        """Accept no more, and leave the queue and the file as they are."""
        for port in self._facade.ports:
            port.release()


def settings_shown(settings: Settings) -> Mapping[str, str]:
    """Each setting with its value as text, and the default in words where it has none."""
    shown = {
        one.name: _text(getattr(settings, one.attribute)) or one.shown_default
        for one in SETTINGS
        if Place.FILE in one.places and hasattr(settings, one.attribute)
    }
    return {**shown, "greeter": settings.greeter_option}


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    if isinstance(value, Listener):
        return value.endpoint.text
    return "" if value is None else str(value)
