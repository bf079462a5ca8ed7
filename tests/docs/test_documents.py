"""README.md and docs/ are true."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest
from attrs import evolve

from greetsvc.client.path import Sent, compare
from greetsvc.client.report.text import summary_notes
from greetsvc.client.stats import FlowStats, RunStats
from greetsvc.net.linux.packets import Syn
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.net.proxy.wrapper import Refusal
from greetsvc.net.tls.transport import TlsFailure
from greetsvc.visit import Address
from greetsvc.wire import PathRecord
from tests.support import documents
from tests.support.documents import ROOT, blocks

if TYPE_CHECKING:
    from tests.support.installed import Installed

README = (ROOT / "README.md").read_text()
PAGES = [*documents.PAGES, ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize(
    ("command", "page", "section"),
    [
        (("twistd", "greetsvc"), "README.md", "The server"),
        (("greet",), "README.md", "The client"),
        (("greet",), "docs/client.md", "Options"),
    ],
    ids=["server", "client", "client page"],
)
def test_the_tables_list_exactly_the_options_of_the_program(
    installed: Installed, tmp_path: Path, command: tuple[str, ...], page: str, section: str
) -> None:
    help_text = installed.run(tmp_path, *command, "--help").stdout
    spellings = re.findall(r"^ +(--?[\w-]+)(?:, (--[\w-]+))?", help_text, re.MULTILINE)
    there_are = {option for both in spellings for option in both if option}
    part = (ROOT / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| `-")]
    listed = {option for row in rows for option in re.findall(r"`(--?[\w-]+)", row.split("|")[1])}
    assert listed == there_are


def test_the_settings_of_the_readme_are_accepted(installed: Installed, tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "example.toml").write_text(example.replace(":8088", ":0"))
    done = installed.run(tmp_path, "twistd", "greetsvc", "--check", "--config", "example.toml")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_is_of_a_kind_that_tests_run_or_names_tests_that_exist(page: Path) -> None:
    """tests/lab/test_documents.py runs commands and programs."""
    for block in blocks(page):
        for test in filter(None, block.by.split(", ")):
            assert (ROOT / test).exists(), test
        if block.kind == "toml":
            tomllib.loads(block.text)
        elif block.kind == "json":
            json.loads(block.text)
        else:
            run = block.kind in {"", "console", "python"} or block.kind.startswith("{")
            assert block.by or run, f"{block.kind}: say what tests it"
        # A test never does as root what a page says to an administrator.
        assert block.by or block.kind != "console" or not re.search(r"^# ", block.text, re.MULTILINE), block.text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        if path.startswith("https:"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            words = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()) for line in _headings(target)]
            assert heading in [line.replace(" ", "-") for line in words], link


def test_the_security_page_names_existing_tests_and_every_attack() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [row.strip("|").split(" | ")[-1] for row in page.splitlines() if row.startswith("| ") and "`test" in row]
    assert rows
    for row in rows:
        attacks, _, lab = row.partition("*lab*")
        named = {name if "/" in name else f"tests/attacks/{name}" for name in _test_files(attacks)}
        named |= {f"tests/lab/{name}" for name in (_test_files(lab) or _test_files(attacks) if lab else [])}
        assert named, row
        assert {name for name in named if not (ROOT / name).exists()} == set(), row
    listed = {Path(name).name for row in rows for name in _test_files(row)}
    assert {path.name for path in (ROOT / "tests" / "attacks").glob("test_*.py")} <= listed


def _test_files(cell: str) -> list[str]:
    return re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py)`", cell)


def test_contributing_lists_the_commands_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    part = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Commands\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`make ([a-z-]+)`", part)) == set(targets)


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md", "docs/security.md", "docs/verdicts.md"])
def test_paths_that_a_page_names_exist(name: str) -> None:
    """Written as in ``net/stream`` or ``tests/lab/``: below greetsvc/, or from the root of the tree."""
    bases = (ROOT, ROOT / "greetsvc")
    folders = "|".join(re.escape(path.name) for base in bases for path in base.iterdir() if path.is_dir())
    for path in set(re.findall(rf"`((?:{folders})/[\w/.-]*)`", (ROOT / name).read_text())):
        if not re.search(r"\b(NAME|ISSUE)\b", path):
            found = [base / f"{path.rstrip('/')}{end}" for base in bases for end in ("", ".py")]
            assert any(each.exists() for each in found), path


def test_each_reason_in_the_code_is_in_the_table_of_reasons() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "greetsvc" / "server").glob("*.py"))
    reasons = {*re.findall(r'return (?:b"", )?"([a-z-]+)"', sources), *re.findall(r'refuse\("([a-z-]+)"', sources)}
    reasons |= {*get_args(Refusal), *get_args(TlsFailure), "oversize"}
    rows = (ROOT / "docs" / "deploy.md").read_text().partition("\n| reason | ")[2].partition("\n\n")[0]
    listed = {name for row in rows.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert listed == reasons | {"accept-…", "receive-…", "send-…"}


# Outputs that need a network of their own to be made again are compared with what the code says.

US, SEEN, TARGET = Address("10.0.1.1", 50390), Address("10.0.2.1", 15906), Address("10.0.3.2", 8088)
INFO = TcpInfo(rtt_us=100, mss=1448, retransmits=0, advertised_mss=1448, timestamps=True, sack=True, wscale=True)
SENT = Sent(TARGET, local=US, ttl=64, dscp=46, tcp=INFO, offered=frozenset(["timestamps", "sack", "wscale"]))
SYN = Syn(ttl=64, dscp=46, ecn=0, mss=1460, wscale=7, sack=True, timestamps=True)
RECORD = PathRecord("1101579d", None, "tcp", you=US, me=TARGET, via=None, syn=SYN, tcp=None, tls=None, datagram=None)


@pytest.mark.parametrize(
    ("sent", "record", "start", "only_notable"),
    [
        (
            SENT,
            evolve(RECORD, you=SEEN, syn=evolve(SYN, ttl=62, dscp=0, mss=1200, timestamps=False)),
            "greet: tcp:10.0.3.2:8088: ",
            True,
        ),
        (evolve(SENT, dscp=0), evolve(RECORD, syn=evolve(SYN, dscp=0)), "* ", False),
    ],
    ids=["changed", "unchanged"],
)
def test_the_findings_of_the_path_page_are_those_of_greet(
    sent: Sent, record: PathRecord, start: str, only_notable: bool
) -> None:
    notes = [note for note in compare(sent, record).notes if note.notable or not only_notable]
    shown = "\n".join(f"{start}{note.text}" for note in notes)
    assert shown in (ROOT / "docs" / "path.md").read_text()


def test_the_flows_of_the_path_page_are_those_of_greet() -> None:
    flows = FlowStats(list(range(40111, 40119)))
    flows.sent, flows.lost = [5] * 8, [0, 0, 5, 0, 0, 0, 0, 0]
    assert "\n".join(summary_notes(RunStats(flows=flows))) in (ROOT / "docs" / "path.md").read_text()


def test_what_greet_says_of_a_fixed_source_port_is_the_same_on_both_pages() -> None:
    rows = re.findall(r"^\| (source port .*?) \| ", (ROOT / "docs" / "verdicts.md").read_text(), re.MULTILINE)
    assert rows[0] in (ROOT / "docs" / "path.md").read_text()


def _headings(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("#")] if page.is_file() else []
