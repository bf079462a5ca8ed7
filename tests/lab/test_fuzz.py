"""A minute of coverage-guided fuzzing, divided among the parsers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "attacks" / "fuzz" / "fuzz.py"
TARGETS = ("proxy", "target", "endpoint", "template", "config", "record", "measured", "packet")
SECONDS = 60 // len(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FUZZ, target, "--seconds", str(SECONDS)],
        capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    executions = re.search(rf"fuzz: {target}: (\d+) executions", done.stdout)
    assert executions, done.stdout
    assert int(executions[1]) > 100
    sys.stdout.write(done.stdout)
