"""UNIX datagrams between containers: network namespaces, and mount namespaces, that share a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.lab.conftest import Namespace
from tests.support.waiting import PATIENCE


def test_a_server_in_another_network_namespace_answers(namespace: Namespace, tmp_path: Path) -> None:
    """Ours is the root namespace, the server's another one; both see the folder under the same path."""
    socket = tmp_path / "s"
    namespace.twistd("--listen", f"unixgram:{socket}", "--greeting", "hello")
    greet = namespace.command("greet")[-1]
    done = subprocess.run(
        [greet, "-v", f"unixgram:{socket}"], capture_output=True, timeout=PATIENCE, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "hello"), done.stderr
    assert f"the answer address is now {socket}." in done.stderr
    assert [path for path in tmp_path.iterdir() if path.name.startswith("s.")] == []


def test_a_server_in_the_same_namespace_is_asked_once(namespace: Namespace, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    namespace.twistd("--listen", f"unixgram:{socket}", "--greeting", "hello")
    done = namespace.run("greet", "-v", f"unixgram:{socket}")
    assert (done.returncode, done.stdout.strip()) == (0, b"hello")
    assert b"again" not in done.stderr


def test_a_server_that_sees_the_folder_under_another_path_is_told_as_a_likely_cause(
    namespace: Namespace, tmp_path: Path
) -> None:
    shared, there = tmp_path / "shared", tmp_path / "elsewhere"
    shared.mkdir()
    there.mkdir()
    namespace.twistd("--listen", f"unixgram:{shared / 's'}")
    greet = namespace.command("greet")[-1]
    # In a mount namespace of its own, the folder is at another place for greet.
    script = f"mount --bind {shared} {there} && exec {greet} -t 1 unixgram:{there}/s"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, timeout=PATIENCE, text=True, check=False
    )
    assert done.returncode == 2
    assert "is in another container, where our answer address does not exist" in done.stderr
    assert [path.name for path in shared.iterdir()] == ["s"]
