"""Which Host headers are answered."""

from __future__ import annotations

import socket

import pytest

from greetsvc.admin.hosts import host_name, is_expected, own_names


@pytest.mark.parametrize(
    "header",
    [
        *("localhost", "localhost:9090", "LOCALHOST", "localhost."),
        *("127.0.0.1:9090", "192.0.2.7", "[::1]:9090", "[2001:db8::1]"),
        *(socket.gethostname(), "metrics.example", "Metrics.Example:80"),
    ],
)
def test_addresses_and_own_names_are_expected(header: str) -> None:
    assert is_expected(header, own_names(["Metrics.example"]))


@pytest.mark.parametrize(
    "header",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "metrics.example.evil.example"),
        *("", ":", "[::1", "::1", "localhost:x", "localhost:9090:1", "a@localhost", "localhost/", "local host"),
        *("[localhost]", "localhost\u0661", "127.0.0.1:999999"),
    ],
)
def test_a_name_of_a_stranger_is_not(header: str) -> None:
    """DNS rebinding: the name is the stranger's, the address is ours."""
    assert not is_expected(header, own_names(["metrics.example"]))


def test_the_port_is_no_part_of_the_name() -> None:
    assert host_name("[2001:db8::1]:9090") == "2001:db8::1"
    assert host_name("a.example:1") == "a.example"
