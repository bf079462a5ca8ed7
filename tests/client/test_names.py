"""Host names: their form in DNS, and which names of a certificate they match."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.client import ClientTls
from greetsvc.client.names import AlternativeNames, address_of, alternative_names, host_name, is_for
from greetsvc.client.target import parse


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("straße.t", "xn--strae-oqa.t"),
        ("faß.de", "xn--fa-hia.de"),
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("نامه‌ای.com", "xn--mgba3gch31f060k.com"),
        ("BÜCHER.t", "xn--bcher-kva.t"),
        ("bu\N{COMBINING DIAERESIS}cher.t", "xn--bcher-kva.t"),
        ("a.straße。t\N{FULLWIDTH FULL STOP}", "a.xn--strae-oqa.t."),
        ("_sip.straße.t", "_sip.xn--strae-oqa.t"),
        ("_straße.t", "xn--_strae-fta.t"),
        ("☃.net", "xn--n3h.net"),
        ("😀.ws", "xn--e28h.ws"),
        ("straße.☃", "xn--strae-oqa.xn--n3h"),
        ("\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}\N{FULLWIDTH DIGIT SEVEN}.0.0.1", "127.0.0.1"),
        ("my_host", "my_host"),
        ("xn--strae-oqa.t", "xn--strae-oqa.t"),
        ("Host.Example.", "Host.Example."),
        (f"{'a' * 63}.t", f"{'a' * 63}.t"),
    ],
)
def test_a_name_becomes_what_browsers_make_of_it(name: str, asked: str) -> None:
    assert host_name(name) == asked
    assert parse(f"udp:{name}:1").host == asked
    assert ClientTls(insecure=True, sni=name)._sni == asked


def test_a_label_that_uts46_refuses_follows_idna_2003() -> None:
    assert host_name("👨\N{ZERO WIDTH JOINER}👩.t") == host_name("👨👩.t")
    assert host_name("\N{ZERO WIDTH JOINER}a.straße") == "a.xn--strae-oqa"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "℀.t",
        "a" * 64,
        "ü" * 64,
        "ü" * 2000,
        f"{'a.' * 127}a",
        "1א.t",
        "\N{ZERO WIDTH JOINER}.t",
        "xn--ü.t",
        "…x",
        "\ud800.t",
        "a\0b",
    ],
)
def test_what_is_not_a_host_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        host_name(name)
    with pytest.raises(ValueError, match="target"):
        parse(f"tcp:{name}:1")
    with pytest.raises(ValueError, match="sni"):
        ClientTls(sni=name)


@given(
    st.text(
        st.sampled_from("a-.xnß\u200c\u200d\u3002\u0628\u05d01\u0301\u094d\U0003fffe\u0378\u2603\xad")
        | st.characters(),
        max_size=80,
    )
)
def test_any_text_becomes_a_name_for_dns_or_a_value_error(text: str) -> None:
    try:
        name = host_name(text)
    except ValueError:
        return
    assert name.isascii()
    assert host_name(name) == name
    assert all(0 < len(label) < 64 for label in name.removesuffix(".").split("."))


def names(*dns: str, ip: str = "") -> AlternativeNames:
    return AlternativeNames(dns, (ipaddress.ip_address(ip),) if ip else ())


@pytest.mark.parametrize(
    ("given_for", "host", "fits"),
    [
        (names("localhost"), "localhost", True),
        (names("*.localhost", "localhost"), "localhost", True),
        (names("*.localhost"), "a.localhost", False),
        (names("LocalHost"), "LOCALhost.", True),
        (names("*.example.com"), "a.example.com", True),
        (names("*.example.com"), "A.Example.com.", True),
        (names("*.example.com"), "xn--strae-oqa.example.com", True),
        (names("*.example.com"), "example.com", False),
        (names("*.example.com"), "a.b.example.com", False),
        (names("*.example.com"), ".example.com", False),
        (names("*"), "localhost", False),
        (names("*.com"), "example.com", False),
        (names("a*.example.com"), "ab.example.com", False),
        (names("a.*.com"), "a.b.com", False),
        (names("*.*.example.com"), "a.b.example.com", False),
        (names("*.example.com", "b.example.com"), "b.example.com", True),
        (names(" localhost"), "localhost", False),
        (names("localhost\0.evil"), "localhost", False),
        (names("my_host.example"), "my_host.example", True),
        (names("xn--strae-oqa.t"), "xn--strae-oqa.t", True),
        (names("strasse.t"), "xn--strae-oqa.t", False),
        (names("127.0.0.1"), "127.0.0.1", False),
        (names("localhost", ip="127.0.0.1"), "127.0.0.1", True),
        (names("localhost", ip="127.0.0.1"), "127.0.0.2", False),
        (names(ip="::1"), "::1", True),
        (names(ip="::1"), "0:0::1", True),
        (names(ip="fe80::1"), "fe80::1%eth0", True),
        (names(ip="127.0.0.1"), "::ffff:127.0.0.1", False),
        (names("::1"), "::1", False),
        (names(), "localhost", False),
    ],
)
def test_names_are_compared_with_names_and_addresses_with_addresses(
    given_for: AlternativeNames, host: str, fits: bool
) -> None:
    assert is_for(given_for, host) is fits


def test_an_address_may_have_a_zone() -> None:
    assert address_of("fe80::1%2") == ipaddress.ip_address("fe80::1")
    assert address_of("127.1") is None
    assert address_of("localhost") is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert isinstance(alternative_names(data), AlternativeNames)


@given(st.lists(st.tuples(st.sampled_from([0x82, 0x87, 0x81, 0xA0]), st.binary(max_size=20)), max_size=5))
def test_the_names_of_a_certificate_are_those_in_it(entries: list[tuple[int, bytes]]) -> None:
    def der(tag: int, inside: bytes) -> bytes:
        size = bytes([len(inside)]) if len(inside) < 128 else b"\x82" + len(inside).to_bytes(2, "big")
        return bytes([tag]) + size + inside

    inside = b"".join(der(*entry) for entry in entries)
    other = der(0x30, der(0x06, b"\x55\x1d\x13") + der(0x04, der(0x30, der(0x82, b"not-this"))))
    extension = der(0x30, der(0x06, b"\x55\x1d\x11") + der(0x01, b"\xff") + der(0x04, der(0x30, inside)))
    tbs = der(0x30, der(0x02, b"\x01") + der(0xA3, der(0x30, other + extension)))
    found = alternative_names(der(0x30, tbs + der(0x03, b"signature")))
    assert list(found.dns) == [value.decode("ascii", "backslashreplace") for tag, value in entries if tag == 0x82]
    expected = [ipaddress.ip_address(value) for tag, value in entries if tag == 0x87 and len(value) in (4, 16)]
    assert list(found.addresses) == expected
