"""`--check` works beside a running instance, tells what would not work, and removes nothing."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import issue

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.support.installed import Installed

LOOPBACK = "interface=127.0.0.1"
SAYS = r"says text:Thank you for connecting\r\n"


def _check(installed: Installed, folder: Path, *options: str, **variables: Any) -> CompletedProcess[str]:
    return installed.run(folder, "greetsvc", "--check", *options, **variables)


def test_what_a_running_instance_has_is_told_and_is_no_error(installed: Installed, tmp_path: Path) -> None:
    stream, datagram = tmp_path / "stream", tmp_path / "datagram"
    server = installed.twistd(
        tmp_path,
        *("--listen", f"tcp:0:{LOOPBACK}", "--listen", f"udp:0:{LOOPBACK}"),
        *("--listen", f"unix:{stream}", "--listen", f"unixgram:{datagram}"),
    )
    tcp, udp = server.ports(2)
    server.wait_for("Server start at path: ", 2)
    before = [path.stat().st_ino for path in (stream, datagram)]
    taken = {
        f"tcp:{tcp}:{LOOPBACK}": f"127.0.0.1, port {tcp}",
        f"udp:{udp}:{LOOPBACK}": f"127.0.0.1, port {udp}",
        f"unix:{stream}": str(stream),
        f"unixgram:{datagram}": str(datagram),
    }
    done = _check(installed, tmp_path, *(f"--listen={one}" for one in taken), "--listen", f"tcp:0:{LOOPBACK}")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, free = done.stdout.splitlines()
    why = "Address already in use, by a running greetsvc or another program"
    assert lines == [f"--listen {one}: cannot listen on {at}: {why}; it {SAYS}" for one, at in taken.items()]
    assert free.startswith("tcp port: ")
    assert before == [path.stat().st_ino for path in (stream, datagram)]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(stream))
        assert peer.recv(100) == b"Thank you for connecting\r\n"
    server.stop()


@pytest.mark.parametrize("kind", ["unix", "unixgram"])
@pytest.mark.parametrize("held", [True, False])
def test_the_file_of_a_socket_is_left_alone(installed: Installed, tmp_path: Path, kind: str, held: bool) -> None:
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "unix" else socket.SOCK_DGRAM) as other:
        other.bind(str(path))  # and does not listen yet
        before = path.stat()
        if not held:
            other.close()
        done = _check(installed, tmp_path, "--listen", f"{kind}:{path}")
        assert (done.returncode, done.stderr) == (0, "")
        why = (
            "Address already in use, by a running greetsvc or another program"
            if held
            else "a socket file that no process holds is there, and a start replaces it"
        )
        assert done.stdout == f"--listen {kind}:{path}: cannot listen on {path}: {why}; it {SAYS}\n"
        assert (path.stat().st_ino, path.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


@pytest.mark.parametrize(
    "listen",
    [
        ("tcp:{port}", "tcp:{port}"),
        ("tcp:{port}", "tcp:{port}:interface=127.0.0.1"),
        ("udp:{port}:interface=127.0.0.1", "udp:{port}"),
        ("unix:{dir}/x", "unix:{dir}/x"),
        ("unixgram:{dir}/x", "unixgram:{dir}/x"),
    ],
)
def test_two_listeners_on_one_place_are_an_error(
    installed: Installed, tmp_path: Path, listen: tuple[str, ...]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--listen={one.format(port=port, dir=tmp_path)}" for one in listen]
    done = _check(installed, tmp_path, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Address already in use" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_each_line_tells_a_listener_apart(installed: Installed, tmp_path: Path) -> None:
    options = (
        *("tcp:0", f"tcp:0:{LOOPBACK}", "udp:0", "proxy:tcp:0:interface=127.0.0.2", f"unix:{tmp_path}/a"),
        *(f"proxy:unix:{tmp_path}/b",),
    )
    done = _check(installed, tmp_path, *(f"--listen={one}" for one in options))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.removesuffix(f" {SAYS}") for line in done.stdout.splitlines()]
    told = [" ".join(word for word in line.split() if not word.isdigit()) for line in lines]
    assert told == [
        "tcp port: (0.0.0.0)",
        "tcp port: (127.0.0.1)",
        "udp port: (0.0.0.0)",
        "proxy:tcp port: (127.0.0.2)",
        f"unix path: {tmp_path}/a",
        f"proxy:unix path: {tmp_path}/b",
    ]


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
]


@pytest.mark.parametrize("variables", ASCII, ids=",".join)
def test_where_standard_output_is_ascii_text_is_escaped(
    installed: Installed, tmp_path: Path, variables: dict[str, str]
) -> None:
    (tmp_path / "x.toml").write_text(f"greeting = 'Grüße 👋'\n[[listen]]\nendpoint = 'tcp:0:{LOOPBACK}'\n", "utf-8")
    done = _check(installed, tmp_path, "--config", "x.toml", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(r"(127.0.0.1) says text:Gr\xfc\xdfe \U0001f44b" + "\n")
    (tmp_path / "wrong.toml").write_text("greeting = '{Größe}'", "utf-8")
    done = _check(installed, tmp_path, "--config", "wrong.toml", **variables)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert r"{Gr\xf6\xdfe} is not a field" in done.stderr


@pytest.mark.parametrize("program", [("greetsvc",), ("twist", "--log-format", "text", "greetsvc")])
@pytest.mark.parametrize("form", ["text", "json"])
def test_log_lines_that_ascii_cannot_write_are_escaped(
    installed: Installed, tmp_path: Path, program: tuple[str, ...], form: str
) -> None:
    if form == "json" and program[0] == "twist":
        pytest.skip("twist has its own JSON")
    command = (*program, "--log-format", form, "--listen", "unix:Grüße.sock")
    server = installed.start(tmp_path, *command, PYTHONIOENCODING="ascii")
    # JSON is ASCII by itself.
    expected = r"Gr\xfc\xdfe.sock" if form == "text" else r"Gr\u00fc\u00dfe.sock"
    server.wait_for(f"Server start at path: {tmp_path}/{expected}")
    with socket.socket(socket.AF_UNIX) as peer, socket.socket(socket.AF_UNIX) as unnamed:
        peer.bind(str(tmp_path / "ß"))
        for one in (peer, unnamed):
            one.settimeout(10)
            one.connect(str(tmp_path / "Grüße.sock"))
            assert one.recv(100)
    server.wait_for("Got a connection from", 2)
    server.stop()
    assert "Traceback" not in server.said()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder of certificates: one has expired, one is not valid yet, one is good."""
    folder = tmp_path / "tls"
    folder.mkdir()
    for name, starts, days in (("old", -20, -10), ("DEFAULT", -1, 30), ("new", 10, 20)):
        made = issue(f"{name}.example", f"{name}.example", starts=starts, days=days)
        (folder / f"{name}.pem").write_bytes(made.both_pem)
    return folder


