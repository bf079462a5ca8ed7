"""The options of a probe: what is accepted, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from greetsvc.client.options import ProbeOptions, ProxyClaim, parse_proxy_claim
from greetsvc.client.probe.probe import Probe
from greetsvc.client.target import parse
from greetsvc.errors import ConfigError
from greetsvc.net.proxy.header import ProxyParser
from greetsvc.visit import Address

HERE = Address("127.0.0.1", 8088)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("192.0.2.1:1234", Address("192.0.2.1", 1234)),
        ("[2001:db8::1]:0", Address("2001:db8::1", 0)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
    ],
)
def test_a_claim_names_an_address_and_a_port(text: str, source: Address) -> None:
    assert parse_proxy_claim(1, text) == ProxyClaim(1, source)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "192.0.2.1:",
        ":1",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:x",
        "192.0.2.1:٣",
        "2001:db8::1:1",
        "[192.0.2.1]:1",
        "[fe80::1%1]:1",
        "host:1",
        "a\nb:1",
    ],
)
def test_a_wrong_claim_is_named_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="must be ADDRESS:PORT, such as ") as caught:
        parse_proxy_claim(2, text)
    assert caught.value.name == "proxy-v2"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("source", "destination", "named"),
    [
        (Address("192.0.2.1", 7), HERE, ("192.0.2.1", 7, "127.0.0.1", 8088)),
        (Address("2001:db8::1", 7), Address("fe80::2%3", 9), ("2001:db8::1", 7, "fe80::2", 9)),
        (Address("192.0.2.1", 7), Address("/s", 0), ("192.0.2.1", 7, "0.0.0.0", 0)),
        (Address("2001:db8::1", 7), Address("/s", 0), ("2001:db8::1", 7, "::", 0)),
    ],
)
def test_a_server_can_read_the_header(version: Any, source: Address, destination: Address, named: Any) -> None:
    found: Any = ProxyParser().feed(ProxyClaim(version, source).header(destination))
    assert found[1] == b""
    ends = found[0].source, found[0].destination
    assert (ends[0].host, ends[0].port, ends[1].host, ends[1].port) == named


@pytest.mark.parametrize(
    ("name", "setting"),
    [("dscp", {"dscp": 64}), ("dscp", {"dscp": -1}), ("source-port", {"source_port": 0})],
)
def test_an_option_out_of_range_is_refused(name: str, setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        ProbeOptions(**setting)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        ("unix:/s", ProbeOptions(dscp=1), "dscp 1: needs an IP target, not unix:/s"),
        ("unixgram:/s", ProbeOptions(source_port=9), "source-port 9: needs an IP target, not unixgram:/s"),
        (
            "udp:h:1",
            ProbeOptions(proxy=ProxyClaim(2, HERE)),
            "proxy-v2 127.0.0.1:8088: needs a stream target, not udp:h:1",
        ),
    ],
)
def test_options_that_do_not_suit_the_target_are_refused(target: str, options: ProbeOptions, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Probe(parse(target), options)
    assert str(caught.value) == line


def test_options_are_checked_once_and_not_again_by_each_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[str] = []
    monkeypatch.setattr("greetsvc.client.options._check_encoding", checks.append)
    probe = Probe(parse("127.0.0.1:1"), ProbeOptions(source_port=9))
    assert checks == ["utf-8"]
    first = Deferred.fromCoroutine(probe.run())
    first.addErrback(lambda failure: failure.trap(CancelledError))
    first.cancel()
    assert checks == ["utf-8"]
