"""The certificates of a TLS listener, which a reload has read in a thread: many take seconds."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from greetsvc.daemon.settings.start_checks import certificate_warnings
from greetsvc.net.endpoint import Endpoint

if TYPE_CHECKING:
    from greetsvc.net.tls.contexts import ReloadingContexts

__all__ = ["Certificates", "read_ahead"]


class Certificates(NamedTuple):
    """What a TLS endpoint shows, and in ``warnings`` what is wrong with it all the same."""

    contexts: ReloadingContexts
    warnings: list[str]

    @classmethod
    def read(cls, reactor: Any, endpoint: Endpoint, client_ca: str | None) -> Certificates:
        """Read the files. Raises `OSError` or `ValueError` with one line that says what is wrong."""
        from greetsvc.net.tls.endpoint import tls_contexts  # few services need it

        contexts = tls_contexts(reactor, endpoint, client_ca=client_ca)
        return cls(contexts, list(certificate_warnings(endpoint, client_ca)))


def read_ahead(reactor: Any, endpoints: Iterable[Endpoint], client_ca: str | None) -> dict[str, Certificates]:
    """The certificates of these endpoints, by their text, as far as they can be used. May run in a thread."""
    found = {}
    for endpoint in endpoints:
        with suppress(OSError, ValueError):  # who reads them again tells why
            found[endpoint.text] = Certificates.read(reactor, endpoint, client_ca)
    return found
