"""Endpoint strings: what they describe, and in one line what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.net.endpoint import Endpoint, parse_endpoint, port_number, split_endpoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:8088", {"kind": "tcp", "transport": "tcp", "host": "", "port": 8088}),
        ("tcp:port=0", {"kind": "tcp", "port": 0}),
        ("tcp:8088:127.0.0.1:5", {"host": "127.0.0.1", "backlog": 5}),
        (r"tcp:8088:interface=\:\:", {"host": "::", "port": 8088}),
        ("tcp:65535:interface=localhost:backlog=1", {"host": "localhost", "port": 65535, "backlog": 1}),
        ("tcp6:8088", {"kind": "tcp6", "transport": "tcp", "host": "::", "port": 8088}),
        (r"tcp6:1:2:interface=\:\:1", {"host": "::1", "port": 1, "backlog": 2}),
        ("tls:/etc/tls", {"transport": "tls", "host": "::", "port": 443}),
        ("tls:/etc/tls:8443", {"port": 8443}),
        ("tls:path=/etc/tls:port=8443:interface=", {"transport": "tls", "host": "", "port": 8443}),
        ("ssl:443:privateKey=k.pem", {"kind": "ssl", "transport": "tls", "host": "", "port": 443}),
        ("udp:8088", {"transport": "udp", "host": "", "port": 8088, "is_datagram": True}),
        (r"udp:8088:\:\:1", {"host": "::1"}),
        ("unix:/run/x", {"transport": "unix", "path": "/run/x", "mode": 0o666, "host": None, "port": None}),
        ("unix:/run/x:660:7", {"mode": 0o660, "backlog": 7}),
        ("unix:address=/run/x:mode=600:lockfile=0", {"mode": 0o600, "is_datagram": False}),
        (r"unix:/run/a\:b", {"path": "/run/a:b"}),
        ("unixgram:/run/x:mode=0", {"transport": "unixgram", "mode": 0, "is_datagram": True}),
        ("inherited:web", {"transport": "inherited", "inherited": "web", "port": None, "is_datagram": False}),
        ("inherited:0", {"kind": "inherited", "inherited": 0}),
        (r"inherited:a\:b", {"inherited": "a:b"}),
        ("tls:/etc/tls:inherited=web", {"transport": "tls", "inherited": "web", "host": None, "port": None}),
        ("systemd:domain=INET:index=0", {"kind": "systemd", "transport": "tcp", "host": None, "inherited": 0}),
        ("systemd:INET6:name=greet", {"kind": "systemd", "transport": "tcp", "path": None, "inherited": "greet"}),
        ("systemd:domain=UNIX:index=12", {"kind": "systemd", "transport": "unix", "path": None, "inherited": 12}),
        ("onion:anything=goes:1:2", {"kind": "onion", "transport": "onion"}),
    ],
)
def test_each_kind_is_parsed(text: str, expected: dict[str, Any]) -> None:
    endpoint = parse_endpoint(text)
    assert {name: getattr(endpoint, name) for name in expected} == expected
    assert endpoint.text == text
    assert not endpoint.proxied


@pytest.mark.parametrize("prefix", ["proxy:", "haproxy:"])
def test_proxy_goes_in_front_of_a_stream_endpoint(prefix: str) -> None:
    endpoint = parse_endpoint(f"{prefix}tls:/etc/tls:port=1")
    assert endpoint.proxied
    assert endpoint.text == "tls:/etc/tls:port=1"
    assert endpoint.transport == "tls"


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("tcp:8088", 8088),
        ("udp:8088", 8088),
        ("tcp:8088:interface=127.0.0.1", 8088),
        ("tcp:0", None),
        (r"tcp:8088:interface=\:\:", None),
        ("tcp6:8088", None),
        ("tls:/x:port=8443", None),
        ("unix:/x", None),
        ("systemd:domain=INET:index=0", None),
    ],
)
def test_only_a_fixed_ipv4_port_makes_ipv6_on_it_v6only(text: str, port: int | None) -> None:
    assert parse_endpoint(text).ipv4_port == port


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_endpoint("unix:greet.sock").path == str(tmp_path / "greet.sock")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "KIND:ARGUMENTS"),
        (":", "KIND:ARGUMENTS"),
        ("8088", "'8088'"),
        ("=tcp", "KIND:ARGUMENTS"),
        ("127.0.0.1:8088", "'127.0.0.1:8088'"),
        ("tcp", "''"),
        ("tcp:", "''"),
        ("tcp:http", "'http'"),
        ("tcp:65536", "'65536'"),
        ("tcp:-1", "'-1'"),
        ("tcp:+1", "'+1'"),
        ("tcp: 1", "' 1'"),
        ("tcp:1\n", "'1\\n'"),
        ("tcp:٣", "'٣'"),
        ("tcp:1_0", "'1_0'"),
        ("tcp:000080", "'000080'"),
        ("tcp:1:port=2", "port is given twice, '1' and '2'"),
        ("tcp:1:interface=127.0.0.1:interface=", "interface is given twice, '127.0.0.1' and ''"),
        ("udp:port=1:port=1", "port is given twice, '1' and '1'"),
        ("unix:/tmp/x:mode=660:mode=600", "mode is given twice, '660' and '600'"),
        ("later:option=1:option=2", "later: option is given twice, '1' and '2'"),
        ("\v:a\n=1:a\n=2", r"\x0b: a\n is given twice, '1' and '2'"),
        ("tcp:1:a:2:b", "'b'"),
        ("tcp:1:color=red", "'color'"),
        ("tcp:1:backlog=0", "'0'"),
        ("tcp:1:backlog=many", "'many'"),
        ("tcp:1:backlog=", "''"),
        ("tcp:[::1]:80", "\\:"),
        ("tcp:8088\\", "backslash"),
        ("tcp6", "''"),
        ("udp", "''"),
        ("udp:1:backlog=5", "'backlog'"),
        ("tls:", "folder"),
        ("tls:port=1", "folder"),
        ("tls:/x:port=x", "'x'"),
        ("ssl:", "''"),
        ("ssl:1:sslmethod=TLSv1_METHOD", "sslmethod cannot be chosen: 'TLSv1_METHOD'"),
        ("ssl:1:k.pem:c.pem:SSLv3_METHOD", "sslmethod cannot be chosen: 'SSLv3_METHOD'"),
        ("ssl:1:dhParameters=dh.pem", "dhParameters cannot be chosen: 'dh.pem'"),
        ("unix", "path"),
        ("unix:", "path"),
        ("unix:/x:mode=888", "'888'"),
        ("unix:/x:mode=1777", "'1777'"),
        ("unix:/x:mode=rw", "'rw'"),
        ("unix:/x\0y", "NUL"),
        ("unixgram:", "path"),
        ("unixgram:/x:660:5", "'5'"),
        ("stdio:", "stdio"),
        ("proxy:", "KIND"),
        ("proxy:udp:1", "'udp:1'"),
        ("proxy:proxy:tcp:1", "'proxy:tcp:1'"),
        ("haproxy:unixgram:/x", "'unixgram:/x'"),
        ("proxy:stdio:", "stdio"),
        ("proxy:" * 500 + "tcp:1", "'proxy:proxy:"),
        ("haproxy:proxy:" * 5000, "must be followed"),
        ("proxy:PROXY:tcp:1", "written 'proxy', not 'PROXY'"),
        ("TCP:8089", "written 'tcp', not 'TCP'"),
        ("Udp:8089", "written 'udp', not 'Udp'"),
        ("UnixGram:/x", "written 'unixgram', not 'UnixGram'"),
        ("TLS:/etc/tls:port=1", "written 'tls', not 'TLS'"),
        ("SSL:1", "written 'ssl', not 'SSL'"),
        ("HAProxy:tcp:1", "written 'haproxy', not 'HAProxy'"),
        ("STDIO:", "written 'stdio', not 'STDIO'"),
        ("Systemd:domain=INET:index=0", "written 'systemd', not 'Systemd'"),
        ("inherited:", "needs the name or the index"),
        ("inherited:web:8088", "too many arguments: '8088'"),
        ("tls:/x:inherited=", "needs the name or the index"),
        ("tls:/x:8443:inherited=web", "port '8443' belongs to the inherited socket"),
        ("systemd:", "one of INET, INET6, UNIX, not ''"),
        ("systemd:domain=INET7:index=0", "'INET7'"),
        ("systemd:domain=inet:index=0", "'inet'"),
        ("systemd:domain=INET", "either index or name"),
        ("systemd:domain=UNIX:index=0:name=x", "either index or name"),
        ("systemd:domain=INET:index=-1", "'-1'"),
        ("systemd:domain=INET:index=first", "'first'"),
        ("systemd:domain=INET:fd=3", "'fd'"),
    ],
)
def test_an_invalid_endpoint_is_refused_in_one_line_with_the_value(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_endpoint(text)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("80", 80), ("00080", 80), ("65535", 65535)])
def test_ports_are_numbers_from_0_to_65535(text: str, number: int) -> None:
    assert port_number(text) == number


def test_a_backslash_takes_the_next_character_literally() -> None:
    assert split_endpoint(r"a:b\:c:d=e\=f\\:g=h=i") == (["a", "b:c"], {"d": "e=f\\", "g": "h=i"})


_KINDS = st.sampled_from(
    ["tcp:", "tcp6:", "tls:", "ssl:", "udp:", "unix:", "unixgram:", "proxy:", "haproxy:", "stdio:", "systemd:", ""]
)
_PIECES = st.sampled_from(
    ["1", "80", "99999", ":", "=", "\\", "port", "interface", "backlog", "mode", "address", "660", "::1", "/x", " "]
)


@given(_KINDS, st.one_of(st.text(), st.lists(_PIECES, max_size=8).map("".join)))
def test_any_text_is_an_endpoint_or_a_one_line_error(kind: str, rest: str) -> None:
    try:
        endpoint = parse_endpoint(kind + rest)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert isinstance(endpoint, Endpoint)
    assert endpoint.port is None or 0 <= endpoint.port <= 65535
    assert 0 <= endpoint.mode <= 0o777
    assert endpoint.backlog is None or endpoint.backlog > 0
    assert endpoint.path is None or Path(endpoint.path).is_absolute()


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_value_can_be_written_with_backslashes(values: list[str]) -> None:
    def quoted(value: str) -> str:
        return "".join(f"\\{character}" if character in ":=\\" else character for character in value)

    assert split_endpoint(":".join(quoted(value) for value in values)) == (values, {})


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("unix:/run/a", "unix:/run/a", True),
        ("unix:/run/a", "unixgram:/run/a", True),
        ("unixgram:/run/a", "unixgram:/run/a", True),
        ("unix:/run/a", "unix:/run/b", False),
        ("unix:/run/a", "tcp:8088", False),
        ("tcp:8088", "unix:/run/a", False),
        ("tcp:8088", "udp:8088", False),
        ("tcp:0", "tcp:0", False),
        ("tcp:8088", "tcp:8088:interface=127.0.0.1", True),
        ("tcp:8088:interface=127.0.0.1", "tcp:8088:interface=127.0.0.2", False),
        (r"tcp:8088:interface=\:\:", "tcp:8088", False),
        (r"tcp:8088:interface=\:\:", r"tcp:8088:interface=\:\:1", True),
    ],
)
def test_which_cannot_be_bound_at_the_same_time(one: str, other: str, overlap: bool) -> None:
    assert parse_endpoint(one).overlaps(parse_endpoint(other)) == overlap
