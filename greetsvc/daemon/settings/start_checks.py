"""What is wrong with good settings, so that it is told at the start and by ``--check``: one line each."""

from __future__ import annotations

import time
from collections.abc import Collection, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from attrs import evolve, fields

from greetsvc.address import DEFAULT_PORT
from greetsvc.daemon.settings.table import Listener, Settings, shown
from greetsvc.errors import ConfigError, reason_of
from greetsvc.net.descriptors import remaining
from greetsvc.net.endpoint import Endpoint
from greetsvc.printable import escaped
from greetsvc.visit import Address, PathFacts, Visit

__all__ = [
    "GreeterRaised",
    "Sample",
    "certificate_warnings",
    "descriptor_warnings",
    "sample_greeting",
    "without_effect",
]

_MOST = 5
"""Certificates of one endpoint that are named; the others are counted."""


class GreeterRaised(Exception):
    """A greeter raised for a made-up visit. A real one may have what that lacks, so this is only a warning."""


class Sample(NamedTuple):
    """What a greeter says for a made-up visit, and what is wrong with that all the same, in words."""

    greeting: bytes
    warning: str


def sample_greeting(listener: Listener) -> Sample:
    """What the greeter says for a made-up visit.

    Raises `ConfigError` if that is no bytes, as it could never greet, and `GreeterRaised` if it raises.
    """
    # The addresses are for documentation (RFC 5737).
    here, there = Address("192.0.2.1", DEFAULT_PORT), Address("192.0.2.2", 49152)
    transport = listener.endpoint.transport
    visit = Visit(transport, there, here, number=1, when=time.time(), size=1, name="", path=PathFacts())
    if transport == "tls":
        from greetsvc.net.tls.endpoint import TlsFacts  # only TLS needs OpenSSL

        visit = evolve(visit, tls=TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", "localhost", None, None))
    reads: set[str] = set()
    try:
        greeting = listener.greeter.greet(_watched(visit, reads))
    except (Exception, SystemExit) as error:
        raise GreeterRaised(
            f"{listener.where}: the greeter failed for a made-up visit: {reason_of(error)}"
        ) from error
    if not isinstance(greeting, bytes):
        if isinstance(greeting, Coroutine):
            greeting.close()  # else Python warns that it was never awaited
        raise ConfigError(
            f"{listener.where}: the greeter {listener.greeter_option!r} returned {shown(greeting)}, not bytes"
        )
    warning, hidden = "", _hidden(reads, listener.greeter.needs)
    if hidden:
        read = ", ".join(hidden)
        warning = (
            f"{listener.where}: the greeter {listener.greeter_option!r} reads {read}, which its needs do not name"
        )
    return Sample(greeting, warning)


def without_effect(settings: Settings, listeners: Collection[Listener]) -> Iterator[str]:
    """A warning for each setting that does nothing with these listeners, among them that of the admin site."""
    if settings.client_ca is not None and not any(one.endpoint.transport == "tls" for one in listeners):
        yield "client-ca has no effect: there is no TLS listener, and the others ask for no certificate"
    if settings.admin_host and settings.admin is None:
        yield "admin-host has no effect: there is no admin site (--admin)"


def _watched(visit: Visit, reads: set[str]) -> Visit:
    """The same visit; the fields that are read of it are added to ``reads``."""

    class Watched(Visit):
        def __getattribute__(self, name: str) -> Any:
            reads.add(name)
            return super().__getattribute__(name)

    made = Watched(**{field.name: getattr(visit, field.name) for field in fields(Visit)})
    reads.clear()
    return made


def _hidden(reads: Collection[str], needs: Collection[str]) -> list[str]:
    """Which fields that were read hold defaults, as the greeter does not name them."""
    known = {"transport", *needs, *(["peer"] if needs else [])}
    return [field.name for field in fields(Visit) if field.name in reads and field.name not in known]


def descriptor_warnings(max_connections: int | None) -> Iterator[str]:
    """Tell if there are too few file descriptors for ``max_connections``. Call this before anything is bound."""
    left = remaining()
    if max_connections is not None and max_connections > left:
        yield f"max-connections: {max_connections} is more than the {left:.0f} files that may still be opened"


def certificate_warnings(endpoint: Endpoint, client_ca: str | None) -> Iterator[str]:
    """Tell which certificates of a TLS endpoint have expired, or are not valid yet."""
    options, found = endpoint.options, []
    if endpoint.kind == "tls":
        paths = sorted(Path(options["path"]).glob("*.pem"))
    else:
        key = options.get("privateKey", "server.pem")
        paths = [Path(name) for name in (options.get("certKey", key), options.get("extraCertChain")) if name]
    for path in (*paths, *([Path(client_ca)] if client_ca else ())):
        found += [f"{path}: {fault}" for fault in _faults(path, datetime.now(UTC))]
    yield from found[:_MOST]
    if found[_MOST:]:
        yield f"{endpoint.text}: {len(found[_MOST:])} more certificates have expired or are not valid yet"


def _faults(path: Path, now: datetime) -> Iterator[str]:
    """What the dates of the certificates in a file make useless. The listener tells if it cannot be read."""
    from greetsvc.net.tls.pem import read_certificates  # only TLS needs cryptography

    with suppress(OSError, ValueError):
        for certificate in read_certificates(path):
            name = escaped(certificate.subject.rfc4514_string())
            if certificate.not_valid_after_utc < now:
                yield f"the certificate of {name} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            elif certificate.not_valid_before_utc > now:
                yield f"the certificate of {name} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
