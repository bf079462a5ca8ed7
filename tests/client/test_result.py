"""Exceptions that travel."""

from __future__ import annotations

import errno
import pickle

from greetsvc import GreetFailed
from greetsvc.client.result import Seconds
from greetsvc.visit import Address


def test_a_failure_is_an_oserror_and_survives_pickling() -> None:
    failed = GreetFailed(errno.EPROTO, "bad", "tls", peer=Address("h", 1), seconds=Seconds(connect=0.5))
    back = pickle.loads(pickle.dumps(failed))
    assert isinstance(back, GreetFailed)
    assert isinstance(back, OSError)
    assert (back.errno, back.strerror, back.phase, back.peer) == (errno.EPROTO, "bad", "tls", Address("h", 1))
    assert back.seconds == Seconds(connect=0.5)
    assert str(back) == "tls: bad"
