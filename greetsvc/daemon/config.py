"""Makes `Settings` from the command line and a TOML file."""

from __future__ import annotations

import tomllib
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from greetsvc.daemon.settings import SETTINGS, Listener, Place, Settings
from greetsvc.daemon.values import shown
from greetsvc.errors import ConfigError, reason_of
from greetsvc.greeters.registry import Greeter, find_greeter
from greetsvc.greeters.text import TextGreeter

__all__ = ["read_toml", "settings"]

_LONGEST_FILE = 1024 * 1024
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_IN_FILE = {setting.name for setting in SETTINGS if Place.FILE in setting.places}
_IN_LISTEN = {setting.name for setting in SETTINGS if Place.LISTEN in setting.places}
_PLAIN = [setting for setting in SETTINGS if setting.name in _IN_FILE - _IN_LISTEN - {"listen"}]
"""The settings that hold for the whole service and are fields of `Settings`."""


def read_toml(path: str) -> dict[str, Any]:
    """The content of a TOML file. Raises `ConfigError` that names the file."""
    if not path:
        raise ConfigError("--config: must be a file, not ''")
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LONGEST_FILE + 1)
        if len(data) > _LONGEST_FILE:
            raise ConfigError(f"longer than {_LONGEST_FILE} bytes")
        return tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"--config: {path}: {reason_of(error)}") from error


def settings(
    options: Mapping[str, object], listen: Sequence[str] = (), file: Mapping[str, Any] | None = None, path: str = ""
) -> Settings:
    """The settings from the command line (``options`` and ``listen``) and the content of a TOML ``file`` at ``path``.

    The command line wins, and any ``listen`` there replaces all of the file's. Raises `ConfigError`.
    """
    file = file or {}
    given = {name: _Value(f"--{name}", value) for name, value in options.items()}
    filed = {name: _Value(f"{path}: {name}", value) for name, value in file.items() if name != "listen"}
    for name, value in filed.items():
        if name not in _IN_FILE:
            raise ConfigError(f"{value.where}: unknown setting (value {shown(value.value)})")
    for level in (filed, given):
        _refuse_both(level)
    if listen:
        tables = [_Table(f"--listen {one}", {"endpoint": _Value("--listen", one)}) for one in listen]
    else:
        tables = _listen_tables(file.get("listen", []), path)
    defaults = {
        one.name: _Value(f"the default {one.name}", one.default) for one in SETTINGS if one.default is not None
    }
    plain = ChainMap(given, filed, defaults)
    values: dict[str, Any] = {
        one.attribute: plain[one.name].read(one.name) if one.name in plain else None for one in _PLAIN
    }
    greeter, greeter_option = _greeter(given, filed, defaults)
    return Settings(
        listeners=tuple(_listener(table, given, table.entries, filed, defaults) for table in tables),
        greeter=greeter,
        greeter_option=greeter_option,
        **values,
    )


@frozen
class _Value:
    """A value as it was given, and where."""

    where: str
    value: object

    def read(self, name: str, make: Callable[[Any], Any] = lambda checked: checked) -> Any:
        """Check the value as that of the setting ``name`` and pass it to ``make``. An error names ``where``."""
        try:
            return make(_BY_NAME[name].type.read(self.value))
        except (OSError, ValueError) as error:
            why = reason_of(error)
            # A ConfigError quotes the value already; another error may.
            if not isinstance(error, ConfigError) and repr(self.value)[1:-1] not in why:
                why = f"{self.value!r}: {why}"
            raise ConfigError(f"{self.where}: {why}") from error


_Level = Mapping[str, _Value]


@frozen
class _Table:
    """A ``[[listen]]`` table, or the same from ``--listen``."""

    where: str
    entries: _Level


def _listen_tables(listen: object, path: str) -> list[_Table]:
    where = f"{path}: listen"
    if not isinstance(listen, list):
        raise ConfigError(f"{where}: must be an array of tables ([[listen]]), not {shown(listen)}")
    tables = []
    for number, entry in enumerate(listen, 1):
        here = f"{where} {number}"
        table = {"endpoint": entry} if isinstance(entry, str) else entry
        if not isinstance(table, dict):
            raise ConfigError(f"{here}: must be a table or an endpoint, not {shown(table)}")
        for name, value in table.items():
            if name not in _IN_LISTEN:
                raise ConfigError(f"{here}: {name}: unknown setting in a [[listen]] table (value {shown(value)})")
        if "endpoint" not in table:
            raise ConfigError(f"{here}: endpoint is missing in {shown(table)}")
        entries = {name: _Value(f"{here}: {name}", value) for name, value in table.items()}
        _refuse_both(entries)
        tables.append(_Table(here, entries))
    return tables


def _refuse_both(level: _Level) -> None:
    if "greeting" in level and "greeter" in level:
        greeting, greeter = level["greeting"], level["greeter"]
        raise ConfigError(f"{greeter.where}: {shown(greeter.value)} cannot be combined with {greeting.where}")


def _listener(table: _Table, *levels: _Level) -> Listener:
    endpoint = table.entries["endpoint"].read("endpoint")
    return Listener(endpoint, *_greeter(*levels), table.where)


def _greeter(*levels: _Level) -> tuple[Greeter, str]:
    """The greeter from the first level that names one, in the first encoding that is given; and its option."""
    encoding = next(level["encoding"] for level in levels if "encoding" in level).read("encoding")
    level = next(level for level in levels if "greeting" in level or "greeter" in level)
    if "greeting" in level:
        value = level["greeting"]
        return value.read("greeting", lambda template: TextGreeter(template, encoding)), f"text:{value.value}"
    value = level["greeter"]
    return value.read("greeter", lambda option: _find_greeter(option, encoding)), str(value.value)


def _find_greeter(option: str, encoding: str) -> Greeter:
    kind, _, argument = option.partition(":")
    return find_greeter(kind, argument, encoding)
