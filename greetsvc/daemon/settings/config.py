"""Makes `Settings` from the command line and a TOML file."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from greetsvc.daemon.settings.table import ONCE, SETTINGS, Listener, Place, Settings, serves, shown
from greetsvc.errors import ConfigError, nearest, reason_of
from greetsvc.files import read_plain
from greetsvc.greeters.registry import Greeter, find_greeter
from greetsvc.greeters.text import TextGreeter
from greetsvc.net.endpoint import Endpoint, check_kind
from greetsvc.protocols.registry import Plugin, find_protocol

__all__ = ["read_toml", "settings"]

_LONGEST_FILE = 64 * 1024
_DEEP_KEY = r"""(?<![\w-]) (?: (?: "[^"\n]*" | '[^'\n]*' | [\w-]+ ) [ \t]* \. [ \t]* ){100}"""
"""A dotted key of a hundred parts. `tomllib` takes quadratic time for these: 40 s for one of 64 KiB. No setting has a
dot in its name."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_IN_FILE = {setting.name for setting in SETTINGS if Place.FILE in setting.places} - {"listen"}
_IN_LISTEN = {setting.name for setting in SETTINGS if Place.LISTEN in setting.places}


def read_toml(path: str) -> dict[str, Any]:
    """The content of a TOML file. Raises `ConfigError` that names the file."""
    if not path:
        raise ConfigError("--config: must be a file, not ''")
    import tomllib  # many services have no file

    try:
        data, _ = read_plain(path, _LONGEST_FILE)
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
        if re.search(_DEEP_KEY, text, re.ASCII | re.VERBOSE):
            raise ValueError("a key in it has a hundred parts or more, and no setting has a dot in its name")
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"--config: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"--config: {path}: {reason_of(error)}") from error


def settings(
    options: Mapping[str, object], listen: Sequence[str] = (), file: Mapping[str, Any] | None = None, path: str = ""
) -> Settings:
    """The settings from the command line (``options`` and ``listen``) and the content of a TOML ``file`` at ``path``.

    The command line wins, and any ``listen`` there replaces all of the file's. Options that only the command line
    has, such as ``check``, are ignored. Raises `ConfigError`, also for what the command line replaces.
    """
    if file and (listen or not _IN_FILE.isdisjoint(options)):
        _check_file(file, path)
    file = dict(file or {})
    in_tables = file.pop("listen", [])
    filed = _level(f"{path}: ", file, _IN_FILE)
    given = _level("--", {name: value for name, value in options.items() if name in _IN_FILE}, _IN_FILE)
    defaults = {
        one.name: _Value(f"the default {one.name}", one.name, one.default)
        for one in SETTINGS
        if one.default is not None
    }
    if listen:
        tables = [(f"--listen {one}", {"endpoint": _Value("--listen", "endpoint", one)}) for one in listen]
    else:
        tables = _listen_tables(in_tables, f"{path}: listen")
    values = ChainMap(given, filed, defaults)
    plain: dict[str, Any] = {
        one.attribute: values[one.name].read() if one.name in values else None
        for one in SETTINGS
        if one.name in _IN_FILE - _IN_LISTEN
    }
    greeter, protocol = _greeter(given, filed, defaults), _protocol(given, filed, defaults)
    if (admin := plain["admin"]) is not None:
        plain["admin"] = Listener(admin, *greeter, f"{values['admin'].where} {admin}")
    listeners = tuple(_listener(where, table, [given, table, filed, defaults]) for where, table in tables)
    _check_served(given, filed, listeners, *protocol)
    return Settings(listeners, *greeter, *protocol, values["encoding"].read(), **plain)


def _check_file(file: Mapping[str, Any], path: str) -> None:
    """Check the whole file, as the command line may replace a part of it."""
    for listener in settings({}, (), file, path).listeners:
        try:
            check_kind(listener.endpoint)
        except ValueError as error:
            raise ConfigError(f"{listener.where}: {error}") from error


class _Value(NamedTuple):
    """A value of the setting ``name`` as it was given, and where."""

    where: str
    name: str
    value: object

    def read(self, make: Callable[[Any], Any] = lambda checked: checked) -> Any:
        """Check the value and pass it to ``make``. An error names ``where``."""
        try:
            return make(_BY_NAME[self.name].read(self.value))
        except (OSError, ValueError) as error:
            why = reason_of(error)
            # A ConfigError quotes the value already; another error may.
            if not isinstance(error, ConfigError) and repr(self.value)[1:-1] not in why:
                why = f"{self.value!r}: {why}"
            raise ConfigError(f"{self.where}: {why}") from error


_Level = dict[str, _Value]


def _level(prefix: str, given: Mapping[str, object], known: Collection[str], table: str = "") -> _Level:
    """The values that were given in one place. Raises `ConfigError` for those that have no meaning there."""
    for name, value in given.items():
        if name not in known:
            near = nearest(name.lower().replace("_", "-"), known)
            meant = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"{prefix}{name}: unknown setting{table} (value {shown(value)}){meant}")
    if "greeting" in given and "greeter" in given:
        raise ConfigError(f"{prefix}greeter: {shown(given['greeter'])} cannot be combined with {prefix}greeting")
    return {name: _Value(prefix + name, name, value) for name, value in given.items()}


def _listen_tables(listen: object, where: str) -> list[tuple[str, _Level]]:
    """Each ``[[listen]]`` table, and where it is."""
    if not isinstance(listen, list):
        raise ConfigError(f"{where}: must be an array of tables ([[listen]]), not {shown(listen)}")
    tables = []
    for number, entry in enumerate(listen, 1):
        here = f"{where} {number}"
        table = {"endpoint": entry} if isinstance(entry, str) else entry
        if not isinstance(table, dict):
            raise ConfigError(f"{here}: must be a table or an endpoint, not {shown(table)}")
        tables.append((here, _level(f"{here}: ", table, _IN_LISTEN, " in a [[listen]] table")))
        if "endpoint" not in table:
            raise ConfigError(f"{here}: endpoint is missing in {shown(table)}")
    return tables


def _greeter(*levels: _Level) -> tuple[Greeter, str]:
    """The greeter from the first level that names one, in the first encoding that is given; and its option."""
    encoding = ChainMap(*levels)["encoding"].read()
    level = next(level for level in levels if "greeting" in level or "greeter" in level)
    if "greeting" in level:
        value = level["greeting"]
        return value.read(lambda template: TextGreeter(template, encoding)), f"text:{value.value}"
    value = level["greeter"]
    option = value.read()
    kind, _, argument = option.partition(":")
    return value.read(lambda _: find_greeter(kind, argument, encoding)), option


def _listener(where: str, table: _Level, levels: Sequence[_Level]) -> Listener:
    endpoint: Endpoint = table["endpoint"].read()
    protocol, option = _protocol(*levels)
    if not serves(protocol, endpoint):
        if "protocol" in table and "protocol" not in levels[0]:
            what = "datagrams" if endpoint.is_datagram else "streams"
            raise ConfigError(f"{table['protocol'].where}: {option!r} does not serve {what}, as {endpoint.text}")
        protocol, option = ONCE, "once"
    encoding = ChainMap(*levels)["encoding"].read()
    measure = ChainMap(table, levels[-1])["measure"].read()
    return Listener(endpoint, *_greeter(*levels), where, protocol, option, encoding, measure)


def _protocol(*levels: _Level) -> tuple[Plugin, str]:
    """The protocol that the first level names, in the first encoding that is given; and its option."""
    if not any("protocol" in level for level in levels[:-1]):
        return ONCE, levels[-1]["protocol"].read()  # without a look at what is installed
    encoding, value = ChainMap(*levels)["encoding"].read(), ChainMap(*levels)["protocol"]
    option = value.read()
    name, _, argument = option.partition(":")
    return value.read(lambda _: find_protocol(name, argument, encoding)), option


def _check_served(given: _Level, filed: _Level, listeners: Sequence[Listener], protocol: Plugin, option: str) -> None:
    """Raise `ConfigError` if the protocol that was chosen for all listeners can serve none of them."""
    value = given.get("protocol", filed.get("protocol"))
    if value is not None and listeners and not any(serves(protocol, one.endpoint) for one in listeners):
        raise ConfigError(f"{value.where}: {option!r} can serve none of the listeners")
