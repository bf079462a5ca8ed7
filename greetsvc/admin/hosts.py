"""Which ``Host`` headers are answered.

A page of a stranger can make a browser look up the stranger's name as an address of ours (DNS rebinding), and then
read what we answer. Such a request carries the stranger's name. One that carries an address does not: the browser
then knows the two as different sites.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from ipaddress import ip_address

__all__ = ["host_name", "is_expected", "own_names"]

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@\s]+))(?::[0-9]{1,5})?", re.ASCII)


def own_names(others: Collection[str] = ()) -> frozenset[str]:
    """The names of this machine that need no look-up, and ``others``."""
    return frozenset({"localhost", socket.gethostname().lower(), *(name.lower() for name in others)})


def host_name(header: str) -> str | None:
    """The name or the address in a ``Host`` header, in lower case and without the port; None where it has neither."""
    found = _HOST.fullmatch(header.lower())
    return (found[1] or found[2].removesuffix(".")) if found is not None else None


def is_expected(header: str, names: Collection[str]) -> bool:
    """Whether a ``Host`` header carries an address or one of ``names``."""
    name = host_name(header)
    if name is None:
        return False
    try:
        ip_address(name)
    except ValueError:
        return name in names
    return True
