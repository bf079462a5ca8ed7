"""Makes settings from the command line and a TOML file, and says in one line what cannot be."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from greetsvc.daemon.settings import KEYS, Listener, Settings, shown, text
from greetsvc.errors import ConfigError, reason_of
from greetsvc.greeters import Greeter, find_greeter, text_encoding
from greetsvc.greeters.text import DEFAULT, TextGreeter
from greetsvc.net.endpoint import parse_endpoint

__all__ = ["read_toml", "settings"]

_LONGEST_FILE = 1024 * 1024
_BY_NAME = {key.name: key for key in KEYS}
_SAID = ("greeting", "greeter", "encoding")


def read_toml(path: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises `ConfigError` that names the file."""
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
    """The settings that the command line's ``options`` and ``listen`` make with a TOML ``file`` from ``path``.

    The command line wins, and any ``listen`` there replaces all of the file's. Raises `ConfigError`.
    """
    file = file or {}
    given = {name: _Given(f"--{name}", value) for name, value in options.items()}
    filed = {name: _Given(f"{path}: {name}", value) for name, value in file.items() if name != "listen"}
    for name, setting in filed.items():
        if name not in _BY_NAME:
            raise ConfigError(f"{setting.where}: there is no such setting (value {shown(setting.value)})")
    for level in (filed, given):
        _check_said(level)
    tables = [_Table(f"--listen {one}", {"endpoint": _Given("--listen", one)}) for one in listen]
    if not listen:
        tables = _file_tables(file.get("listen", []), path)
    greeter, says = _greeter(given, {}, filed)
    values = {
        _BY_NAME[name].attribute: setting.read(_BY_NAME[name].read)
        for name, setting in {**filed, **given}.items()
        if name not in _SAID
    }
    return Settings(
        listeners=tuple(_listener(table, given, filed) for table in tables), greeter=greeter, says=says, **values
    )


@frozen
class _Given:
    """A value and the name of where it was given."""

    where: str
    value: object

    def read(self, reader: Callable[[Any], Any]) -> Any:
        try:
            return reader(self.value)
        except (OSError, ValueError) as error:
            value = (
                "" if isinstance(error, ConfigError) or repr(self.value)[1:-1] in str(error) else f" {self.value!r}"
            )
            raise ConfigError(f"{self.where}:{value and value + ':'} {reason_of(error)}") from error


@frozen
class _Table:
    where: str
    entries: Mapping[str, _Given]


def _file_tables(listen: object, path: str) -> list[_Table]:
    where = f"{path}: listen"
    if not isinstance(listen, list):
        raise ConfigError(f"{where}: must be an array of tables ([[listen]]), not {shown(listen)}")
    tables = []
    for number, entry in enumerate(listen, 1):
        here = f"{where} {number}"
        if isinstance(entry, str):
            entry = {"endpoint": entry}  # noqa: PLW2901 - the short form
        if not isinstance(entry, dict):
            raise ConfigError(f"{here}: must be a table or an endpoint, not {shown(entry)}")
        for name in entry:
            if name != "endpoint" and name not in _SAID:
                raise ConfigError(f"{here}: {name}: there is no such setting here (value {shown(entry[name])})")
        if "endpoint" not in entry:
            raise ConfigError(f"{here}: endpoint is missing from {shown(entry)}")
        entries = {name: _Given(f"{here}: {name}", value) for name, value in entry.items()}
        _check_said(entries)
        tables.append(_Table(here, entries))
    return tables


def _check_said(level: Mapping[str, _Given]) -> None:
    if "greeting" in level and "greeter" in level:
        greeting, greeter = level["greeting"], level["greeter"]
        raise ConfigError(f"{greeter.where}: {shown(greeter.value)} does not go together with {greeting.where}")


def _listener(table: _Table, given: Mapping[str, _Given], filed: Mapping[str, _Given]) -> Listener:
    endpoint = table.entries["endpoint"].read(lambda value: parse_endpoint(text(value)))
    greeter, says = _greeter(given, table.entries, filed)
    return Listener(endpoint, greeter, says, table.where)


def _greeter(*levels: Mapping[str, _Given]) -> tuple[Greeter, str]:
    """The greeter that the first level to name one asks for, in the first encoding that is named."""
    encoding = "utf-8"
    for level in levels:
        if "encoding" in level:
            encoding = level["encoding"].read(lambda value: text_encoding(text(value)))
            break
    for level in levels:
        if "greeting" in level:
            said = level["greeting"]
            return said.read(lambda value: TextGreeter(text(value), encoding)), f"text:{said.value}"
        if "greeter" in level:
            said = level["greeter"]
            return said.read(lambda value: find_greeter(*_kind(text(value)), encoding)), str(said.value)
    return TextGreeter(DEFAULT, encoding), f"text:{DEFAULT}"


def _kind(greeter: str) -> tuple[str, str]:
    kind, _, argument = greeter.partition(":")
    return kind, argument
