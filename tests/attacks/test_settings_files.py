"""Settings, and files beside the service, that were made to do harm."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import issue

if TYPE_CHECKING:
    from tests.support.installed import Installed

LOOPBACK = "interface=127.0.0.1"


@pytest.mark.parametrize("options", [("--check",), ()])
@pytest.mark.parametrize("name", ["{dir}/x", "x"])
def test_the_socket_of_a_program_that_does_not_listen_yet_is_not_removed(
    installed: Installed, tmp_path: Path, options: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as starting, socket.socket(socket.AF_UNIX) as client:
        starting.bind(name.format(dir=tmp_path))
        done = installed.run(tmp_path, "greetsvc", *options, "--listen", f"unix:{tmp_path}/x")
        assert done.returncode == (0 if options else 1)
        assert "Address already in use" in done.stdout + done.stderr
        starting.listen()
        client.connect(str(tmp_path / "x"))


@pytest.mark.parametrize(
    "content",
    [
        "".join(f"a.b{number} = 1\n" for number in range(200_000)),
        ".".join("a" * 30_000) + " = 1",
        "[" + ".".join(["'a'"] * 10_000) + "]",
        f"listen = ['{'proxy:' * 500}tcp:0']",
        "listen = " + "[" * 60_000,
        f"{'x' * 60_000} = 1",
        f"greeting = '{{{'x' * 60_000}}}'",
    ],
    ids=["keys", "parts", "header", "proxies", "arrays", "name", "value"],
)
def test_a_settings_file_that_is_made_to_do_harm_is_one_short_line(
    installed: Installed, tmp_path: Path, content: str
) -> None:
    (tmp_path / "x.toml").write_text(content)
    done = installed.run(tmp_path, "greetsvc", "--config", "x.toml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "x.toml" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) <= 811


@pytest.mark.parametrize(
    "option", ["--frobnicate{}", "--listen={}", "--listen=tcp:{}", "--encoding={}", "--config={}"]
)
def test_an_option_of_any_length_is_one_short_line(installed: Installed, tmp_path: Path, option: str) -> None:
    done = installed.run(tmp_path, "greetsvc", option.format("9" * 100_000))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert len(done.stderr) <= 811


@pytest.mark.parametrize("argument", ["text:", "text:hello", "daytime"])
def test_a_greeter_does_not_replace_another_of_its_name(installed: Installed, tmp_path: Path, argument: str) -> None:
    info = tmp_path / "other" / "evil-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[greetsvc.greeters]\ntext = evil:Greeter\ndaytime = evil:Greeter\n")
    (tmp_path / "other" / "evil.py").write_text("raise SystemExit('it was imported')\n")
    command = ("greetsvc", "--listen", f"tcp:0:{LOOPBACK}", "--greeter", argument)
    done = installed.run(tmp_path, *command, PYTHONPATH=str(tmp_path / "other"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "in several distributions" in done.stderr
    assert "evil (evil:Greeter)" in done.stderr
    assert "greetsvc (greetsvc.greeters." in done.stderr


@pytest.mark.parametrize(
    ("networks", "greeted"),
    [
        (("::ffff:127.0.0.0/104",), True),
        (("::ffff:127.0.0.1",), True),
        (("::ffff:0:0/96",), True),
        (("::ffff:192.0.2.0/120", "::1"), False),
    ],
)
def test_networks_of_ipv4_written_as_ipv6_are_trusted(
    child: Any, visitor: Any, networks: tuple[str, ...], greeted: bool
) -> None:
    trusted = [f"--trust-proxy={network}" for network in networks]
    server = child("--listen", f"proxy:tcp:0:{LOOPBACK}", *trusted, "--greeting", "hello {peer_host}")
    header = b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n"
    said = visitor.visit(server.ports()[0], said=header)
    assert said == (b"hello 192.0.2.7" if greeted else b"")
    if not greeted:
        server.wait_for(": proxy-untrusted (proxy:tcp)")
    assert server.stop() == 0


@pytest.mark.parametrize("kind", ["TLS", "Tls", "tlS"])
def test_a_kind_in_capitals_is_no_way_around_client_certificates(
    installed: Installed, tmp_path: Path, kind: str
) -> None:
    made = issue("localhost", "localhost")
    (tmp_path / "DEFAULT.pem").write_bytes(made.both_pem)
    options = ("--client-ca", "DEFAULT.pem", "--listen")
    done = installed.run(tmp_path, "greetsvc", *options, f"{kind}:{tmp_path}:port=0:{LOOPBACK}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"must be written 'tls', not '{kind}'" in done.stderr
    server = installed.twistd(tmp_path, *options, f"tls:{tmp_path}:port=0:{LOOPBACK}")
    (port,) = server.ports()
    context = ssl.create_default_context(cadata=made.pem.decode())
    with (
        socket.create_connection(("127.0.0.1", port), 10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as peer,
        pytest.raises(ssl.SSLError),
    ):
        peer.recv(100)
    server.stop()