def test_certificates_that_have_expired_are_told_by_the_check_and_at_the_start(
    installed: Installed, tmp_path: Path, certificates: Path
) -> None:
    options = ("--listen", f"tls:{certificates}:port=0:{LOOPBACK}")
    done = _check(installed, tmp_path, *options)
    assert (done.returncode, done.stderr) == (0, "")
    _listener, new, old = done.stdout.splitlines()
    assert old.startswith(f"{certificates}/old.pem: the certificate of CN=old.example expired on ")
    assert new.startswith(f"{certificates}/new.pem: the certificate of CN=new.example is valid from ")
    server = installed.twistd(tmp_path, *options)
    server.wait_for(old)
    server.wait_for(new)
    server.stop()


def test_the_certificate_of_ssl_its_chain_and_the_client_authority_are_looked_at(
    installed: Installed, tmp_path: Path
) -> None:
    old = [issue(name, starts=-20, days=-10, authority=name != "leaf") for name in ("leaf", "chain", "clients")]
    (tmp_path / "leaf.pem").write_bytes(old[0].both_pem)
    (tmp_path / "chain.pem").write_bytes(old[1].pem)
    (tmp_path / "clients.pem").write_bytes(old[2].pem)
    listen = f"ssl:0:privateKey=leaf.pem:extraCertChain=chain.pem:{LOOPBACK}"
    done = _check(installed, tmp_path, "--listen", listen, "--client-ca", "clients.pem")
    assert (done.returncode, done.stderr) == (0, "")
    told = [line.partition(" expired on ")[0] for line in done.stdout.splitlines()[1:]]
    assert told == [f"{name}.pem: the certificate of CN={name}" for name in ("leaf", "chain", "clients")]


