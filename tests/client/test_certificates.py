"""Which certificates are accepted, and the error for one that is not: real chains over real sockets."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from OpenSSL.crypto import X509

from greetsvc import GreetFailed, Greeting, greet
from greetsvc.client import ClientTls
from greetsvc.client.certificates import VERIFY_ERRORS, certificate_cause, rejection
from greetsvc.client.report.causes import likely_cause
from greetsvc.errors import ConfigError
from tests.support.certificates import Extension, Issued, issue

HERE = ("localhost", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
ROOT = issue("the root", authority=True)


def hello(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    with suppress(OSError, ssl.SSLError):
        connection.unwrap()  # type: ignore[attr-defined]


class Chains:
    """Serves a chain of certificates and greets over it."""

    def __init__(self, peers: Any, folder: Path) -> None:
        self.peers = peers
        self.folder = folder

    def file(self, *certificates: Issued, key: bytes = b"") -> str:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.pem"
        path.write_bytes(key + b"".join(each.pem for each in certificates))
        return str(path)

    async def greeted(
        self, chain: tuple[Issued, ...], trusted: Issued, host: str = "localhost", **options: Any
    ) -> Greeting:
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(self.file(*chain, key=chain[0].key_pem))
        target = self.peers.stream(hello, tls=served).replace("127.0.0.1", host)
        return await greet(target, timeout=5, tls=ClientTls(ca=self.file(trusted), **options))

    async def refused(
        self, chain: tuple[Issued, ...], trusted: Issued, host: str = "localhost", **options: Any
    ) -> GreetFailed:
        with pytest.raises(GreetFailed) as caught:
            await self.greeted(chain, trusted, host, **options)
        assert (caught.value.phase, caught.value.errno) == ("tls", errno.EPROTO)
        return caught.value


@pytest.fixture
def chains(peers: Any, tmp_path: Path) -> Chains:
    return Chains(peers, tmp_path)


def end(certificate: Issued) -> str:
    return f"{certificate.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"


OLD: dict[str, Any] = {"starts": -3, "days": -1}
FUTURE: dict[str, Any] = {"starts": 1, "days": 3}


@pytest.mark.parametrize(
    ("places", "said", "cause"),
    [
        (
            (OLD, None, None),
            "the server's certificate has expired: it is for localhost, 127.0.0.1",
            "was not renewed",
        ),
        ((None, OLD, None), "an intermediate certificate has expired: it is the middle", "sends an old chain"),
        ((None, None, OLD), "the authority's certificate has expired: it is the top", "--ca gives an old authority"),
        (
            (FUTURE, None, None),
            "the server's certificate is not valid yet: it is for localhost",
            "our clock is behind",
        ),
        (
            (None, FUTURE, None),
            "an intermediate certificate is not valid yet: it is the middle",
            "our clock is behind",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_error_about_dates_names_the_certificate_that_has_them(
    chains: Chains, places: tuple[Any, Any, Any], said: str, cause: str
) -> None:
    leaf, middle, top = (days or {} for days in places)
    root = issue("the top", authority=True, **top)
    between = root.issue("the middle", authority=True, **middle)
    own = between.issue("own", *HERE, **leaf)
    failed = await chains.refused((own, between), root)
    wrong = own if places[0] else between if places[1] else root
    issuer = "the middle" if wrong is own else "the top" if wrong is between else "itself"
    assert (failed.strerror or "").startswith(said)
    assert f"issued by {issuer}, valid" in (failed.strerror or "")
    assert (failed.strerror or "").endswith(f"until {end(wrong)}")
    assert cause in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_valid_yet_is_named_with_its_start(chains: Chains) -> None:
    own = ROOT.issue("own", *HERE, **FUTURE)
    begins = f"{own.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    assert f"valid from {begins} until {end(own)}" in str(await chains.refused((own,), ROOT))


@pytest_twisted.ensureDeferred
async def test_a_chain_without_a_trusted_end_names_the_last_certificate(chains: Chains) -> None:
    between = ROOT.issue("the middle", authority=True)
    own = between.issue("own", *HERE)
    failed = await chains.refused((own,), ROOT)
    assert str(failed).startswith(
        "tls: the server's certificate is signed by an unknown authority: it is for localhost"
    )
    assert "issued by the middle" in str(failed)
    assert "does not send its intermediate certificates" in likely_cause(failed)[0]
    stranger = issue("a stranger", authority=True)
    failed = await chains.refused((own, between), stranger)
    assert (
        "an intermediate certificate is signed by an unknown authority: it is the middle, issued by the root"
        in str(failed)
    )
    failed = await chains.refused((own, between, ROOT), stranger)
    assert "the authority's certificate is not trusted: it is the root, issued by itself" in str(failed)
    assert "something on the path intercepts TLS" in likely_cause(failed)[0]


def names_allowed(name: str) -> x509.NameConstraints:
    return x509.NameConstraints(permitted_subtrees=[x509.DNSName(name)], excluded_subtrees=None)


def names_forbidden(name: str) -> x509.NameConstraints:
    return x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=[x509.DNSName(name)])


UNHEARD = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
CLIENTS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


@pytest.mark.parametrize(
    ("above", "own", "said", "cause"),
    [
        ({}, {"extensions": [(CLIENTS, False)]}, "the server's certificate is not meant for servers", "for clients"),
        (
            {"extensions": [(CLIENTS, False)]},
            {},
            "an intermediate certificate is not meant for servers",
            "may not sign",
        ),
        ({}, {"extensions": [(UNHEARD, True)]}, "the server's certificate has a critical extension", "issued again"),
        (
            {"extensions": [(UNHEARD, True)]},
            {},
            "an intermediate certificate has a critical extension",
            "issued again",
        ),
        (
            {"extensions": [(x509.BasicConstraints(ca=False, path_length=None), True)]},
            {},
            "an intermediate certificate is used as an authority but is not one",
            "may not sign",
        ),
        (
            {"extensions": [(names_allowed("example.com"), True)]},
            {},
            "the server's certificate is for a name that its authority may not sign",
            "may sign only for other names",
        ),
        (
            {"extensions": [(names_forbidden("localhost"), True)]},
            {},
            "the server's certificate is for a name that its authority is forbidden to sign",
            "may sign only for other names",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_fault_in_a_chain_is_said_in_words(
    chains: Chains, above: dict[str, Any], own: dict[str, Any], said: str, cause: str
) -> None:
    between = ROOT.issue("the middle", authority=True, **above)
    failed = await chains.refused((between.issue("own", *HERE, **own), between), ROOT)
    assert (failed.strerror or "").startswith(said)
    assert cause in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_a_signature_of_another_key_is_said_in_words(chains: Chains) -> None:
    between = ROOT.issue("the middle", authority=True)
    own = Issued(between.certificate, ROOT.key).issue("own", *HERE)
    failed = await chains.refused((own, between), ROOT)
    assert (failed.strerror or "").startswith("the server's certificate has a wrong signature")
    assert "has a new key" in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_an_authority_that_allows_no_intermediate_is_named(chains: Chains) -> None:
    root = issue(
        "the strict root",
        authority=True,
        extensions=[(x509.BasicConstraints(ca=True, path_length=0), True)],
    )
    between = root.issue("the middle", authority=True)
    failed = await chains.refused((between.issue("own", *HERE), between), root)
    assert (
        "the authority's certificate allows fewer intermediate certificates below it: it is the strict root"
        in str(failed)
    )


UNUSED = {
    *(3, 5, 8, 11, 12, 15, 16, 23, 33, 35, 36, 44, 45, 54),  # revocation: no X509_V_FLAG_CRL_CHECK
    *(29, 30, 31),  # no longer reported, since OpenSSL 1.1
    *(37, 38, 39, 72),  # proxy certificates: no X509_V_FLAG_ALLOW_PROXY_CERTS
    *(42, 43),  # policies: no X509_V_FLAG_POLICY_CHECK
    *(50, 62, 63, 64),  # names are compared by us, not by OpenSSL
    *range(56, 62),  # Suite B: no X509_V_FLAG_SUITEB_*
    *(65, 71, 95),  # DANE, certificate transparency, raw public keys
    *(73, 74, 75, *range(96, 101)),  # OCSP
    *(*range(80, 94), 102, 103),  # no X509_V_FLAG_X509_STRICT
}
"""The X509_V_ERR_* that need a feature which is not turned on."""


def test_every_error_of_openssl_has_words_or_cannot_happen() -> None:
    assert set(VERIFY_ERRORS) | UNUSED == set(range(1, 104)) - {101}, "those in x509_vfy.h"
    assert not set(VERIFY_ERRORS) & UNUSED
    for number, (words, cause, above) in VERIFY_ERRORS.items():
        said = rejection(X509.from_cryptography(ROOT.certificate), number, 0, "localhost")
        assert said.startswith(f"the server's certificate {words}: it is for no host (its subject, the root,")
        assert certificate_cause(said) == cause
        said = rejection(X509.from_cryptography(ROOT.certificate), number, 2, "localhost")
        assert said.startswith(f"the authority's certificate {words}: it is the root, issued by itself, valid")
        assert certificate_cause(said) == (above or cause)
    odd = rejection(X509.from_cryptography(ROOT.certificate), 99, 1, "localhost")
    assert odd.startswith("the authority's certificate does not verify (X509_V_ERR 99): it is the root")
    assert certificate_cause(odd) == ""


def test_text_of_the_far_end_is_bounded_and_does_not_choose_the_cause() -> None:
    evil = issue("x: it is y has expired\x1b[31m" + "\x01" * 30, *["has-expired.example"] * 400, "n" * 9999)
    said = rejection(X509.from_cryptography(evil.issue("own").certificate), 20, 0, "localhost")
    assert "a private authority" in certificate_cause(said)
    said = rejection(X509.from_cryptography(evil.certificate), 20, 1, "localhost")
    assert "\x1b" not in said
    assert len(said) < 400
    said = rejection(X509.from_cryptography(evil.certificate), 0, 0, "localhost")
    assert said.count("has-expired.example") == 5
    assert "and 396 more" in said
    assert "the name is mistyped" in certificate_cause(said)


def test_a_certificate_without_names_has_an_error_too() -> None:
    said = rejection(X509.from_cryptography(issue().certificate), 18, 0, "localhost")
    assert re.fullmatch(
        "the server's certificate is self-signed and not trusted: it is for no host, issued by itself, "
        "valid until [0-9: -]+ UTC",
        said,
    )


def test_a_certificate_that_only_openssl_can_read_is_named_by_its_host_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: X509) -> None:
        raise x509.InvalidVersion("7 is not a valid X509 version", 7)

    monkeypatch.setattr(X509, "to_cryptography", refuse)
    said = rejection(X509.from_cryptography(issue("own", *HERE).certificate), 20, 0, "localhost")
    assert said == (
        "the server's certificate is signed by an unknown authority: it is for localhost, 127.0.0.1, "
        "issued by an authority without a name, valid until a date that cannot be read"
    )


def in_der(*entries: tuple[int, bytes]) -> Extension:
    """Alternative names that a library would not write: each with its tag in DER (0x82 for DNS, 0x87 for IP)."""
    inside = b"".join(bytes([tag, len(value)]) + value for tag, value in entries)
    names = b"\x30" + bytes([len(inside)]) + inside
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, names), False


ODD = [
    (0x82, b"*.localhost"),
    (0x82, b""),
    (0x82, b"*.*.example"),
    (0x82, b"local\xdfhost"),
    (0x82, b"127.0.0.1"),
    (0x87, b"12345"),
    (0xA3, b""),
    (0x86, b"http://\xff"),
]


@pytest.mark.parametrize("odd", ODD)
@pytest_twisted.ensureDeferred
async def test_an_invalid_name_does_not_hide_the_others(chains: Chains, odd: tuple[int, bytes]) -> None:
    own = ROOT.issue("own", extensions=[in_der(odd, (0x82, b"localhost"), (0x87, b"\x7f\0\0\1"))])
    assert (await chains.greeted((own,), ROOT)).data == b"hello"
    assert (await chains.greeted((own,), ROOT, "127.0.0.1")).data == b"hello"


@pytest.mark.parametrize("odd", ODD)
@pytest_twisted.ensureDeferred
async def test_an_invalid_name_matches_no_host(chains: Chains, odd: tuple[int, bytes]) -> None:
    own = ROOT.issue("own", extensions=[in_der(odd)])
    assert "the server's certificate is not for localhost: it is for " in str(await chains.refused((own,), ROOT))
    refused = await chains.refused((own,), ROOT, "127.0.0.1")
    assert ("127.0.0.1 (as a name, not as an address)" in str(refused)) == (odd[1] == b"127.0.0.1")


@pytest_twisted.ensureDeferred
async def test_a_common_name_does_not_count(chains: Chains) -> None:
    failed = await chains.refused((ROOT.issue("localhost"),), ROOT)
    assert "not for localhost: it is for no host (its subject, localhost, does not count)" in str(failed)


@pytest_twisted.ensureDeferred
async def test_all_certificates_in_the_ca_file_are_trusted_self_signed_or_not(chains: Chains) -> None:
    between = ROOT.issue("the middle", authority=True)
    own = between.issue("own", *HERE)
    assert (await chains.greeted((own,), between)).data == b"hello", "an intermediate authority"
    assert (await chains.greeted((own, between), between)).data == b"hello"
    assert (await chains.greeted((own,), own)).data == b"hello", "the server's own"
    assert (await chains.greeted((own, between), ROOT)).data == b"hello"
    failed = await chains.refused((ROOT.issue("other", *HERE),), between)
    assert "signed by an unknown authority" in str(failed), "its issuer is not trusted"
    elsewhere = between.issue("own", "elsewhere.example")
    assert "is not for localhost: it is for elsewhere.example" in str(await chains.refused((elsewhere,), elsewhere))
    old = between.issue("own", *HERE, **OLD)
    assert "has expired" in str(await chains.refused((old,), old))


BAD = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"one\n" + ROOT.pem + BAD, f"block 2 (line {ROOT.pem.count(10) + 2}) is not a valid certificate"),
        (BAD + ROOT.pem, "block 1 (line 1) is not a valid certificate"),
        (ROOT.pem[:-9] + ROOT.pem, "block 1 (line 1) has no end"),
        (ROOT.pem + b"\n-----BEGIN CERTIFICATE-----\nMIIB", f"block 2 (line {ROOT.pem.count(10) + 2}) has no end"),
        (ROOT.key_pem, "there is no certificate in it, only PRIVATE KEY"),
        (ROOT.pem.replace(b"CERT", b"X509 CRL"), "there is no certificate in it, only X509 CRLIFICATE"),
        (ROOT.pem.replace(b"CERT", b"TRUSTED CERT"), "block 1 (line 1) is not a valid certificate"),
    ],
)
def test_a_bundle_says_which_of_its_blocks_is_bad(tmp_path: Path, pem: bytes, why: str) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(pem)
    with pytest.raises(ConfigError) as caught:
        ClientTls(ca=str(path))
    assert (caught.value.name, caught.value.why) == ("ca", why)


def test_a_key_beside_the_certificates_of_a_bundle_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(b"# ours\r\n" + ROOT.key_pem + b"text between\n" + ROOT.pem.replace(b"\n", b"\r\n") + b"the end")
    ClientTls(ca=str(path))
