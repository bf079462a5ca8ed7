"""TLS connections whose errors Twisted can read."""

from __future__ import annotations

from OpenSSL import SSL

__all__ = ["CLOSED_EARLY", "Connection"]

CLOSED_EARLY = "close notify before the handshake was done"
"""The reason in its `SSL.Error`, where OpenSSL's would be."""


class Connection(SSL.Connection):
    """A TLS connection that raises an ordinary `SSL.Error` for a close_notify during the handshake.

    pyOpenSSL raises an `SSL.ZeroReturnError` without arguments for it. Twisted's ``_representsEOF`` (26.10) reads the
    first argument of every error of a handshake, so seven bytes from a peer (``15 03 03 00 02 01 00``) cause an
    IndexError.
    """

    def do_handshake(self) -> None:
        """See `SSL.Connection`."""
        try:
            super().do_handshake()
        except SSL.ZeroReturnError:
            raise SSL.Error([("SSL routines", "", CLOSED_EARLY)]) from None
