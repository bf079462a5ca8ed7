"""The address of one end. Importing this needs no library: a health check does."""

from __future__ import annotations

import os
from typing import NamedTuple

from greetsvc.printable import escaped

__all__ = ["DEFAULT_PORT", "NOBODY", "Address"]

DEFAULT_PORT = 8088
"""Where the service listens and the client asks, unless they are told otherwise."""

_MAPPED = "::ffff:"


class Address(NamedTuple):
    """The address of one end: a host and a port, or the path of a UNIX socket and port 0.

    An IPv4 address mapped into IPv6 (``::ffff:192.0.2.1``, RFC 4291 2.5.5.2) is written as IPv4.
    """

    host: str
    port: int

    @classmethod
    def plain(cls, host: str, port: int = 0) -> Address:
        """The address as it is shown, and as limits see it: IPv4 that is mapped into IPv6 is IPv4."""
        return cls(host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host, port)

    @classmethod
    def of_path(cls, name: str | bytes | None) -> Address:
        """The address of a UNIX socket with this name; None or empty where it has none.

        A name in Linux's abstract namespace begins with a NUL byte, shown as ``@`` (unix(7)). Peers choose their
        names, and names go to logs and terminals: what is not printable is escaped.
        """
        text = os.fsencode(name or b"").decode("utf-8", "backslashreplace").replace("\0", "@")
        return cls(escaped(text), 0)


NOBODY = Address("", 0)
"""Where an address is not known, or was not asked for."""
