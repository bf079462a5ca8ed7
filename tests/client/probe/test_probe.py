"""Wrong options are refused before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

import greetsvc
from greetsvc import GreetFailed, greet, greet_ex
from greetsvc.client import ClientTls
from greetsvc.errors import ConfigError


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        ("127.0.0.1", {"timeout": 0}, "timeout 0: must be more than 0 and at most 86400 seconds"),
        ("127.0.0.1", {"timeout": float("nan")}, "timeout nan: must be more than 0 and at most 86400 seconds"),
        ("127.0.0.1", {"timeout": float("inf")}, "timeout inf: must be more than 0 and at most 86400 seconds"),
        ("127.0.0.1", {"family": 5}, "family 5: must be 4, 6 or None"),
        ("127.0.0.1", {"family": 6}, "family tcp:127.0.0.1:8088: the address is IPv4, not IPv6"),
        ("::1", {"family": 4}, "family tcp:[::1]:8088: the address is IPv6, not IPv4"),
        ("unix:/x", {"family": 4}, "family unix:/x: a UNIX socket has no address family"),
        ("udp:127.0.0.1", {"size": -1}, "size -1: must be from 0 to 65507 bytes"),
        ("udp:127.0.0.1", {"size": 65508}, "size 65508: must be from 0 to 65507 bytes"),
        ("127.0.0.1", {"limit": 0}, "limit 0: must be at least 1 byte"),
        ("127.0.0.1", {"encoding": "klingon"}, "encoding klingon: is not a text encoding that Python knows"),
        ("127.0.0.1", {"encoding": "hex"}, "encoding hex: is not a text encoding that Python knows"),
        ("127.0.0.1", {"encoding": "a\0b"}, "encoding a\\x00b: is not a text encoding that Python knows"),
        ("127.0.0.1", {"encoding": "\udcff"}, "encoding \\udcff: is not a text encoding that Python knows"),
        ("127.0.0.1", {"encoding": ""}, "encoding '': is not a text encoding that Python knows"),
        ("127.0.0.1", {"encoding": "idna"}, "encoding idna: cannot show bytes that do not decode"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_option_is_a_value_error_of_one_line(target: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await greet(target, **options)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (5, "target 5: must be text such as 'udp:127.0.0.1:8088'"),
        (None, "target None: must be text such as 'udp:127.0.0.1:8088'"),
        (b"127.0.0.1", "target b'127.0.0.1': must be text such as 'udp:127.0.0.1:8088'"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_target_that_is_not_text_is_a_value_error_of_one_line(target: Any, line: str) -> None:
    for asks in (greet, greet_ex):
        with pytest.raises(ValueError, match="target ") as caught:
            await asks(target)
        assert str(caught.value) == line


@pytest_twisted.ensureDeferred
async def test_tls_options_need_a_tls_target() -> None:
    with pytest.raises(ValueError, match="needs a tls: target"):
        await greet("127.0.0.1", tls=ClientTls(insecure=True))


@pytest_twisted.ensureDeferred
async def test_an_address_of_the_requested_family_is_probed(free_port: int) -> None:
    with pytest.raises(GreetFailed) as caught:
        await greet(f"127.0.0.1:{free_port}", family=4)
    assert caught.value.phase == "connect"


def test_the_public_names_come_from_the_client_when_first_used() -> None:
    for name in ("greet", "greet_ex", "Greeting", "GreetFailed"):
        assert getattr(greetsvc, name).__module__.startswith("greetsvc.client")
