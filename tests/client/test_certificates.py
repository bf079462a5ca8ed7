"""What is said of a certificate that is not accepted: of real chains, asked over real sockets."""

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
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL.crypto import X509

from greetsvc import GreetFailed, Greeting, greet
from greetsvc.client import ClientTls
from greetsvc.client.certificates import UNUSED, VERIFY_ERRORS, certificate_cause, rejection
from greetsvc.client.report.causes import likely
from greetsvc.errors import ConfigError
from tests.support.chains import Link, link, names_in_der, serve

HERE = ("localhost", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
ROOT = link("the root", authority=True)


def hello(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    with suppress(OSError, ssl.SSLError):
        connection.unwrap()  # type: ignore[attr-defined]


class Chains:
    """Serves a chain, and asks it."""

    def __init__(self, peers: Any, folder: Path) -> None:
        self.peers = peers
        self.folder = folder

    def file(self, *links: Link) -> str:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.pem"
        path.write_bytes(b"".join(each.pem for each in links))
        return str(path)

    async def greeted(
        self, chain: tuple[Link, ...], trusted: Link, host: str = "localhost", **options: Any
    ) -> Greeting:
        target = self.peers.stream(hello, tls=serve(self.folder, *chain)).replace("127.0.0.1", host)
        return await greet(target, timeout=5, tls=ClientTls(ca=self.file(trusted), **options))

    async def refused(
        self, chain: tuple[Link, ...], trusted: Link, host: str = "localhost", **options: Any
    ) -> GreetFailed:
        with pytest.raises(GreetFailed) as caught:
            await self.greeted(chain, trusted, host, **options)
        assert (caught.value.phase, caught.value.errno) == ("tls", errno.EPROTO)
        return caught.value


@pytest.fixture
def chains(peers: Any, tmp_path: Path) -> Chains:
    return Chains(peers, tmp_path)


def end(certificate: Link) -> str:
    return f"{certificate.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"


OLD, FUTURE = (-3.0, -1.0), (1.0, 3.0)


@pytest.mark.parametrize(
    ("places", "said", "cause"),
    [
        (
            (OLD, None, None),
            "the server's certificate has expired: it is for localhost, 127.0.0.1",
            "was not renewed",
        ),
        ((None, OLD, None), "an intermediate certificate has expired: it is the middle", "sends an old chain"),
        ((None, None, OLD), "the authority's certificate has expired: it is the top", "--ca names an old authority"),
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
async def test_dates_are_told_of_the_certificate_that_has_them(
    chains: Chains, places: tuple[Any, Any, Any], said: str, cause: str
) -> None:
    leaf, middle, top = (days or (-3, 3) for days in places)
    root = link("the top", authority=True, days=top)
    between = link("the middle", root, authority=True, days=middle)
    own = link("own", between, names=HERE, days=leaf)
    failed = await chains.refused((own, between), root)
    wrong = own if places[0] else between if places[1] else root
    issuer = "the middle" if wrong is own else "the top" if wrong is between else "itself"
    assert (failed.strerror or "").startswith(said)
    assert f"issued by {issuer}, valid" in (failed.strerror or "")
    assert (failed.strerror or "").endswith(f"until {end(wrong)}")
    assert cause in likely(failed)[0]


@pytest_twisted.ensureDeferred
async def test_a_start_that_is_still_to_come_is_told_with_its_date(chains: Chains) -> None:
    own = link("own", ROOT, names=HERE, days=FUTURE)
    begins = f"{own.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    assert f"valid from {begins} until {end(own)}" in str(await chains.refused((own,), ROOT))


@pytest_twisted.ensureDeferred
async def test_a_chain_that_does_not_reach_what_is_trusted_says_where_it_ends(chains: Chains) -> None:
    between = link("the middle", ROOT, authority=True)
    own = link("own", between, names=HERE)
    failed = await chains.refused((own,), ROOT)
    assert str(failed).startswith(
        "tls: the server's certificate is signed by an unknown authority: it is for localhost"
    )
    assert "issued by the middle" in str(failed)
    assert "does not send its intermediate certificates" in likely(failed)[0]
    stranger = link("a stranger", authority=True)
    failed = await chains.refused((own, between), stranger)
    assert (
        "an intermediate certificate is signed by an unknown authority: it is the middle, issued by the root"
        in str(failed)
    )
    failed = await chains.refused((own, between, ROOT), stranger)
    assert "the authority's certificate is not trusted: it is the root, issued by itself" in str(failed)
    assert "something on the way opens TLS" in likely(failed)[0]


def usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(True, False, False, False, False, sign, False, False, False)


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
            {"authority": False},
            {},
            "an intermediate certificate is used as an authority, but is none",
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
        ({}, {"signed_with": ROOT.key}, "the server's certificate has a wrong signature", "has a new key"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_wrong_with_a_chain_is_told_in_words(
    chains: Chains, above: dict[str, Any], own: dict[str, Any], said: str, cause: str
) -> None:
    between = link("the middle", ROOT, **{"authority": True, **above})
    leaf = link("own", between, names=HERE, **own)
    failed = await chains.refused((leaf, between), ROOT)
    assert (failed.strerror or "").startswith(said)
    assert cause in likely(failed)[0]


@pytest_twisted.ensureDeferred
async def test_an_authority_that_allows_no_intermediate_is_the_one_that_is_named(chains: Chains) -> None:
    root = link("the strict root", authority=True, path_length=0)
    between = link("the middle", root, authority=True)
    failed = await chains.refused((link("own", between, names=HERE), between), root)
    assert (
        "the authority's certificate allows fewer intermediate certificates below it: it is the strict root"
        in str(failed)
    )


def test_every_number_of_openssl_has_words_or_cannot_happen() -> None:
    assert set(VERIFY_ERRORS) | UNUSED == set(range(1, 104)) - {101}, "those of x509_vfy.h"
    assert not set(VERIFY_ERRORS) & UNUSED
    for number, (words, cause, above) in VERIFY_ERRORS.items():
        said = rejection(X509.from_cryptography(ROOT.certificate), number, 0, "localhost")
        assert said.startswith(f"the server's certificate {words}: it is for no host (its common name, the root,")
        assert certificate_cause(said) == cause
        said = rejection(X509.from_cryptography(ROOT.certificate), number, 2, "localhost")
        assert said.startswith(f"the authority's certificate {words}: it is the root, issued by itself, valid")
        assert certificate_cause(said) == (above or cause)
    odd = rejection(X509.from_cryptography(ROOT.certificate), 99, 1, "localhost")
    assert odd.startswith("the authority's certificate does not verify (X509_V_ERR 99): it is the root")
    assert certificate_cause(odd) == ""


def test_the_far_ends_own_text_is_bounded_and_chooses_no_cause() -> None:
    evil = link("x: it is y has expired\x1b[31m" + "\x01" * 30, names=["has-expired.example"] * 400 + ["n" * 9999])
    said = rejection(X509.from_cryptography(link("own", evil).certificate), 20, 0, "localhost")
    assert "a private authority" in certificate_cause(said)
    said = rejection(X509.from_cryptography(evil.certificate), 20, 1, "localhost")
    assert "\x1b" not in said
    assert len(said) < 400
    said = rejection(X509.from_cryptography(evil.certificate), 0, 0, "localhost")
    assert said.count("has-expired.example") == 5
    assert "and 396 more" in said
    assert "the name is mistyped" in certificate_cause(said)


def test_a_certificate_that_names_nobody_is_told_all_the_same() -> None:
    said = rejection(X509.from_cryptography(link("").certificate), 18, 0, "localhost")
    assert re.fullmatch(
        "the server's certificate is self-signed and not trusted: it is for no host, issued by itself, "
        "valid until [0-9: -]+ UTC",
        said,
    )


def test_a_certificate_that_only_openssl_can_read_is_told_by_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: X509) -> None:
        raise x509.InvalidVersion("7 is not a valid X509 version", 7)

    monkeypatch.setattr(X509, "to_cryptography", refuse)
    said = rejection(X509.from_cryptography(link("own", names=HERE).certificate), 20, 0, "localhost")
    assert said == (
        "the server's certificate is signed by an unknown authority: it is for localhost, 127.0.0.1, "
        "issued by somebody without a name, valid until a date that cannot be read"
    )


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
async def test_an_odd_name_takes_nothing_from_the_others(chains: Chains, odd: tuple[int, bytes]) -> None:
    own = link("own", ROOT, extensions=[names_in_der(odd, (0x82, b"localhost"), (0x87, b"\x7f\0\0\1"))])
    assert (await chains.greeted((own,), ROOT)).data == b"hello"
    assert (await chains.greeted((own,), ROOT, "127.0.0.1")).data == b"hello"


@pytest.mark.parametrize("odd", ODD)
@pytest_twisted.ensureDeferred
async def test_an_odd_name_counts_for_nothing_itself(chains: Chains, odd: tuple[int, bytes]) -> None:
    own = link("own", ROOT, extensions=[names_in_der(odd)])
    assert "the server's certificate is not for localhost: it is for " in str(await chains.refused((own,), ROOT))
    refused = await chains.refused((own,), ROOT, "127.0.0.1")
    assert ("127.0.0.1 (as a name, not as an address)" in str(refused)) == (odd[1] == b"127.0.0.1")


@pytest_twisted.ensureDeferred
async def test_a_common_name_does_not_count(chains: Chains) -> None:
    failed = await chains.refused((link("localhost", ROOT),), ROOT)
    assert "not for localhost: it is for no host (its common name, localhost, does not count)" in str(failed)


@pytest_twisted.ensureDeferred
async def test_what_ca_names_is_trusted_whether_it_signed_itself_or_not(chains: Chains) -> None:
    between = link("the middle", ROOT, authority=True)
    own = link("own", between, names=HERE)
    assert (await chains.greeted((own,), between)).data == b"hello", "an intermediate authority"
    assert (await chains.greeted((own, between), between)).data == b"hello"
    assert (await chains.greeted((own,), own)).data == b"hello", "the server's own"
    assert (await chains.greeted((own, between), ROOT)).data == b"hello"
    failed = await chains.refused((link("other", ROOT, names=HERE),), between)
    assert "signed by an unknown authority" in str(failed), "what is above the one that is trusted is not"
    elsewhere = link("own", between, names=["elsewhere.example"])
    assert "is not for localhost: it is for elsewhere.example" in str(await chains.refused((elsewhere,), elsewhere))
    old = link("own", between, names=HERE, days=OLD)
    assert "has expired" in str(await chains.refused((old,), old))


BAD = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"one\n" + ROOT.pem + BAD, f"block 2 (line {ROOT.pem.count(10) + 2}) is not a valid certificate"),
        (BAD + ROOT.pem, "block 1 (line 1) is not a valid certificate"),
        (ROOT.pem[:-9] + ROOT.pem, "block 1 (line 1) has no end"),
        (ROOT.pem + b"\n-----BEGIN CERTIFICATE-----\nMIIB", f"block 2 (line {ROOT.pem.count(10) + 2}) has no end"),
        (ROOT.key_pem, "holds no certificate in PEM form, but PRIVATE KEY"),
        (ROOT.pem.replace(b"CERT", b"X509 CRL"), "holds no certificate in PEM form, but X509 CRLIFICATE"),
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
