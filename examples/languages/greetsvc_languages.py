"""A greeter for greetsvc: greets each visitor in the language of their network, from a table in a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from greetsvc.greeters import Visit

__all__ = ["LanguageGreeter"]


class LanguageGreeter:
    """Greets in the language of the smallest network that the visitor is in, or else in ``default``.

    ``greetings`` has a template for each language, in which ``{host}`` stands for the visitor's address. ``networks``
    has a language for each network. Raises `ValueError` with one line when they do not fit together.
    """

    # What greet() reads of a visit. Without it the first greeting would be kept for all visits.
    needs = frozenset({"peer"})

    def __init__(
        self, greetings: Mapping[str, str], networks: Mapping[str, str], default: str, encoding: str = "utf-8"
    ) -> None:
        for language in (default, *networks.values()):
            if language not in greetings:
                raise ValueError(f"there is no greeting in {language!r}, only in {', '.join(sorted(greetings))}")
        for language, template in greetings.items():
            try:
                template.format(host="")
            except (LookupError, ValueError) as error:
                raise ValueError(f"the greeting in {language!r} may have {{host}} only, not {error}") from error
        by_size = sorted(((ip_network(one), networks[one]) for one in networks), key=_size, reverse=True)
        self._networks: list[tuple[IPv4Network | IPv6Network, str]] = by_size
        self._greetings = greetings
        self._default = default
        self._encoding = encoding

    @classmethod
    def from_argument(cls, argument: str, encoding: str) -> LanguageGreeter:
        """The language of the visitor's network, from the table FILE (TOML)."""
        with Path(argument or "languages.toml").open("rb") as file:
            table = tomllib.load(file)
        try:
            return cls(table["greetings"], table.get("networks", {}), table["default"], encoding)
        except KeyError as error:
            raise ValueError(f"{argument}: {error} is missing") from error

    def language(self, host: str) -> str:
        """The language of a visitor. Who comes over a UNIX socket has no address."""
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return self._default
        return next((language for network, language in self._networks if address in network), self._default)

    def greet(self, visit: Visit) -> bytes:
        """The greeting. It runs in the reactor's thread, so it only looks up what was read before."""
        template = self._greetings[self.language(visit.peer.host)]
        return f"{template.format(host=visit.peer.host)}\r\n".encode(self._encoding, "replace")


def _size(row: tuple[IPv4Network | IPv6Network, str]) -> int:
    return row[0].prefixlen
