"""What root makes before `-u` and `-g` belongs to the user that twistd becomes."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from greetsvc.daemon.owner import Owner
from greetsvc.errors import ConfigError
from tests.support.greet import GREET
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.installed import Installed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
NOBODY = pwd.getpwnam("nobody")
LOOPBACK = "interface=127.0.0.1"
UID, GID = str(NOBODY.pw_uid), str(NOBODY.pw_gid)


@pytest.fixture
def place(shared_folder: Path) -> Iterator[Path]:
    """A folder that other users can reach, as pytest's own cannot."""
    path = shared_folder / f"owned-{os.getpid()}"
    path.mkdir()
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@needs_root
@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        (("-u", UID, "-g", GID), NOBODY.pw_uid, NOBODY.pw_gid),
        (("-u", "nobody"), NOBODY.pw_uid, NOBODY.pw_gid),
        (("-g", GID), 0, NOBODY.pw_gid),
        (("--uid", UID, "--gid", "0", "--euid"), NOBODY.pw_uid, 0),
        (("-u", UID, "-g", "54322"), NOBODY.pw_uid, 54322),
    ],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_sockets_and_the_log_belong_to_who_twistd_becomes_and_the_log_rotates(
    installed: Installed, place: Path, options: tuple[str, ...], uid: int, gid: int, form: str
) -> None:
    os.chown(place, uid, gid)
    place.chmod(0o775)
    stream, datagram, log = place / "stream", place / "datagram", place / "log"
    listen = ("--listen", f"unix:{stream}:mode=660", "--listen", f"unixgram:{datagram}:mode=600")
    command = ("twistd", "-n", "--pidfile=", "-l", str(log), *options, "greetsvc", "--log-format", form, *listen)
    server = evolve(installed.start(place, *command), log=log)
    server.wait_for("Server start at path: ", 2)
    for path, mode in ((stream, 0o660), (datagram, 0o600), (log, 0o644)):
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (uid, gid, mode), path
    assert "cannot be rotated" not in server.said()
    assert "left behind" not in server.said()
    server.send_signal(signal.SIGUSR1)
    wait_until((place / "log.1").exists)
    assert server.stop() == -signal.SIGTERM
    assert not stream.exists()
    assert not datagram.exists()


@needs_root
def test_what_is_out_of_reach_after_the_change_is_told_in_one_line_each(installed: Installed, place: Path) -> None:
    """The folder is root's: the user may write the log, but neither rotate it nor remove the socket."""
    stream, log = place / "stream", place / "log"
    command = ("twistd", "-n", "--pidfile=", "-l", str(log), "-u", UID, "-g", GID)
    server = evolve(installed.start(place, *command, "greetsvc", "--listen", f"unix:{stream}"), log=log)
    server.wait_for("Server start at path: ")
    (why,) = server.wait_for(f"{log} cannot be rotated: ")
    assert why == "its folder is not writable for this user"
    (why,) = server.wait_for(f"{stream} will be left behind when the service stops: ")
    assert why == "its folder is not writable for this user"
    assert log.stat().st_uid == stream.stat().st_uid == NOBODY.pw_uid
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(stream))
        assert peer.recv(100) == b"Thank you for connecting\r\n"
    server.send_signal(signal.SIGUSR1)
    server.wait_for("cannot be rotated", 2)
    assert server.stop() == -signal.SIGTERM
    assert stream.exists()


@needs_root
def test_behind_chroot_what_is_out_of_reach_is_kept_and_told(installed: Installed, place: Path) -> None:
    root = place / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text(f"nobody:x:{UID}:{GID}::/:/bin/false\n")
    stream, log = place / "stream", place / "log"
    command = (
        "twistd",
        "-n",
        "--pidfile=",
        "-l",
        str(log),
        "--chroot",
        str(root),
        "--rundir",
        "/",
        "-u",
        UID,
        "-g",
        GID,
    )
    server = evolve(installed.start(place, *command, "greetsvc", "--listen", f"unix:{stream}"), log=log)
    server.wait_for("Server start at path: ")
    (why,) = server.wait_for(f"{log} cannot be rotated: ")
    assert why == "No such file or directory"
    (why,) = server.wait_for(f"{stream} will be left behind when the service stops: ")
    assert why == "No such file or directory"
    assert log.stat().st_uid == stream.stat().st_uid == NOBODY.pw_uid
    assert server.stop() == -signal.SIGTERM


