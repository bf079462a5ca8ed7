"""The first message of a TLS client, kept until it is complete, so that OpenSSL need not wait for the rest of it.

A waiting OpenSSL connection costs 46 KB, and another 200 KB when most of a long ClientHello has arrived.
"""

from __future__ import annotations

__all__ = ["LONGEST", "HelloBuffer", "HelloTooLong"]

LONGEST = 16 * 1024
"""The longest ClientHello that is accepted, in bytes. OpenSSL accepts 128 KiB; clients send 0.2 to 2 KiB."""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4


class HelloTooLong(Exception):
    """The ClientHello says that it is longer than `LONGEST`."""


class HelloBuffer:
    """Collects the records (RFC 8446 5.1) of a ClientHello, which may be cut anywhere.

    The caller bounds the size of these records.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._record = 0  # where the first record begins whose body is not yet complete
        self._collected = 0  # bytes of the message in the records before it
        self._header = b""  # as many bytes of the message's header as these records have

    def feed(self, data: bytes) -> bytes:
        """All bytes so far, if the ClientHello is complete or if it is none, which OpenSSL then refuses. Else none.

        Raises `HelloTooLong`.
        """
        held = self._held
        held += data
        while len(held) >= (body := self._record + _RECORD_HEADER):
            length = int.from_bytes(held[body - 2 : body], "big")
            if held[self._record] != _HANDSHAKE or not length:
                return bytes(held)
            end = body + length
            arrived = min(len(held), end) - body
            header = self._header + held[body : min(body + _MESSAGE_HEADER - len(self._header), len(held), end)]
            if len(header) == _MESSAGE_HEADER:
                if header[0] != _CLIENT_HELLO:
                    return bytes(held)
                message = _MESSAGE_HEADER + int.from_bytes(header[1:], "big")
                if message > LONGEST:
                    raise HelloTooLong
                if self._collected + arrived >= message:
                    return bytes(held)
            if len(held) < end:
                break
            self._record, self._header = end, header
            self._collected += length
        return b""
