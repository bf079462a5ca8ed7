"""The completions in real shells, and the manual pages for a real formatter."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

DEPLOY = Path(__file__).parents[2] / "deploy"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


@pytest.mark.parametrize("page", ["greet.1", "greetsvc.8"])
def test_the_manual_pages_have_no_fault(page: str) -> None:
    assert not _run("mandoc", "-T", "lint", str(DEPLOY / "man" / page))
    shown = _run("mandoc", "-T", "utf8", str(DEPLOY / "man" / page))
    assert "\\" not in shown.replace("\\r\\n", "").replace("\\:", "")


def _bash(line: str) -> set[str]:
    name, *words = line.split(" ")
    script = f"""
        source {DEPLOY}/completion/{name}.bash
        COMP_WORDS=({name} {" ".join(words).replace("=", " = ")} {"''" if not words[-1] else ""})
        COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _{name} && printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return set(_run("bash", "-c", script).split())


def _fish(line: str) -> set[str]:
    name = line.split(" ", 1)[0]
    said = _run("fish", "-N", "-c", f"source {DEPLOY}/completion/{name}.fish; complete -C '{line}'")
    return {row.split("\t")[0].partition("=")[2] or row.split("\t")[0] for row in said.splitlines()}


@pytest.mark.parametrize("shell", [_bash, _fish])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("greetsvc --log-format ", {"text", "json"}),
        ("greetsvc --log-format=j", {"json"}),
        ("greetsvc --max-", {"--max-connections", "--max-per-source"}),
        ("greet --proxy-", {"--proxy-v1", "--proxy-v2"}),
        ("greet --warn ", set()),
    ],
)
def test_a_shell_completes_options_and_words(shell: object, line: str, words: set[str]) -> None:
    assert callable(shell)
    assert shell(line) == words


@pytest.mark.parametrize("name", ["greet", "greetsvc"])
def test_zsh_can_load_the_completion(name: str) -> None:
    """Its completion runs only in an interactive line editor; here it is loaded, and its syntax checked."""
    folder = DEPLOY / "completion"
    script = f"fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[{name}]"
    assert not _run("zsh", "-n", f"{folder}/_{name}")
    assert _run("zsh", "-f", "-c", script) == f"_{name}\n"
