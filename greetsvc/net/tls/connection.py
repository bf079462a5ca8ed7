"""TLS connections whose errors Twisted can read."""

from __future__ import annotations

from OpenSSL import SSL

__all__ = ["CLOSED_EARLY", "Connection"]

CLOSED_EARLY = "close notify before the handshake was done"
"""The reason that stands for it, in place of OpenSSL's."""


class Connection(SSL.Connection):
    """A TLS connection that reports a close_notify during the handshake as it reports every other fault.

    pyOpenSSL raises `SSL.ZeroReturnError` then, which has no arguments. Twisted's ``_representsEOF`` (26.10) reads
    the first argument of any error of a handshake, so seven bytes of a peer (``15 03 03 00 02 01 00``) would end in
    an IndexError.
    """

    def do_handshake(self) -> None:
        """See `SSL.Connection`."""
        try:
            super().do_handshake()
        except SSL.ZeroReturnError:
            raise SSL.Error([("SSL routines", "", CLOSED_EARLY)]) from None
