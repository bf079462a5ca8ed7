"""What targets mean, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.client.target import Target, parse


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1", Target("tcp", "127.0.0.1", 8088)),
        ("greet.example", Target("tcp", "greet.example", 8088)),
        ("greet.example:13", Target("tcp", "greet.example", 13)),
        ("greet_er.example.:13", Target("tcp", "greet_er.example.", 13)),
        ("münchen.example", Target("tcp", "xn--mnchen-3ya.example", 8088)),
        ("tcp:127.1:1", Target("tcp", "127.1", 1)),
        ("tcp", Target("tcp", "tcp", 8088)),
        ("udp:127.0.0.1", Target("udp", "127.0.0.1", 8088)),
        ("udp:localhost:65535", Target("udp", "localhost", 65535)),
        ("tls:localhost", Target("tls", "localhost", 8088)),
        ("::1", Target("tcp", "::1", 8088)),
        ("[::1]", Target("tcp", "::1", 8088)),
        ("[::1]:7", Target("tcp", "::1", 7)),
        ("udp:::1", Target("udp", "::1", 8088)),
        ("udp:[fe80::1%eth0]:7", Target("udp", "fe80::1%eth0", 7)),
        ("::ffff:192.0.2.1", Target("tcp", "::ffff:192.0.2.1", 8088)),
        ("unix:/run/greet.sock", Target("unix", path="/run/greet.sock")),
        ("unix:a:b", Target("unix", path="a:b")),
        ("unixgram:rel/ative", Target("unixgram", path="rel/ative")),
    ],
)
def test_a_target_is_read(text: str, target: Target) -> None:
    assert parse(text) == target


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the host is missing"),
        ("tcp:", "the host is missing"),
        (":8088", "the host is missing"),
        *(
            (number, "a number is not a host, and this one is not a port from 1 to 65535")
            for number in ("0", "70000", "2130706433", "9" * 60)
        ),
        ("8088", "a port alone is not a target; write 127.0.0.1:8088"),
        ("²", "a port alone is not a target; write 127.0.0.1:2"),
        ("udp:8088", "a port alone is not a target; write 127.0.0.1:8088"),
        ("h:0", "port '0' is not a number from 1 to 65535"),
        ("h:65536", "port '65536' is not a number from 1 to 65535"),
        ("h:-1", "port '-1' is not a number from 1 to 65535"),
        ("h:+1", "port '+1' is not a number from 1 to 65535"),
        ("h:http", "port 'http' is not a number from 1 to 65535"),
        ("h:", "port '' is not a number from 1 to 65535"),
        ("h: 1", "port ' 1' is not a number from 1 to 65535"),
        ("h:\uff11", "port '\\uff11' is not a number from 1 to 65535"),
        ("[::1]:", "port '' is not a number from 1 to 65535"),
        ("[127.0.0.1]:1", "'127.0.0.1' is not an IPv6 address"),
        ("[::g]", "'::g' is not an IPv6 address"),
        ("[::1", "'[' is not a transport; use one of tcp udp tls unix unixgram"),
        ("sctp:h:1", "'sctp' is not a transport; use one of tcp udp tls unix unixgram"),
        ("fe80::1%a b", "'fe80' is not a transport; use one of tcp udp tls unix unixgram"),
        ("http://h", "port '//h' is not a number from 1 to 65535"),
        ("a b", "'a b' is not a host name"),
        ("a..b", "'a..b' is not a host name"),
        ("a/b", "'a/b' is not a host name"),
        ("a\n", "'a\\n' is not a host name"),
        ("x" * 64, f"'{'x' * 64}' is not a host name"),
        (".".join(["x" * 60] * 5), f"'{'.'.join(['x' * 60] * 5)}' is not a host name"),
        ("unix:", "the path is missing"),
        ("unix:a\0b", "a path cannot contain NUL"),
        ("unixgram:/" + "x" * 103, "the path has 104 bytes; the maximum is 103"),
        ("unix:\ud800", "the path cannot be written in this locale's encoding"),
    ],
)
def test_a_wrong_target_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="target ") as caught:
        parse(text)
    assert str(caught.value) == f"target {text!a}: {why}"
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_target_or_a_value_error_of_one_line(text: str) -> None:
    try:
        target = parse(text)
    except ValueError as error:
        line = str(error)
    else:
        line = str(target)
        assert parse(line) == target
    assert "\n" not in line or line.startswith("unix")


HOSTS = (
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
)


@given(st.sampled_from(["tcp", "udp", "tls"]), HOSTS, st.integers(1, 65535))
def test_the_full_spelling_reads_back(transport: str, host: str, port: int) -> None:
    target = Target(transport, host, port)  # type: ignore[arg-type]
    assert parse(str(target)) == target
    assert target.datagram is (transport == "udp")
    assert not target.local
