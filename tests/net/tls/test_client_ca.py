"""``--client-ca``: all certificates in the file are trusted, self-signed or not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from greetsvc.net.tls.certificates import CertificateFiles
from greetsvc.net.tls.contexts import ReloadingContexts
from tests.support.certificates import Issued, issue

ROOT = issue("the root", authority=True)
MIDDLE = ROOT.issue("the middle", authority=True)
FRIEND = MIDDLE.issue("friend")
STRANGER = issue("another root", authority=True).issue("stranger")


def handshake(server: SSL.Connection, sent: tuple[Issued, ...]) -> None:
    """A handshake over memory with a client that sends this chain; raises what the server raises."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if sent:
        context.use_certificate(sent[0].certificate)
        context.use_privatekey(sent[0].key)
    for each in sent[1:]:
        context.add_extra_chain_cert(each.certificate)
    client = SSL.Connection(context)
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                one.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    assert server.get_peer_certificate(as_cryptography=True) is not None


@pytest.mark.parametrize(
    ("trusted", "sent", "accepted"),
    [
        ((ROOT,), (FRIEND, MIDDLE), True),
        ((ROOT,), (FRIEND,), False),
        ((MIDDLE,), (FRIEND,), True),
        ((MIDDLE,), (FRIEND, MIDDLE, ROOT), True),
        ((FRIEND,), (FRIEND,), True),
        ((STRANGER, MIDDLE), (FRIEND,), True),
        ((MIDDLE,), (ROOT.issue("sibling"),), False),
        ((MIDDLE,), (STRANGER,), False),
        ((FRIEND,), (MIDDLE.issue("other"),), False),
        ((MIDDLE,), (), False),
    ],
)
def test_the_certificates_in_the_file_are_trusted_and_nothing_else(
    tmp_path: Path, trusted: tuple[Issued, ...], sent: tuple[Issued, ...], accepted: bool
) -> None:
    (tmp_path / "own.pem").write_bytes(ROOT.both_pem)
    (tmp_path / "ca.pem").write_bytes(b"".join(each.pem for each in trusted))
    own = tmp_path / "own.pem"
    contexts = ReloadingContexts(CertificateFiles(own, own), client_ca=tmp_path / "ca.pem")
    protocol: Any = None
    server = contexts.serverConnectionForTLS(protocol)
    if accepted:
        handshake(server, sent)
        return
    with pytest.raises(SSL.Error, match=r"verify failed|did not return a certificate"):
        handshake(server, sent)
