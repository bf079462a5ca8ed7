"""Wrong command lines and files with the real ``twistd``: one line, exit status 1, and nothing left behind."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.installed import Installed

# One of each kind; tests/daemon/test_tap.py and test_config.py have the others, in this process.
# Each row: the options, and what the error line must contain: the option, the value and (for TOML) the file.
OPTIONS = [
    (["--nonesuch"], ["--nonesuch"]),
    (["extra"], ["'extra'"]),
    (["--deadline", "0"], ["--deadline", "0"]),
    (["--trust-proxy", "10.0.0.1/8"], ["--trust-proxy", "10.0.0.1/8"]),
    (["--listen", "tcp:70000"], ["--listen", "70000"]),
    (["--listen", "unix:/nonesuch/greet"], ["--listen", "/nonesuch/greet"]),
    (["--greeting", "{nonesuch}"], ["--greeting", "nonesuch"]),
    (["--greeting", "a", "--greeter", "daytime"], ["--greeting", "--greeter"]),
    (["--greeter", "file:/nonesuch"], ["--greeter", "/nonesuch"]),
    (["--log-format", "xml"], ["--log-format", "xml"]),
    (["--config", "nonesuch.toml"], ["--config", "nonesuch.toml"]),
]
FILES = [
    ("greeting = ", ["wrong.toml"]),
    ("\xff", ["wrong.toml"]),
    ("nonesuch = 1", ["wrong.toml", "nonesuch", "1"]),
    ("deadline = '10'", ["wrong.toml", "deadline", "'10'"]),
    ("[[listen]]\ngreeting = 'a'", ["wrong.toml", "listen 1", "endpoint"]),
    ("[[listen]]\nendpoint = 'tcp:0'\nport = 1", ["wrong.toml", "listen 1", "port", "1"]),
]


def test_a_wrong_setting_is_one_line_with_status_1_and_leaves_nothing(installed: Installed, tmp_path: Path) -> None:
    def run(row: tuple[int, list[str], list[str], str]) -> str | None:
        """What went otherwise than promised; None if nothing did."""
        number, options, words, text = row
        folder = tmp_path / str(number)
        folder.mkdir()
        if text:
            (folder / "wrong.toml").write_text(text, "latin-1")
        # Every other one daemonized.
        how = ["--pidfile=pid", "-l", "log"] if number % 2 else ["-n", "--pidfile=pid"]
        try:
            done = installed.run(folder, "twistd", *how, "greetsvc", *options, fresh=number < 2)
        except subprocess.TimeoutExpired as expired:
            return f"{options} {text!r}: does not end, {expired.output!r}"
        left = {path.name for path in folder.iterdir()} - {"wrong.toml"}
        one_line = done.stderr.startswith("greetsvc: ") and done.stderr.count("\n") == 1
        says = all(word in done.stderr for word in words)
        if done.returncode == 1 and not done.stdout and one_line and says and not left:
            return None
        return f"{options} {text!r}: status {done.returncode}, left {left}, {done.stdout!r}, {done.stderr!r}"

    rows = [(options, words, "") for options, words in OPTIONS]
    rows += [(["--config", "wrong.toml"], words, text) for text, words in FILES]
    with ThreadPoolExecutor(2) as pool:
        wrong = list(filter(None, pool.map(run, [(number, *row) for number, row in enumerate(rows)])))
    assert not wrong, "\n".join(wrong)
