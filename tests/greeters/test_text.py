"""Templates: what they may contain, and the greetings they give."""

from __future__ import annotations

import socket
from encodings.aliases import aliases

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greetsvc.greeters.registry import text_encoding
from greetsvc.greeters.text import DEFAULT, FIELDS, TextGreeter
from greetsvc.net.tls.endpoint import TlsFacts
from greetsvc.visit import Address, Visit

VISIT = Visit(
    "tls",
    Address("2001:db8::7", 40112),
    Address("192.0.2.1", 8088),
    number=12,
    when=1_000_000_000.9,
    name="Ada",
    tls=TlsFacts("TLSv1.3", "AES", "example.org", None, "client.example"),
)


def test_the_default_template_thanks_for_connecting() -> None:
    greeter = TextGreeter.from_argument("", "utf-8")
    assert greeter.greet(VISIT) == b"Thank you for connecting\r\n"
    assert not greeter.needs
    assert TextGreeter().greet(VISIT) == TextGreeter(DEFAULT).greet(VISIT) == greeter.greet(VISIT)


@pytest.mark.parametrize(
    ("field", "expected", "needs"),
    [
        ("peer_host", "2001:db8::7", {"peer"}),
        ("peer_port", "40112", {"peer"}),
        ("local_host", "192.0.2.1", {"local"}),
        ("local_port", "8088", {"local"}),
        ("hostname", socket.gethostname(), set()),
        ("number", "12", {"number"}),
        ("time", "2001-09-09T01:46:40+00:00", {"when"}),
        ("transport", "tls", {"transport"}),
        ("name", "Ada", {"name"}),
        ("tls_version", "TLSv1.3", {"tls"}),
        ("sni", "example.org", {"tls"}),
        ("certificate", "client.example", {"tls"}),
    ],
)
def test_each_field_is_filled_in_and_needs_one_part_of_the_visit(field: str, expected: str, needs: set[str]) -> None:
    greeter = TextGreeter(f"<{{{field}}}>")
    assert greeter.greet(VISIT) == f"<{expected}>".encode()
    assert greeter.needs == needs


def test_every_field_is_tested_above_and_empty_where_nothing_is_known() -> None:
    assert len(FIELDS) == 12
    nobody = Visit("tcp", Address("", 0), Address("", 0))
    assert TextGreeter("{name}{tls_version}{sni}{certificate}{peer_host}").greet(nobody) == b""


def test_a_template_needs_what_its_fields_need() -> None:
    greeter = TextGreeter("{number}: {peer_host} {peer_port} met {hostname}")
    assert greeter.needs == {"number", "peer"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (r"a\r\n\tb", b"a\r\n\tb"),
        (r"\\n", rb"\n"),
        (r"\\\n", b"\\\n"),
        ("{{}}", b"{}"),
        ("{{number}}", b"{number}"),
        ("{{{number}}}", b"{12}"),
        ("", b""),
        ("plain\nnewline", b"plain\nnewline"),
    ],
)
def test_escapes_and_braces_are_resolved(template: str, expected: bytes) -> None:
    assert TextGreeter(template).greet(VISIT) == expected


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{nobody}", "{nobody}"),
        ("{}", "{}"),
        ("{0}", "{0}"),
        ("{peer_host.x}", "{peer_host.x}"),
        ("{peer_host[0]}", "{peer_host[0]}"),
        ("{number:>5}", "{number}"),
        ("{number!r}", "{number}"),
        ("{number", "'{number'"),
        ("number}", "'number}'"),
        ("{", "'{'"),
        ("}", "'}'"),
        (r"\x41", r"\x"),
        ("\\", "\\"),
        (r"a\ b", "\\ "),
        ("\\\n", "\\"),
    ],
)
def test_a_wrong_template_is_refused_with_the_wrong_part(template: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        TextGreeter(template)
    assert says in str(caught.value)


@pytest.mark.parametrize(("template", "encoding"), [("Grüße", "ascii"), ("€", "latin-1"), ("\ud800", "utf-8")])
def test_text_that_the_encoding_cannot_write_is_refused(template: str, encoding: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be written in {encoding}"):
        TextGreeter(template, encoding)


def test_what_the_encoding_cannot_write_of_a_visit_is_replaced() -> None:
    visit = Visit("lines", Address("", 0), Address("", 0), name="Grüße \ud800")
    assert TextGreeter("{name}", "ascii").greet(visit) == b"Gr??e ?"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-7", "cp037", "shift_jis", "utf-8-sig", "punycode"])
def test_every_kind_of_text_encoding_works(encoding: str) -> None:
    greeting = TextGreeter("Hello {number}", text_encoding(encoding)).greet(VISIT)
    assert greeting.decode(encoding) == "Hello 12"


@pytest.mark.parametrize("name", ["", "utf-99", "hex", "rot13", "base64", "zip", "undefined", "idna", "\0", "\ud800"])
def test_an_unknown_text_encoding_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="is not a text encoding") as caught:
        text_encoding(name)
    assert repr(name) in str(caught.value)


def test_every_codec_of_python_is_a_text_encoding_that_never_fails_a_visit_or_is_refused() -> None:
    accepted = 0
    for name in sorted(set(aliases.values())):
        try:
            encoding = text_encoding(name)
        except ValueError:
            continue
        accepted += 1
        visit = Visit("tcp", Address("\u20ac\ud800\0\U0001f600", 0), Address("", 0))
        assert isinstance(TextGreeter("{peer_host}", encoding).greet(visit), bytes)
    assert accepted > 80


@given(st.text(max_size=60), st.sampled_from(["utf-8", "ascii", "utf-16", "shift_jis", "cp037"]))
def test_any_text_is_a_template_or_one_error(template: str, encoding: str) -> None:
    try:
        greeter = TextGreeter(template, encoding)
    except ValueError as error:
        assert str(error)  # noqa: PT017
        return
    assert isinstance(greeter.greet(VISIT), bytes)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["{", "}", "{{", "}}", "\\", "\\n", "!", ":", "[", "]", ".", "0"]),
            st.sampled_from([f"{{{field}}}" for field in FIELDS]),
        ),
        max_size=12,
    ).map("".join)
)
def test_any_mix_of_braces_and_fields_is_a_template_or_one_error(template: str) -> None:
    try:
        greeter = TextGreeter(template)
    except ValueError as error:
        assert str(error)  # noqa: PT017
        return
    assert greeter.needs <= {"peer", "local", "number", "when", "transport", "name", "tls"}
    assert isinstance(greeter.greet(VISIT), bytes)


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_is_a_template_once_its_braces_and_backslashes_are_doubled(text: str) -> None:
    template = text.replace("\\", "\\\\").replace("{", "{{").replace("}", "}}")
    assert TextGreeter(template).greet(VISIT) == text.encode()
