"""Twisted's own tests of transports hold over our listener, but for what differs on purpose."""

from __future__ import annotations

import sys

import pytest

from tests.lab.twisted_suite import LISTENERS, MODULES, REACTORS, run

pytestmark = pytest.mark.lab

ON_PURPOSE = {
    "UNIXTestsBuilder.test_listenFailure": (
        "makes BasePort.createInternetSocket fail, a private step of Twisted's port that ours does not have; that a "
        "socket which cannot be made or bound is a CannotListenError is tested in tests/net/test_sockets.py"
    ),
    "UNIXTestsBuilder.test_mode": (
        "looks at the file after stopListening, which Twisted closes in the next turn; ours is closed and its file "
        "removed at once, as it must be where no reactor runs (--check, a wrong setting); the mode is tested in "
        "tests/net/stream/test_facade.py"
    ),
    "RealSocketTests.test_closePortInProtocolFactory": (
        "asserts that the port is a tcp.Port; ours is an IListeningPort of another class; that a factory may close "
        "its port is tested in tests/net/stream/test_listener.py"
    ),
}
"""The tests that must fail, by name, and why."""


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("reactor", REACTORS)
@pytest.mark.parametrize("listener", LISTENERS)
def test_what_twisted_promises_of_its_listener_holds_for_ours(listener: str, reactor: str, module: str) -> None:
    expected = {name for name in ON_PURPOSE if listener != "stock" and module == "test_unix"}
    results = run(module, reactor, listener, alone=expected)
    sys.stdout.write(f"{listener} {reactor} {module}: {results}\n")
    wrong = "\n".join(f"{name}: {why}" for name, why in results.failed.items() if name not in expected)
    assert not wrong
    assert not expected - results.failed.keys(), "no longer differs: take it off the list"
    assert len(results.passed) > 20
