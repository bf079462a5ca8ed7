"""The records of the settings, and the help and the documents that must agree with them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from greetsvc.daemon.settings.config import settings
from greetsvc.daemon.settings.memory import PER_CONNECTION, SHARE_OF_MEMORY
from greetsvc.daemon.settings.table import SETTINGS, SHARE_OF_FILES, Place, Settings
from greetsvc.daemon.tap import Options

CHECKOUT = Path(__file__).parents[3]
BY_NAME = {setting.name: setting for setting in SETTINGS}


def test_each_field_of_settings_comes_from_a_record() -> None:
    made = {"listeners", "greeter", "greeter_option", "plugin", "protocol_option", "encoding"}
    fields = {each.name for each in attrs.fields(Settings)} - made
    in_file = {setting.attribute for setting in SETTINGS if Place.FILE in setting.places}
    in_listen = {setting.attribute for setting in SETTINGS if Place.LISTEN in setting.places}
    assert fields == in_file - in_listen - {"listen"}
    assert in_listen == {"endpoint", "greeting", "greeter", "protocol", "encoding", "measure"}


def test_each_record_has_a_printable_one_line_help() -> None:
    for setting in SETTINGS:
        assert setting.meaning
        assert f"{setting.option} {setting.help}".isprintable()


def test_each_default_is_a_value_that_the_setting_accepts() -> None:
    found = settings({})
    for setting in SETTINGS:
        if setting.default is not None:
            value = setting.read(setting.default)
            assert getattr(found, setting.attribute, value) == value


def test_a_reload_takes_nearly_everything() -> None:
    fixed = [setting.name for setting in SETTINGS if Place.FILE in setting.places and not setting.reload]
    assert fixed == ["admin", "admin-host", "workers"]


def test_the_help_has_each_option_with_its_metavar_meaning_and_default() -> None:
    shown_help = " ".join(str(Options()).split())
    for setting in SETTINGS:
        if Place.COMMAND_LINE in setting.places:
            assert f"{setting.option} {setting.help}" in shown_help


def _option_rows(document: str) -> Iterator[tuple[str, str]]:
    """The option and the default in each row of the tables whose columns end with "default"."""
    in_table = False
    for line in (CHECKOUT / document).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        in_table = bool(cells) and (in_table or (cells[0], cells[-1]) == ("option", "default"))
        if in_table and cells[0].startswith("`"):
            for option in re.findall("`([^`]*)`", cells[0]):
                yield option, cells[-1].replace("`", "")


@pytest.mark.parametrize("document", ["README.md", "docs/deploy.md"])
def test_the_tables_of_options_agree_with_the_records(document: str) -> None:
    records = {each.option: each.shown_default for each in SETTINGS if Place.COMMAND_LINE in each.places}
    rows = dict(_option_rows(document))
    assert rows
    assert {option: records.get(option) for option in rows} == rows
    if document == "README.md":
        assert list(rows) == list(records)


def test_what_is_commented_out_in_the_shipped_file_is_the_default() -> None:
    lines = (CHECKOUT / "deploy" / "greetsvc.toml").read_text("utf-8").splitlines()
    commented = [line.removeprefix("# ") for line in lines if re.match(r"# [a-z-]+ = ", line)]
    assert len(commented) >= 5
    for name, value in tomllib.loads("\n".join(commented)).items():
        assert BY_NAME[name].shown_default.split(";")[0] == str(value)


def test_the_memory_of_the_unit_and_its_files_allow_as_many_connections_as_the_documents_say() -> None:
    unit = (CHECKOUT / "deploy" / "greetsvc.service").read_text("utf-8")
    (files,), (memory,) = (
        re.findall(f"^{name}=([0-9]+)M?$", unit, re.MULTILINE) for name in ("LimitNOFILE", "MemoryMax")
    )
    connections = int(int(memory) * 2**20 * SHARE_OF_MEMORY) // PER_CONNECTION
    assert f"{connections} of them" in unit
    assert f"it is\n{connections}." in (CHECKOUT / "docs/deploy.md").read_text("utf-8")
    assert connections < int(files) * SHARE_OF_FILES
    assert connections * PER_CONNECTION + 60 * 10**6 < int(memory) * 2**20
