"""Listening sockets: bound, not blocking, and their files."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import CannotListenError

from greetsvc.net.sockets import (
    MAX_BACKLOG,
    UnixPath,
    adopted_stream_socket,
    datagram_socket,
    ipv6_works,
    kernel_backlog,
    stream_socket,
    unix_datagram_socket,
    unix_stream_socket,
)

Make = Callable[..., socket.socket]
UNIX = pytest.mark.parametrize("make", [unix_stream_socket, unix_datagram_socket])
INET = pytest.mark.parametrize("make", [stream_socket, datagram_socket])


@INET
@pytest.mark.parametrize(
    ("host", "family", "name"),
    [
        ("", socket.AF_INET, "0.0.0.0"),
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("::", socket.AF_INET6, "::"),
        ("::1", socket.AF_INET6, "::1"),
    ],
)
def test_a_socket_is_bound_to_its_address_and_does_not_block(make: Make, host: str, family: int, name: str) -> None:
    with make(host, 0) as sock:
        assert sock.family == family
        assert sock.getsockname()[0] == name
        assert sock.getsockname()[1] > 0
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        if make is stream_socket:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@INET
def test_a_name_is_resolved(make: Make) -> None:
    with make("localhost", 0) as sock:
        assert sock.getsockname()[0] in {"127.0.0.1", "::1"}


@INET
def test_ipv6_only_leaves_the_port_to_ipv4_and_dual_stack_does_not(make: Make) -> None:
    with make("", 0) as sock:
        port = sock.getsockname()[1]
        with make("::", port, v6only=True):
            pass
        with pytest.raises(CannotListenError, match="in use"):
            make("::", port)


@INET
@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("192.0.2.1", 0),
        ("2001:db8::1", 0),
        ("1.2.3.4.5", 0),
        ("no such host", 0),
        ("a\0b", 0),
        ("x" * 70, 0),
        ("é" * 70, 0),
        ("127.0.0.1", 70_000),
        ("127.0.0.1", -1),
    ],
)
def test_an_address_that_cannot_be_bound_is_a_cannot_listen_error_and_leaves_no_socket(
    make: Make, host: str, port: int
) -> None:
    with pytest.raises(CannotListenError) as caught:
        make(host, port)
    assert (caught.value.interface, caught.value.port) == (host, port)


def test_a_stream_port_can_be_bound_again_while_old_connections_linger() -> None:
    with stream_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            first.setblocking(True)
            accepted, _ = first.accept()
            accepted.close()
    with stream_socket("127.0.0.1", port) as second:
        assert second.getsockname()[1] == port


@UNIX
@pytest.mark.parametrize("mode", [0o666, 0o600, 0o000, 0o777])
def test_a_unix_socket_has_its_mode_whatever_the_umask_is(make: Make, mode: int, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with make(str(tmp_path / "x"), mode=mode):
            assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


@UNIX
@pytest.mark.parametrize("left_by", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_file_of_a_socket_that_no_process_holds_is_replaced(make: Make, left_by: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX, left_by) as gone:
        gone.bind(str(path))
    with make(str(path)) as sock:
        assert sock.getsockname() == str(path)


@UNIX
@pytest.mark.parametrize("held_by", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_file_of_a_socket_that_a_process_holds_is_left_alone(make: Make, held_by: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX, held_by) as living:
        living.bind(str(path))
        if held_by == socket.SOCK_STREAM:
            living.listen(0)
        before = path.stat().st_ino
        with pytest.raises(CannotListenError, match="in use"):
            make(str(path))
        assert path.stat().st_ino == before


@UNIX
@pytest.mark.parametrize(
    ("bound_as", "name"),
    [("{folder}/x", "x"), ("x", "x"), ("./x", "x"), ("../{parent}/x", "x"), ("x.new", "x"), ("x\ny", "x\ny")],
)
def test_the_file_of_a_socket_that_is_bound_and_does_not_listen_yet_is_left_alone(
    make: Make, bound_as: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    with socket.socket(socket.AF_UNIX) as starting:
        bound = bound_as.format(folder=tmp_path, parent=tmp_path.name)
        starting.bind(bound)
        Path(bound).rename(path)
        before = path.stat().st_ino
        with pytest.raises(CannotListenError, match="in use"):
            make(str(path))
        starting.listen()
        assert path.stat().st_ino == before
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@UNIX
@pytest.mark.parametrize("left_by", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_file_of_a_socket_that_no_process_holds_is_left_alone_where_that_is_asked(
    make: Make, left_by: int, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX, left_by) as gone:
        gone.bind(str(path))
    before = path.stat().st_ino
    with pytest.raises(CannotListenError) as caught:
        make(str(path), replace=False)
    assert caught.value.socketError.errno == errno.EEXIST
    assert path.stat().st_ino == before


@pytest.mark.parametrize(
    ("kind", "family", "listens", "says"),
    [
        (socket.SOCK_STREAM, socket.AF_INET, True, ""),
        (socket.SOCK_DGRAM, socket.AF_INET, False, "SOCK_DGRAM, not SOCK_STREAM"),
        (socket.SOCK_SEQPACKET, socket.AF_UNIX, False, "SOCK_SEQPACKET, not SOCK_STREAM"),
        (socket.SOCK_STREAM, socket.AF_UNIX, True, "AF_UNIX, not AF_INET"),
        (socket.SOCK_STREAM, socket.AF_INET, False, "does not listen"),
    ],
)
def test_an_adopted_socket_is_a_listening_one_of_its_family(
    kind: socket.SocketKind, family: socket.AddressFamily, listens: bool, says: str, tmp_path: Path
) -> None:
    with socket.socket(family, kind) as passed:
        passed.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "x"))
        if listens:
            passed.listen()
        if not says:
            with adopted_stream_socket(passed.fileno(), socket.AF_INET) as sock:
                assert sock.getsockname() == passed.getsockname()
                assert not sock.getblocking()
                assert not sock.get_inheritable()
            return
        with pytest.raises(ValueError, match=says):
            adopted_stream_socket(passed.fileno(), socket.AF_INET)


def test_what_is_no_socket_cannot_be_adopted() -> None:
    with Path(os.devnull).open("rb") as null:
        before = len(list(Path("/dev/fd").iterdir()))
        with pytest.raises(OSError, match="non-socket"):
            adopted_stream_socket(null.fileno(), socket.AF_INET)
        assert len(list(Path("/dev/fd").iterdir())) == before


def test_the_file_of_a_listener_with_a_full_queue_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as waiting:
        living.bind(path)
        living.listen(0)
        waiting.connect(path)
        with pytest.raises(CannotListenError, match="in use"):
            unix_stream_socket(path)


@UNIX
def test_a_file_that_is_not_a_socket_is_never_removed(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "stale"))
    (tmp_path / "link").symlink_to(tmp_path / "stale")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("file", "folder", "link", "dangling"):
        with pytest.raises(CannotListenError, match="that is no socket is there"):
            make(str(tmp_path / name))
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()


@UNIX
@pytest.mark.parametrize("path", ["missing/x", "x" * 200, "", "a\0b"])
def test_an_impossible_path_is_refused(
    make: Make, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not path:
        pytest.skip("Linux gives a socket without a path an abstract name")
    with pytest.raises(CannotListenError):
        make(path)
    assert not list(tmp_path.iterdir())


@UNIX
def test_an_abstract_name_in_use_is_refused(make: Make) -> None:
    name = f"\0greetsvc-test-{os.getpid()}"
    with make(name), pytest.raises(CannotListenError, match="in use"):
        make(name)


def test_a_file_is_removed_only_while_it_is_still_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with unix_stream_socket(str(path)):
        ours = UnixPath(str(path))
        (tmp_path / "x").rename(tmp_path / "moved")
        with unix_stream_socket(str(path)):
            ours.remove()
            assert path.is_socket()
            theirs = UnixPath(str(path))
            theirs.remove()
            theirs.remove()
            assert not path.exists()


def test_a_file_is_removed_from_whatever_folder_is_the_current_one_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with unix_stream_socket("greet.sock"):
        ours = UnixPath("greet.sock")
        monkeypatch.chdir(tmp_path / "elsewhere")
        with unix_stream_socket("greet.sock"):
            ours.remove()
            assert not (tmp_path / "greet.sock").exists()
            assert (tmp_path / "elsewhere" / "greet.sock").is_socket()


@UNIX
def test_a_socket_that_cannot_be_made_is_one_kind_of_error(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "greet.sock"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(CannotListenError) as caught:
            make(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.socketError.errno == errno.EMFILE
    assert str(path) in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("path", ["missing", "\0abstract", "a\0b"])
def test_a_file_that_is_not_there_needs_no_removal(path: str) -> None:
    UnixPath(path).remove()


def test_a_file_that_cannot_be_removed_is_logged(
    tmp_path: Path, log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = str(tmp_path / "x")
    with unix_stream_socket(path):
        file = UnixPath(path)
        monkeypatch.setattr(os, "unlink", refuse)
        file.remove()
    assert log_lines == [f"{path} is left behind: Permission denied"]


def test_the_backlog_is_as_long_as_the_kernel_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    def somaxconn(content: str | None) -> None:
        def read_bytes(_path: Path) -> bytes:
            if content is None:
                raise FileNotFoundError(2, "No such file")
            return content.encode()

        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    somaxconn("4096\n")
    assert kernel_backlog() == (4096, True)
    somaxconn("65535\n")
    assert kernel_backlog() == (MAX_BACKLOG, False)
    somaxconn("1000000\n")
    assert kernel_backlog() == (MAX_BACKLOG, False)
    for unknown in (None, "many"):
        somaxconn(unknown)
        assert kernel_backlog()[0] <= MAX_BACKLOG


def test_ipv6_works_where_an_ipv6_socket_can_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoIPv6(socket.socket):
        def bind(self, _address: Any) -> None:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    assert ipv6_works()
    monkeypatch.setattr(socket, "socket", NoIPv6)
    assert not ipv6_works()
