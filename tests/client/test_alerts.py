"""TLS alerts and OpenSSL's reasons in words: over memory, and over real sockets."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL

from greetsvc import GreetFailed, greet
from greetsvc.client import ClientTls
from greetsvc.client.alerts import ALERTS, alert_cause, tls_words
from greetsvc.client.report.causes import likely_cause

CODES = {
    10: "unexpected message",
    20: "bad record mac",
    21: "decryption failed",
    22: "record overflow",
    30: "decompression failure",
    40: "handshake failure",
    41: "no certificate",
    42: "bad certificate",
    43: "unsupported certificate",
    44: "certificate revoked",
    45: "certificate expired",
    46: "certificate unknown",
    47: "illegal parameter",
    48: "unknown ca",
    49: "access denied",
    50: "decode error",
    51: "decrypt error",
    60: "export restriction",
    70: "protocol version",
    71: "insufficient security",
    80: "internal error",
    86: "inappropriate fallback",
    90: "user cancelled",
    100: "no renegotiation",
    109: "missing extension",
    110: "unsupported extension",
    111: "certificate unobtainable",
    112: "unrecognized name",
    113: "bad certificate status response",
    114: "bad certificate hash value",
    115: "unknown psk identity",
    116: "certificate required",
    120: "no application protocol",
}


def alert(code: int, level: int = 2) -> bytes:
    return bytes([0x15, 3, 3, 0, 2, level, code])


def fault_of(data: bytes) -> SSL.Error:
    """The error of OpenSSL when these bytes answer a ClientHello."""
    connection = ClientTls(insecure=True).creator("localhost", print).clientConnectionForTLS(None)  # type: ignore[arg-type]
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    connection.bio_write(data)
    with pytest.raises(SSL.Error) as caught:
        connection.do_handshake()
    return caught.value


@pytest.mark.parametrize("code", range(256))
def test_every_alert_has_words_and_a_cause(code: int) -> None:
    words = tls_words(fault_of(alert(code)))
    name = CODES.get(code)
    if name is None:
        assert words == "the server refused: an unknown alert"
    else:
        assert words == f"the server refused: {name} ({ALERTS[name].words})"
    assert alert_cause(words) != ""
    assert name is None or alert_cause(words) == ALERTS[name].cause


def test_the_table_has_only_alerts_that_openssl_can_name() -> None:
    assert set(ALERTS) == set(CODES.values())


@pytest.mark.parametrize(
    "prefix", ["sslv3 alert", "tlsv1 alert", "tlsv13 alert", "ssl/tls alert", "tls alert", "tlsv1"]
)
def test_an_alert_is_known_in_the_spelling_of_every_openssl(prefix: str) -> None:
    for name in ALERTS:
        error = SSL.Error([("SSL routines", "", f"{prefix} {name}")])
        assert alert_cause(tls_words(error)) == ALERTS[name].cause


@pytest.mark.parametrize(
    ("data", "words", "cause"),
    [
        (
            b"220 hello, this is plain text",
            "the server does not speak TLS (wrong version number)",
            "a listener without TLS",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server does not speak TLS", "a listener without TLS"),
        (b"\x16\x03\x03\xff\xff", "the server does not speak TLS (record layer failure)", "a listener without TLS"),
        (b"\x17\x03\x03\0\x04abcd", "TLS failed (unexpected message)", "a fault in one of the two TLS libraries"),
        (b"\x16\x03\x01\0\x04\x02\0\0\0", "TLS failed (length mismatch)", "a fault in one of the two TLS libraries"),
        (b"\x15\x03\x03\0\x03\1\0\0", "TLS failed (invalid alert)", "a fault in one of the two TLS libraries"),
        (alert(0, level=1), "the server closed during the TLS handshake", "no live server"),
    ],
)
def test_an_answer_that_is_not_tls_differs_from_a_refusal(data: bytes, words: str, cause: str) -> None:
    said = tls_words(fault_of(data))
    assert said.startswith(words)
    assert cause in alert_cause(said)


def test_other_words_have_no_cause() -> None:
    assert alert_cause("Connection reset by peer") == ""


async def refusal(target: str, **options: Any) -> GreetFailed:
    with pytest.raises(GreetFailed) as caught:
        await greet(target, timeout=5, tls=ClientTls(**options))
    assert (caught.value.phase, caught.value.errno) == ("tls", errno.EPROTO)
    return caught.value


@pytest_twisted.ensureDeferred
async def test_a_server_name_that_the_far_end_does_not_know_is_said(peers: Any, papers: Any) -> None:
    context = papers.server("good")
    context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    target = peers.stream(lambda _: None, tls=context).replace("127.0.0.1", "localhost")
    failed = await refusal(target, ca=papers.path("ca"))
    assert failed.strerror == "the server refused: unrecognized name (it does not know the server name that we sent)"
    assert "--sni sets the name to ask for" in likely_cause(failed)[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest_twisted.ensureDeferred
async def test_a_client_certificate_that_the_far_end_does_not_accept_is_said(
    peers: Any, papers: Any, version: ssl.TLSVersion
) -> None:
    context = papers.server("good", ask_client=True)
    context.minimum_version = context.maximum_version = version

    def read(connection: socket.socket) -> None:
        connection.recv(1)

    target = peers.stream(read, tls=context)
    failed = await refusal(target, ca=papers.path("ca"), cert=papers.path("self"))
    assert failed.strerror == "the server refused: unknown ca (it does not know the authority of our certificate)"
    assert "the server does not know the authority of --cert" in likely_cause(failed)[0]
    failed = await refusal(target, ca=papers.path("ca"), cert=papers.path("expired"))
    assert "the server refused: certificate expired (our certificate has expired" in (failed.strerror or "")
    assert "the certificate of --cert must be renewed" in likely_cause(failed)[0]
    failed = await refusal(target, ca=papers.path("ca"))
    assert "it requires a client certificate" in (failed.strerror or "") or "handshake failure" in (
        failed.strerror or ""
    )
    assert "requires a client certificate (--cert)" in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_no_shared_version_or_cipher_is_said(peers: Any, papers: Any) -> None:
    old = papers.server("good")
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    failed = await refusal(peers.stream(lambda _: None, tls=old), ca=papers.path("ca"))
    assert "protocol version (it does not support our TLS versions" in (failed.strerror or "")
    assert "only TLS versions before 1.2" in likely_cause(failed)[0]
    other = papers.server("good")
    other.maximum_version = ssl.TLSVersion.TLSv1_2
    other.set_ciphers("NULL:@SECLEVEL=0")
    failed = await refusal(peers.stream(lambda _: None, tls=other), ca=papers.path("ca"))
    assert "handshake failure (it found no parameters that both ends accept" in (failed.strerror or "")
    assert "shares no TLS version or cipher" in likely_cause(failed)[0]


@pytest_twisted.ensureDeferred
async def test_an_alert_after_the_greeting_is_a_note(peers: Any, papers: Any) -> None:
    def say(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"hello")
        socket.socket.sendall(connection, alert(80))

    context = papers.server("good")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    greeting = await greet(peers.stream(say, tls=context), timeout=5, tls=ClientTls(ca=papers.path("ca")))
    assert greeting.data == b"hello"
    assert greeting.notes[0].startswith("after the greeting: TLS failed (")
