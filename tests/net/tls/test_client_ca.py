"""Whom ``--client-ca`` lets in: what the file holds is trusted, whether it signed itself or not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from greetsvc.net.tls.certificates import CertificateFiles
from greetsvc.net.tls.contexts import ReloadingContexts
from tests.support.chains import Link, link

ROOT = link("the root", authority=True)
MIDDLE = link("the middle", ROOT, authority=True)
FRIEND = link("friend", MIDDLE)
STRANGER = link("stranger", link("another root", authority=True))


def agree(server: SSL.Connection, shown: tuple[Link, ...]) -> None:
    """A handshake over memory with a client that shows this chain; raises what the server raises."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if shown:
        context.use_certificate(shown[0].certificate)
        context.use_privatekey(shown[0].key)
    for each in shown[1:]:
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
    ("trusted", "shown", "welcome"),
    [
        ((ROOT,), (FRIEND, MIDDLE), True),
        ((ROOT,), (FRIEND,), False),
        ((MIDDLE,), (FRIEND,), True),
        ((MIDDLE,), (FRIEND, MIDDLE, ROOT), True),
        ((FRIEND,), (FRIEND,), True),
        ((STRANGER, MIDDLE), (FRIEND,), True),
        ((MIDDLE,), (link("sibling", ROOT),), False),
        ((MIDDLE,), (STRANGER,), False),
        ((FRIEND,), (link("other", MIDDLE),), False),
        ((MIDDLE,), (), False),
    ],
)
def test_what_the_file_holds_is_trusted_and_nothing_else(
    tmp_path: Path, trusted: tuple[Link, ...], shown: tuple[Link, ...], welcome: bool
) -> None:
    (tmp_path / "own.pem").write_bytes(ROOT.key_pem + ROOT.pem)
    (tmp_path / "ca.pem").write_bytes(b"".join(each.pem for each in trusted))
    own = tmp_path / "own.pem"
    contexts = ReloadingContexts(CertificateFiles(own, own), client_ca=tmp_path / "ca.pem")
    protocol: Any = None
    server = contexts.serverConnectionForTLS(protocol)
    if welcome:
        agree(server, shown)
        return
    with pytest.raises(SSL.Error, match=r"verify failed|did not return a certificate"):
        agree(server, shown)
