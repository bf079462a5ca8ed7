"""The types of settings: which values each takes, from a command line or from TOML, and the error for another."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from attrs import frozen

from greetsvc.errors import ConfigError
from greetsvc.greeters.registry import text_encoding
from greetsvc.net.endpoint import Endpoint, parse_endpoint

__all__ = [
    "AUTHORITIES",
    "ENCODING",
    "ENDPOINT",
    "NETWORKS",
    "TEXT",
    "Network",
    "Type",
    "one_of",
    "seconds",
    "shown",
    "whole",
]

Network = IPv4Network | IPv6Network

_DAY = 86400.0
_LONGEST_NUMBER = 300
_LONGEST_SHOWN = 300


@frozen
class Type:
    """The values that a setting takes.

    ``read`` checks a value as TOML gives it and returns what `Settings` holds. It raises `ConfigError`, `ValueError`
    or `OSError`. ``literal`` turns the text of a command line into what TOML would give.
    """

    read: Callable[[object], Any]
    literal: Callable[[str], object] = str


def shown(value: object) -> str:
    """A value as an error message quotes it; a long one is cut."""
    try:
        whole = repr(value)
    except ValueError:  # sys.set_int_max_str_digits
        return "a number of thousands of digits"
    return whole if len(whole) <= _LONGEST_SHOWN else f"{whole[:_LONGEST_SHOWN]}…"


def _not(allowed: str, value: object) -> ConfigError:
    return ConfigError(f"must be {allowed}, not {shown(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _not("text", value)
    return value


def seconds(lowest: float) -> Type:
    """Seconds from ``lowest`` to a day."""
    allowed = f"a number of seconds {'above 0' if lowest else 'from 0'} to {_DAY:.0f}"

    def read(value: object) -> float:
        number = _number(value)
        if number is None or not lowest <= number <= _DAY:
            raise _not(allowed, value)
        return float(number)

    return Type(read, _literal)


def whole(lowest: int, highest: int) -> Type:
    """A whole number within bounds."""

    def read(value: object) -> int:
        number = _number(value)
        if not isinstance(number, int) or not lowest <= number <= highest:
            raise _not(f"a whole number from {lowest} to {highest}", value)
        return number

    return Type(read, _literal)


def _number(value: object) -> int | float | None:
    """A finite number as TOML gives it, or None. A boolean is not a number in TOML, though it is an int in Python."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _literal(given: str) -> object:
    """The number that the text would be in TOML; any other text stays text, which `_number` refuses."""
    if len(given) > _LONGEST_NUMBER:
        return given
    if re.fullmatch(r"-?[0-9]+", given):
        return int(given)
    return float(given) if re.fullmatch(r"-?[0-9]*\.?[0-9]+(e-?[0-9]{1,2})?", given) else given


def one_of(*words: str) -> Type:
    """One of these words."""

    def read(value: object) -> str:
        if value not in words:
            raise _not(f"one of {', '.join(words)}", value)
        return str(value)

    return Type(read)


def _networks(value: object) -> tuple[Network, ...]:
    if not isinstance(value, list):
        raise _not("an array of networks", value)
    return tuple(map(_network, value))


def _network(value: object) -> Network:
    try:
        return ip_network(_text(value))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"must be a network as 192.0.2.0/24 or 2001:db8::/32, not {value!r} ({error})") from error


def _authorities(value: object) -> str:
    """The path of a file of certificates, which is read here so that an error is found without any TLS listener."""
    path = _text(value)
    if not path:
        raise _not("a file", path)
    from greetsvc.net.tls.pem import read_certificates  # only TLS needs cryptography

    read_certificates(Path(path))
    return path


def _endpoint(value: object) -> Endpoint:
    return parse_endpoint(_text(value))


def _encoding(value: object) -> str:
    return text_encoding(_text(value))


TEXT = Type(_text)
ENDPOINT = Type(_endpoint)
ENCODING = Type(_encoding)
NETWORKS = Type(_networks)
AUTHORITIES = Type(_authorities)