@needs_root
def test_behind_chroot_visits_need_no_module_that_is_not_loaded(installed: Installed, place: Path) -> None:
    root = place / "root"
    root.mkdir()
    listen = "[[listen]]\nendpoint = 'tcp:0:interface=127.0.0.1'\n{}"
    text = listen.format("greeter = 'path'\n") + listen.format("protocol = 'websocket'\n")
    (place / "greetsvc.toml").write_text(text)
    command = ("twistd", "-n", "--pidfile=", "--chroot", str(root), "--rundir", "/", "greetsvc", "--config")
    server = installed.start(place, *command, "greetsvc.toml", fresh=True)
    ports = server.ports(2)
    for options, port in zip([["--json"], ["--talk", "websocket"]], ports, strict=True):
        found = subprocess.run([GREET, *options, f"127.0.0.1:{port}"], capture_output=True, check=False)
        assert found.returncode == 0, (found, server.said())
    assert server.stop() == -signal.SIGTERM


@needs_root
def test_behind_chroot_a_reload_adds_a_listener_and_an_upgrade_is_refused(installed: Installed, place: Path) -> None:
    root = place / "root"
    within = root / str(place).lstrip("/")  # the folder of the same name behind chroot
    within.mkdir(parents=True)
    listen = "[[listen]]\nendpoint = '{}:interface=127.0.0.1'\n"
    (place / "greetsvc.toml").write_text(listen.format("tcp:0"))
    command = ("twistd", "-n", "--pidfile=", "--chroot", str(root), "--rundir", "/", "greetsvc", "--config")
    server = installed.start(place, *command, "greetsvc.toml", fresh=True)
    server.ports()
    (within / "greetsvc.toml").write_text(listen.format("tcp:0") + listen.format("proxy:tcp:0"))
    server.send_signal(signal.SIGHUP)
    server.wait_for("The settings were reloaded")
    server.ports(2)
    server.send_signal(signal.SIGUSR2)
    server.wait_for("No upgrade: no program can be started in the folder of --chroot")
    assert "Traceback" not in server.said()
    assert server.stop() == -signal.SIGTERM


@needs_root
@pytest.mark.parametrize("how", ["symbolic", "hard"])
def test_a_link_in_place_of_the_log_does_not_give_away_a_file(installed: Installed, place: Path, how: str) -> None:
    secret, log = place / "secret", place / "log"
    secret.write_text("root's\n")
    if how == "symbolic":
        log.symlink_to(secret)
    else:
        os.link(secret, log)
    command = ("twistd", "-n", "--pidfile=", "-l", str(log), "-u", UID, "-g", GID)
    server = evolve(installed.start(place, *command, "greetsvc", "--listen", f"tcp:0:{LOOPBACK}"), log=secret)
    server.ports()
    server.wait_for(f"{log} keeps its owner: it is a link")
    assert secret.stat().st_uid == 0
    assert server.stop() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, Owner()),
        ({}, Owner()),
        ({"uid": None, "gid": None}, Owner()),
        ({"uid": NOBODY.pw_uid, "gid": None}, Owner(NOBODY.pw_uid, NOBODY.pw_gid)),
        ({"uid": NOBODY.pw_uid, "gid": 5}, Owner(NOBODY.pw_uid, 5)),
        ({"uid": None, "gid": 5}, Owner(-1, 5)),
    ],
)
def test_the_owner_is_who_twistd_becomes(options: Any, expected: Owner) -> None:
    assert Owner.of(options) == expected


@pytest.mark.parametrize("uid", [54321, 2**40, -7])
@pytest.mark.parametrize("gid", [None, 5])
def test_a_user_that_is_not_known_is_refused(uid: int, gid: int | None) -> None:
    with pytest.raises(ConfigError, match=f"^--uid: {uid} is no user of this system$"):
        Owner.of({"uid": uid, "gid": gid})


@needs_root
@pytest.mark.parametrize("name", ["Grüße.sock", "two\nlines", "\udcff"])
def test_a_socket_of_any_name_is_given_away(name: str, place: Path) -> None:
    path = str(place / name)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        assert not Owner(NOBODY.pw_uid, NOBODY.pw_gid).give_socket(path)
    assert Path(path).stat().st_uid == NOBODY.pw_uid
    assert Owner(1, 1).give_socket(f"{path}?").isprintable()


def test_what_is_no_socket_any_more_keeps_its_owner(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name, why in (("file", "no longer a socket"), ("link", "no longer a socket"), ("gone", "No such file")):
        assert why in Owner(1, 1).give_socket(str(tmp_path / name))
    assert not Owner().give_socket(str(tmp_path / "gone"))
    assert (tmp_path / "file").stat().st_uid == os.geteuid()
