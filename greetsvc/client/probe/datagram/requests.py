"""Datagram requests: their sockets, when they are sent again, and what an answer to one must be.

A plain greeting does not say which request it answers; only the socket that it reaches does. So each request leaves
from a socket, and a port, of its own. Importing this needs no library: a health check does.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from greetsvc.client.probe.system import no_port
from greetsvc.client.words import ECHO, EMPTY_ANSWER, OTHER_ADDRESS
from greetsvc.errors import reason_of
from greetsvc.marked import MARK
from greetsvc.net.linux import error_queue
from greetsvc.printable import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from greetsvc.client.probe.addresses import SocketAddress
    from greetsvc.client.probe.steps import Steps

__all__ = [
    "FIRST_REPEAT",
    "MAX_WAITING",
    "NO_BUFFER_REPEAT",
    "UnixSockets",
    "answering",
    "answers_request",
    "fault_of",
    "no_answer",
    "not_sent_again",
    "other_sender",
    "same",
    "send_request",
    "udp_socket",
]

FIRST_REPEAT = 0.5
"""Seconds until the request is sent again; each further wait is twice as long (RFC 8085 3.1.1 begins at 1 s)."""

MAX_WAITING = 64
"""Datagrams that are read of a socket when the time is over, in case the answer is among them."""

NO_BUFFER_REPEAT = 0.05
"""Seconds until a request is sent again for which the system had no buffer."""


def fault_of(data: bytes, limit: int, *, cut: bool) -> tuple[int, str] | None:
    """Errno and words when a datagram from the target is no greeting. ``cut``: it was longer than what was read."""
    if cut or len(data) > limit:
        return errno.EMSGSIZE, f"the answer is longer than {limit} bytes"
    if not data:
        return errno.ENODATA, EMPTY_ANSWER
    return (errno.EPROTO, ECHO) if data.startswith(MARK) else None


def answers_request(data: bytes, nonce: str | None) -> bool:
    """Whether a datagram answers the request with this nonce; of greetings only a few say which they answer."""
    if not data.startswith((b"{", b"greeted ")):
        return True
    from greetsvc.wire import decode_measured, decode_record  # costs as much as all the rest

    named = decode_record(data) if data.startswith(b"{") else decode_measured(data)
    return named is None or named.nonce == nonce


def other_sender(sender: tuple[Any, ...]) -> str:
    """The remark about an answer from another address."""
    return f"{OTHER_ADDRESS}: {sender[0]} port {sender[1]}"


def not_sent_again(error: OSError) -> str:
    """The remark when there was no socket for a further request."""
    return f"the request could not be sent again: {reason_of(error)}"


def no_answer(count: int, within: str) -> str:
    """The words for a time-out after so many requests."""
    return f"no answer to {'1 request' if count == 1 else f'{count} requests'} {within}"


def same(sender: Any, remote: tuple[Any, ...]) -> bool:
    """Whether an answer comes from the target's host and port, and for a link-local address from the same link."""
    return tuple(sender[:2]) == remote[:2] and (len(remote) < 4 or remote[3] in (0, sender[3]))


def answering(remote: SocketAddress) -> tuple[Any, ...]:
    """The address that answers: what is sent to an unspecified one (0.0.0.0, ::) reaches this host itself."""
    host = ip_address(str(remote.sockaddr[0]).partition("%")[0])
    if not (getattr(host, "ipv4_mapped", None) or host).is_unspecified:
        return remote.sockaddr
    try:
        with socket.socket(remote.family, socket.SOCK_DGRAM) as scout:
            scout.connect(remote.sockaddr)
            found: tuple[Any, ...] = scout.getpeername()
            return found
    except OSError:
        return remote.sockaddr


def send_request(sock: socket.socket, request: bytes, remote: SocketAddress | None) -> int:
    """Send a request, to ``remote`` where the socket is not connected; 0, or the errno."""
    try:
        if remote is None:
            sock.send(request)
        else:
            sock.sendto(request, remote.sockaddr)
    except OSError as error:
        return errno.EADDRNOTAVAIL if no_port(sock, error.errno or 0) else error.errno or errno.EIO
    return 0


def udp_socket(
    remote: SocketAddress, prepare: Callable[[socket.socket], None] | None = None, *, queued: bool
) -> socket.socket:
    """The socket of one UDP request. ``prepare`` sets its options.

    With ``queued`` (Linux) it stays unconnected, so that answers from other addresses are seen and reported;
    IP_RECVERR then queues the ICMP errors, which an unconnected socket would not get otherwise. Elsewhere only a
    connected socket gets them.

    :raises OSError: when there is none.
    """
    sock = socket.socket(remote.family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        if prepare is not None:
            prepare(sock)
        if queued:
            error_queue.turn_on(sock)
        else:
            sock.connect(remote.sockaddr)
    except OSError as error:
        if no_port(sock, error.errno or 0):
            error.errno = errno.EADDRNOTAVAIL
        sock.close()
        raise
    return sock


class UnixSockets(ExitStack):
    """The sockets of requests to the UNIX datagram socket at ``path``. Leaving it removes their files.

    They need addresses to be answered: ``abstract`` ones on Linux; elsewhere paths in a temporary folder. They are
    connected, so that the system drops datagrams of other senders.

    An abstract address exists in one network namespace only (unix(7)). A server in another one, as in two containers
    that share the folder of the socket, cannot answer to it. So the request is repeated from a path beside the
    socket of the server: the shared folder is the only one that both see. That works where both see it under the
    same path.
    """

    def __init__(self, path: str, steps: Steps, *, abstract: bool = sys.platform == "linux") -> None:
        super().__init__()
        self._path = path
        self._steps = steps
        self._abstract = abstract

    def open(self, *, again: bool) -> socket.socket:
        """A socket; ``again``: for a request that is repeated.

        :raises OSError: when there is none, or nothing reads at the path.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            if not self._abstract:
                sock.bind(f"{self._folder()}/answer")
            elif not (again and self._bind_beside(sock)):
                sock.bind("")
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        if self._steps.phase == "connect":
            self._steps.leave()
            self._steps.enter("greet")
        return sock

    def _folder(self) -> str:
        from tempfile import TemporaryDirectory  # half as costly as all the rest, and for macOS only

        return self.enter_context(TemporaryDirectory(prefix="greet-"))

    def _bind_beside(self, sock: socket.socket) -> bool:
        """Bind to a path beside the socket of the server; False, with a note, where that is not allowed."""
        beside = os.path.abspath(f"{self._path}.{os.urandom(4).hex()}")  # noqa: PTH100 - pathlib costs as much again

        def remove() -> None:
            with suppress(OSError):
                os.unlink(beside)  # noqa: PTH108

        try:
            sock.bind(beside)
        except OSError as error:
            self._steps.note(f"no answer address beside {one_line(self._path)}: {error.strerror or error}")
            return False
        self.callback(remove)
        os.chmod(beside, 0o666)  # noqa: PTH101, S103 - the server may be another user; only its answers pass
        self._steps.trace("*", f"the answer address is now {one_line(beside)}")
        return True
