"""Probes over TLS: what is accepted, what is not, and in which words."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted

from greetsvc import GreetFailed, Greeting, greet
from greetsvc.client import ClientTls
from greetsvc.client.alerts import tls_words
from greetsvc.errors import ConfigError

THANKS = b"Thank you for connecting\r\n"


def hello(connection: socket.socket) -> None:
    connection.sendall(THANKS)
    if isinstance(connection, ssl.SSLSocket):
        connection.unwrap()


async def ask(target: str, **options: Any) -> Greeting:
    return await greet(target, timeout=options.pop("timeout", 5.0), tls=ClientTls(**options))


async def failure(target: str, **options: Any) -> GreetFailed:
    with pytest.raises(GreetFailed) as caught:
        await ask(target, **options)
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest_twisted.ensureDeferred
async def test_a_certificate_for_the_name_and_of_a_trusted_authority_is_accepted(
    peers: Any, papers: Any, host: str
) -> None:
    target = peers.stream(hello, tls=papers.server("good")).replace("127.0.0.1", host)
    greeting = await ask(target, ca=papers.path("ca"))
    assert (greeting.data, greeting.closed, greeting.notes) == (THANKS, "fin", ())
    assert greeting.seconds.tls is not None


@pytest.mark.parametrize(
    ("paper", "why"),
    [
        ("expired", "has expired: it is for localhost, 127.0.0.1, issued by the test authority"),
        ("self", "is self-signed and not trusted: it is for localhost, 127.0.0.1, issued by itself"),
        ("elsewhere", "is not for 127.0.0.1: it is for elsewhere.example, issued by the test authority"),
        ("mailbox", "is not for 127.0.0.1: it is for no host (its subject, mailbox, does not count), issued by"),
        (
            "nameless",
            "is not for 127.0.0.1: it is for no host (its subject, nameless, does not count), issued by",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_certificate_fails_at_tls_and_says_what_is_wrong(
    peers: Any, papers: Any, paper: str, why: str
) -> None:
    failed = await failure(peers.stream(hello, tls=papers.server(paper)), ca=papers.path("ca"))
    assert (failed.errno, failed.phase) == (errno.EPROTO, "tls")
    assert (failed.strerror or "").startswith(f"the server's certificate {why}")
    assert re.search(r", valid until \d{4}-\d\d-\d\d \d\d:\d\d UTC$", failed.strerror or "")


@pytest_twisted.ensureDeferred
async def test_an_unknown_authority_is_not_trusted_by_default(peers: Any, papers: Any) -> None:
    with pytest.raises(GreetFailed, match="signed by an unknown authority") as caught:
        await greet(peers.stream(hello, tls=papers.server("good")))
    assert (caught.value.errno, caught.value.phase) == (errno.EPROTO, "tls")


@pytest.mark.parametrize("paper", ["expired", "self", "elsewhere"])
@pytest_twisted.ensureDeferred
async def test_insecure_accepts_any_certificate(peers: Any, papers: Any, paper: str) -> None:
    target = peers.stream(hello, tls=papers.server(paper))
    assert (await ask(target, insecure=True)).data == THANKS


@pytest_twisted.ensureDeferred
async def test_the_sni_name_is_sent_and_looked_for_in_the_certificate(peers: Any, papers: Any) -> None:
    asked: list[str | None] = []
    context = papers.server("elsewhere")
    context.sni_callback = lambda _connection, name, _context: asked.append(name)
    target = peers.stream(hello, tls=context)
    assert (await ask(target, ca=papers.path("ca"), sni="elsewhere.example")).data == THANKS
    assert asked == ["elsewhere.example"]


@pytest_twisted.ensureDeferred
async def test_a_client_certificate_is_shown_and_its_lack_is_a_tls_failure(peers: Any, papers: Any) -> None:
    target = peers.stream(hello, tls=papers.server("good", ask_client=True))
    ca = papers.path("ca")
    assert (await ask(target, ca=ca, cert=papers.path("good"))).data == THANKS
    apart = {"cert": papers.path("good.crt"), "key": papers.path("good.key")}
    assert (await ask(target, ca=ca, **apart)).data == THANKS
    failed = await failure(target, ca=ca)
    assert (failed.errno, failed.phase) == (errno.EPROTO, "tls")
    assert "certificate required" in str(failed)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_speak_tls_is_named(peers: Any) -> None:
    failed = await failure(f"tls:{peers.stream(hello)}")
    assert (failed.errno, failed.phase) == (errno.EPROTO, "tls")
    assert "does not speak TLS" in str(failed)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_closes_or_resets_or_is_silent_during_the_handshake_is_named(
    peers: Any, reset: Callable[[socket.socket], None]
) -> None:
    failed = await failure(f"tls:{peers.stream(lambda _: None)}")
    assert failed.phase == "tls"
    assert failed.errno in (errno.EPROTO, errno.ECONNRESET)

    def listen_then(end: Callable[[socket.socket], None]) -> str:
        def says(connection: socket.socket) -> None:
            connection.recv(65536)
            end(connection)

        return f"tls:{peers.stream(says)}"

    failed = await failure(listen_then(lambda _: None))
    assert (failed.errno, failed.phase, failed.closed) == (errno.EPROTO, "tls", "fin")
    failed = await failure(listen_then(reset))
    assert (failed.errno, failed.phase, failed.closed) == (errno.ECONNRESET, "tls", "reset")
    failed = await failure(listen_then(peers.hold), timeout=0.3)
    assert (failed.errno, failed.phase, failed.closed) == (errno.ETIMEDOUT, "tls", "timeout")
    assert failed.strerror == "the TLS handshake did not finish within 0.3 s"


@pytest_twisted.ensureDeferred
async def test_an_end_without_close_notify_is_noted(peers: Any, papers: Any) -> None:
    target = peers.stream(lambda connection: connection.sendall(THANKS), tls=papers.server("good"))
    greeting = await ask(target, ca=papers.path("ca"))
    assert (greeting.data, greeting.closed) == (THANKS, "fin")
    assert greeting.notes == ("TLS ended without close_notify: the greeting may be cut short",)


@pytest_twisted.ensureDeferred
async def test_no_greeting_over_tls_is_enodata_and_silence_is_a_time_out(peers: Any, papers: Any) -> None:
    ca = papers.path("ca")
    failed = await failure(peers.stream(lambda connection: connection.unwrap(), tls=papers.server("good")), ca=ca)
    assert (failed.errno, failed.phase) == (errno.ENODATA, "greet")
    failed = await failure(peers.stream(peers.hold, tls=papers.server("good")), ca=ca, timeout=0.3)
    assert (failed.errno, failed.phase) == (errno.ETIMEDOUT, "greet")


@pytest_twisted.ensureDeferred
async def test_tls_broken_after_the_greeting_is_noted(peers: Any, papers: Any) -> None:
    def garbled(connection: ssl.SSLSocket) -> None:
        connection.sendall(THANKS)
        socket.socket.sendall(connection, b"\x17\x03\x03\x00\x20" + b"?" * 32)

    greeting = await ask(peers.stream(garbled, tls=papers.server("good")), ca=papers.path("ca"))
    assert greeting.data == THANKS
    assert "after the greeting: TLS failed" in greeting.notes[0]


@pytest.mark.parametrize(
    ("options", "named", "why"),
    [
        ({"ca": "/nonexistent"}, "ca", "cannot be read: No such file or directory"),
        ({"ca": "a\0b"}, "ca", "cannot be read: the path holds a NUL character"),
        ({"ca": "empty"}, "ca", "there is no certificate in it"),
        ({"ca": "ca", "insecure": True}, "ca", "cannot be combined with insecure, which accepts any certificate"),
        ({"cert": "empty"}, "cert", "there is no certificate in it"),
        ({"cert": "good.crt"}, "cert", "there is no private key in it"),
        ({"cert": "good.crt", "key": "empty"}, "key", "there is no private key in it"),
        ({"cert": "good.crt", "key": "locked"}, "key", "a private key in it needs a passphrase; use one without"),
        ({"cert": "good.crt", "key": "self"}, "key", "key values mismatch"),
        ({"key": "good.key"}, "key", "needs a certificate (cert)"),
        ({"ca": ""}, "ca", "must be a file, not ''"),
        ({"cert": "", "key": ""}, "cert", "must be a file, not ''"),
        ({"cert": "good.crt", "key": ""}, "key", "must be a file, not ''"),
        ({"sni": ""}, "sni", "must be a host name, not ''"),
        ({"sni": "a..b"}, "sni", "is not a host name"),
        ({"sni": "a b"}, "sni", "is not a host name"),
    ],
)
def test_a_file_or_name_that_is_wrong_is_named(papers: Any, options: dict[str, Any], named: str, why: str) -> None:
    if named != "sni":
        plain = ("", "/nonexistent", "a\0b", True)
        options = {name: value if value in plain else papers.path(value) for name, value in options.items()}
    with pytest.raises(ConfigError) as caught:
        ClientTls(**options)
    assert (caught.value.name, caught.value.why) == (named, why)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(5, "odd"), "TLS failed ([Errno 5] odd)"),
        (RuntimeError(), "TLS failed (RuntimeError)"),
        (RuntimeError([]), "TLS failed (no reason given)"),
        (
            RuntimeError([("SSL routines", "", "tlsv1 alert internal error")]),
            "the server refused: internal error (it has a fault of its own)",
        ),
        (RuntimeError([("SSL routines", "", "tlsv9 alert odd")]), "TLS failed (tlsv9 alert odd)"),
        (RuntimeError([("SSL routines", "", "tlsv1 alert odd")]), "the server refused: odd"),
        (RuntimeError([("SSL routines", "", "no ciphers available")]), "TLS failed (no ciphers available)"),
    ],
)
def test_openssls_reasons_in_words(error: Exception, words: str) -> None:
    assert tls_words(error) == words
