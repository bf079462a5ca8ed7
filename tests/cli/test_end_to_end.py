"""Programs against each other: a tutorial's blocking client and server, ``greet`` and ``twistd``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from greetsvc.client.talk.protocols import PROTOCOLS

if TYPE_CHECKING:
    from tests.support.installed import Installed

LOOPBACK = "interface=127.0.0.1"


def test_the_blocking_client_gets_its_greeting(installed: Installed, tmp_path: Path, tutorial: Path) -> None:
    server = installed.twistd(tmp_path, "--listen", f"tcp:0:{LOOPBACK}", fresh=True)
    port = server.ports()[0]
    done = installed.run(tmp_path, "python", "-I", str(tutorial / "client.py"), "127.0.0.1", str(port))
    assert (done.returncode, done.stdout, done.stderr) == (0, "Thank you for connecting\n", "")


def test_greet_is_greeted_by_the_blocking_server(installed: Installed, tmp_path: Path, tutorial: Path) -> None:
    server = installed.start(tmp_path, "python", "-I", str(tutorial / "server.py"))
    target = f"127.0.0.1:{server.ports()[0]}"
    done = installed.run(tmp_path, "greet", target, fresh=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Thank you for connecting\n", "")
    probe = json.loads(installed.run(tmp_path, "greet", "--json", target).stdout)
    assert (probe["ok"], probe["greeting"], probe["closed"]) == (True, "Thank you for connecting", "fin")


def test_greet_is_greeted_by_twistd_over_every_transport(installed: Installed, tmp_path: Path) -> None:
    paths = [tmp_path / "greet", tmp_path / "greet-dgram"]
    listeners = [f"tcp:0:{LOOPBACK}", f"udp:0:{LOOPBACK}", f"unix:{paths[0]}", f"unixgram:{paths[1]}"]
    server = installed.twistd(tmp_path, *(word for one in listeners for word in ("--listen", one)))
    tcp, udp = server.ports(2)
    server.wait_for("Server start at path: ", 2)
    for target in (f"tcp:127.0.0.1:{tcp}", f"udp:127.0.0.1:{udp}", f"unix:{paths[0]}", f"unixgram:{paths[1]}"):
        done = installed.run(tmp_path, "greet", target)
        assert (done.returncode, done.stdout, done.stderr) == (0, "Thank you for connecting\n", ""), target


def test_runs_over_udp_know_both_directions(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "greetsvc.toml").write_text(
        f'[[listen]]\nendpoint = "udp:0:{LOOPBACK}"\n[[listen]]\nendpoint = "udp:0:{LOOPBACK}"\ngreeter = "path"\n'
    )
    server = installed.twistd(tmp_path, "--config", "greetsvc.toml")
    text, path = (f"udp:127.0.0.1:{port}" for port in server.ports(2))
    for target, *options in ((text, "-c", "4"), (text, "--flows", "2", "-c", "3"), (path, "-c", "4")):
        done = installed.run(tmp_path, "greet", "--json", "-i", "0", *options, target)
        *probes, last = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(probe["ok"] and ("path" in probe) == (target == path) for probe in probes)
        there, back = (last["summary"]["direction"][way] for way in ("there", "back"))
        # All probes but the first of a series, and the request at its end.
        assert there["sent"] == back["sent"] == len(probes)
        assert [way[key] for way in (there, back) for key in ("lost", "duplicated", "reordered")] == [0] * 6
        assert all(flow["direction"]["there"]["sent"] == 3 for flow in last["summary"].get("flows", []))


def test_greet_names_the_step_that_failed(installed: Installed, tmp_path: Path) -> None:
    server = installed.twistd(tmp_path, "--listen", f"tcp:0:{LOOPBACK}")
    target = f"tcp:127.0.0.1:{server.ports()[0]}"
    server.stop()
    done = installed.run(tmp_path, "greet", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == f"greet: {target}: connect: Connection refused"


def test_greet_talks_with_twistd_holds_a_connection_and_loads_it(installed: Installed, tmp_path: Path) -> None:
    listen = "\n[[listen]]\nendpoint = 'unix:{0}'\nprotocol = '{0}'\ngreeting = 'Hello, {{name}}'\n"
    (tmp_path / "talk.toml").write_text("".join(map(listen.format, PROTOCOLS)))
    server = installed.twistd(tmp_path, "--config", "talk.toml")
    server.wait_for("Server start at path: ", len(PROTOCOLS))
    for protocol in PROTOCOLS:
        target = f"unix:{tmp_path / protocol}"
        done = installed.run(tmp_path, "greet", "--talk", protocol, "--say", "Ada", "--say", "名前", target)
        assert (done.returncode, done.stderr) == (0, "")
        assert [line[:9] for line in done.stdout.splitlines()[1:4]] == ["Hello, Ad", "Hello, 名前", ""]
    target = f"unix:{tmp_path / 'lines'}"
    done = installed.run(tmp_path, "greet", "--hold", "0.1", "--json", target)
    assert (done.returncode, done.stderr) == (0, "")
    hold = json.loads(done.stdout)["hold"]
    assert (hold["survived"], hold["closed"], hold["limit"]) == (True, None, None)
    load = ("--talk", "lines", "--duration", "0.2", "--concurrency", "2", "--json")
    done = installed.run(tmp_path, "greet", *load, target)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert (summary["lost"], summary["connections"]["opened"]) == (0, 2)
