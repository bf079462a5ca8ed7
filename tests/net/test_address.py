"""Socket names as Twisted's addresses."""

from __future__ import annotations

import socket
from typing import Any, Literal

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from greetsvc.net.address import address_factory


@pytest.mark.parametrize("kind", ["TCP", "UDP"])
def test_an_address_equals_the_one_that_twisted_makes(kind: Literal["TCP", "UDP"]) -> None:
    names: list[tuple[int, Any, Any]] = [
        (socket.AF_INET, ("192.0.2.1", 5), IPv4Address(kind, "192.0.2.1", 5)),
        (socket.AF_INET6, ("2001:db8::1", 5, 7, 0), IPv6Address(kind, "2001:db8::1", 5, 7, 0)),
        (socket.AF_UNIX, "/run/x", UNIXAddress("/run/x")),
        (socket.AF_UNIX, b"\0abstract", UNIXAddress(b"\0abstract")),
        (socket.AF_UNIX, "", UNIXAddress(None)),
        (socket.AF_UNIX, None, UNIXAddress(None)),
    ]
    for family, name, expected in names:
        made = address_factory(family, kind)(name)
        assert (made, repr(made)) == (expected, repr(expected))
        if family != socket.AF_UNIX:  # Twisted looks for the file to hash one
            assert hash(made) == hash(expected)


def test_the_host_of_a_link_local_address_has_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getnameinfo", lambda name, _: (f"{name[0]}%eth{name[3]}", str(name[1])))
    made = address_factory(socket.AF_INET6, "TCP")(("fe80::1", 5, 0, 2))
    assert made == IPv6Address("TCP", "fe80::1%eth2", 5, 0, 2)


def test_an_address_family_that_is_not_supported_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="address family 17"):
        address_factory(17, "UDP")
