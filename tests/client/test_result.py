"""Errnos, words, and exceptions that travel."""

from __future__ import annotations

import errno
import pickle
import socket

import pytest

from greetsvc import GreetFailed
from greetsvc.client.result import Seconds, errno_of, words_of
from greetsvc.visit import Address


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), errno.ENOENT, "Name or service not known"),
        (socket.gaierror(socket.EAI_AGAIN, "Try again"), errno.EAGAIN, "Try again"),
        (socket.gaierror(socket.EAI_FAIL, "It failed"), errno.EAGAIN, "It failed"),
        (socket.gaierror(socket.EAI_FAIL), errno.EAGAIN, "the look-up failed"),
        (OSError(errno.ENETUNREACH, "x"), errno.ENETUNREACH, "Network is unreachable"),
        (OSError("odd"), errno.EIO, "odd"),
    ],
)
def test_every_error_has_an_errno_and_words(error: OSError, number: int, words: str) -> None:
    assert errno_of(error) == number
    assert words_of(error) == words


def test_a_failure_is_an_oserror_and_survives_pickling() -> None:
    failed = GreetFailed(errno.EPROTO, "bad", "tls", peer=Address("h", 1), seconds=Seconds(connect=0.5))
    back = pickle.loads(pickle.dumps(failed))
    assert isinstance(back, GreetFailed)
    assert isinstance(back, OSError)
    assert (back.errno, back.strerror, back.phase, back.peer) == (errno.EPROTO, "bad", "tls", Address("h", 1))
    assert back.seconds == Seconds(connect=0.5)
    assert str(back) == "tls: bad"