@pytest.mark.parametrize("number", ["100000", "9999999"])
def test_more_connections_than_files_are_told(installed: Installed, tmp_path: Path, number: str) -> None:
    command = ["sh", "-c", 'ulimit -n 256 && exec "$0" "$@"', *installed.command("greetsvc")]
    options = ("--check", "--listen", f"tcp:0:{LOOPBACK}", "--max-connections", number)
    import subprocess

    done: Any = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env=installed.environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    warning = done.stdout.splitlines()[1]
    assert warning.startswith(f"max-connections: {number} is more than the 2")
    assert warning.endswith(" files that may still be opened")


GREETERS = '''
class Text:
    """Returns text."""
    needs = frozenset()
    def __init__(self, argument, encoding):
        pass
    def greet(self, visit):
        return "hello"

class Raising(Text):
    """Raises."""
    def greet(self, visit):
        raise LookupError("no visit like that")

class Wanting(Text):
    """Wants what no visit has."""
    needs = frozenset({"peer_host"})
'''


@pytest.fixture
def greeters(tmp_path: Path) -> str:
    """A folder of greeters that do not work, as a path for Python."""
    folder = tmp_path / "installed"
    info = folder / "acme_bad-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-bad\nVersion: 1.0\n")
    points = (
        "text = acme_bad:Text",
        "says-text = acme_bad:Text",
        "raises = acme_bad:Raising",
        "wants = acme_bad:Wanting",
    )
    (info / "entry_points.txt").write_text("\n".join(["[greetsvc.greeters]", *points]))
    (folder / "acme_bad.py").write_text(GREETERS)
    return str(folder)


@pytest.mark.parametrize("check", [("--check",), ()])
@pytest.mark.parametrize(
    ("greeter", "says"),
    [
        ("says-text", "the greeter 'says-text' returned 'hello', not bytes"),
        ("wants", "the greeter 'wants' needs 'peer_host'; a visit has transport, "),
        ("text:hello", "the greeter 'text' is in several distributions, of which one may stay: "),
    ],
)
def test_a_greeter_that_cannot_work_is_one_line(
    installed: Installed, tmp_path: Path, greeters: str, greeter: str, says: str, check: tuple[str, ...]
) -> None:
    options = (*check, "--greeter", greeter, "--listen", f"tcp:0:{LOOPBACK}")
    done = installed.run(tmp_path, "greetsvc", *options, PYTHONPATH=greeters)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert says in done.stderr
    if "several" in says:
        assert "acme-bad (acme_bad:Text)" in done.stderr
        assert "greetsvc (greetsvc.greeters.text:" in done.stderr


def test_a_greeter_that_raises_for_a_made_up_visit_is_a_warning(
    installed: Installed, tmp_path: Path, greeters: str
) -> None:
    done = _check(installed, tmp_path, "--greeter", "raises", "--listen", f"tcp:0:{LOOPBACK}", PYTHONPATH=greeters)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == (
        f"--listen tcp:0:{LOOPBACK}: the greeter failed for a made-up visit: no visit like that"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--client-ca", "ca.pem"), "client-ca has no effect: there is no TLS listener"),
        (("--admin-host", "x.example"), "admin-host has no effect: there is no admin site (--admin)"),
    ],
)
def test_a_setting_that_does_nothing_is_told(
    installed: Installed, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    (tmp_path / "ca.pem").write_bytes(issue("ca.example", "ca.example").pem)
    done = _check(installed, tmp_path, "--listen", f"tcp:0:{LOOPBACK}", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(told)
