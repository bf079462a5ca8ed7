"""One of several processes is woken for a connection, not all."""

from __future__ import annotations

import re
import select
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from twisted.internet import reactor
from twisted.internet.epollreactor import EPollReactor

from greetsvc.net.linux.wakeups import wake_one

needs_epoll = pytest.mark.skipif(not hasattr(select, "EPOLLEXCLUSIVE"), reason="Linux only")


def _events(poller: select.epoll, descriptor: int) -> int:
    """What an epoll waits for, from the kernel (proc_pid_fdinfo(5))."""
    told = Path(f"/proc/self/fdinfo/{poller.fileno()}").read_text()
    (found,) = re.findall(rf"^tfd: +{descriptor} events: +([0-9a-f]+)", told, re.MULTILINE)
    return int(found, 16)


@needs_epoll
def test_the_kernel_is_to_wake_one_process_only() -> None:
    """And the reactor may still take the descriptor away."""
    with select.epoll() as poller, socket.create_server(("127.0.0.1", 0)) as listener:
        poller.register(listener.fileno(), select.EPOLLIN)
        wake_one(SimpleNamespace(_poller=poller), listener.fileno())
        assert _events(poller, listener.fileno()) & select.EPOLLEXCLUSIVE
        with socket.create_connection(listener.getsockname()):
            assert poller.poll(10) == [(listener.fileno(), select.EPOLLIN)]
        poller.unregister(listener.fileno())


@needs_epoll
@pytest.mark.skipif(not isinstance(reactor, EPollReactor), reason="another reactor")
def test_the_reactor_has_the_epoll_that_this_needs() -> None:
    assert isinstance(reactor._poller, select.epoll)  # type: ignore[attr-defined]


def test_another_reactor_goes_on_as_before() -> None:
    wake_one(SimpleNamespace(), 0)
