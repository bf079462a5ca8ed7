"""*Find out where packets are lost*: each fault, set in a network of two routers, is told as the page shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.lab.conftest import BIN
from tests.support.documents import ROOT, blocks, shows

if TYPE_CHECKING:
    from tests.lab.conftest import Network

FAULTS = {
    "-c": (1, "udp sport 8088 numgen inc mod 9 == 4 drop"),
    "-t": (2, "tcp dport 8088 drop"),
    "--flows": (1, "tcp sport 40113 drop"),
    "--mtu": (1, "meta length > 1400 drop"),
    "10.0.3.2": (1, "tcp flags syn / syn,ack numgen inc mod 2 == 0 drop"),
}
"""The router and its rule (nftables), by the first word of the first command."""


def test_each_fault_is_told_as_the_page_shows(network: Callable[[int], Network]) -> None:
    lab = network(2)
    settings, *shown = blocks(ROOT / "docs" / "lost-packets.md")
    (lab.server.folder / "greetsvc.toml").write_text(settings.text)
    lab.server.twistd("--config", "greetsvc.toml", listeners=2)
    for block in shown:
        commands = list(block.commands())
        node, rule = FAULTS[commands[0][0].split()[1]]
        table = f"table ip fault {{\n chain c {{\n type filter hook forward priority -150;\n {rule}\n }}\n}}\n"
        done = lab.nodes[node].run("nft", "-f", "-", given=table.encode())
        assert done.returncode == 0, done.stderr.decode()
        for command, output in commands:
            said = lab.client.run("sh", "-c", f"{{ {BIN}/{command}; }} 2>&1")
            assert shows(output, said.stdout.decode()), f"$ {command}\n{said.stdout.decode()}"
            if "-c" in command:
                there, back = re.findall(r"^(?:there|back): .*?, (\d+) lost", said.stdout.decode(), re.MULTILINE)
                assert (int(there), int(back) > 10) == (0, True)
        lab.nodes[node].run("nft", "delete", "table", "ip", "fault")
