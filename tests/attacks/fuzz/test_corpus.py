"""The fuzzer's corpus as plain tests, and its targets under Hypothesis; neither needs atheris."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
FUZZ: dict[str, Any] = runpy.run_path(str(HERE / "fuzz.py"))
CORPUS = sorted((HERE / "corpus").glob("*/*"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_input_of_the_corpus_is_handled(path: Path, tmp_path: Path) -> None:
    FUZZ["TARGETS"][path.parent.name](tmp_path)(path.read_bytes())


@pytest.mark.parametrize("name", FUZZ["TARGETS"])
def test_every_target_has_a_corpus_and_takes_anything(name: str, tmp_path: Path) -> None:
    seeds = [path.read_bytes() for path in CORPUS if path.parent.name == name]
    assert seeds
    run = FUZZ["TARGETS"][name](tmp_path)
    cut = st.tuples(st.sampled_from(seeds), st.integers(0, 300), st.binary(max_size=12), st.integers(0, 12)).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + parts[3] :]
    )

    @settings(max_examples=150)
    @given(st.one_of(cut, st.binary(max_size=100), st.text(max_size=100).map(str.encode)))
    def takes(data: bytes) -> None:
        run(data)

    takes()


def test_without_atheris_the_fuzzer_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit) as ended:
        FUZZ["main"](["proxy"])
    assert ended.value.code == 2
    assert "atheris is not here" in capsys.readouterr().err
