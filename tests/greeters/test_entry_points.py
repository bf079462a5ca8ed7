"""Greeters are found through entry points: ours and those of third parties."""

from __future__ import annotations

from pathlib import Path

import pytest

from greetsvc.greeters.registry import find_greeter, known_greeters
from greetsvc.visit import Address, Visit

VISIT = Visit("tcp", Address("192.0.2.1", 5), Address("", 0))


def test_the_built_in_greeters_are_known_and_described() -> None:
    known = dict(known_greeters())
    assert {"text", "file", "fortune", "daytime", "path"} <= set(known)
    assert all(description and "\n" not in description for description in known.values())


def test_a_greeter_is_made_from_its_argument_and_encoding() -> None:
    assert find_greeter("text", "Grüße", "latin-1").greet(VISIT) == "Grüße".encode("latin-1")


@pytest.mark.parametrize("kind", ["", "TEXT", "nobody", "text "])
def test_an_unknown_greeter_is_refused_and_the_known_ones_named(kind: str) -> None:
    with pytest.raises(ValueError, match="known are daytime, file, fortune, path, text") as caught:
        find_greeter(kind, "", "utf-8")
    assert repr(kind) in str(caught.value)


def test_an_unknown_encoding_is_refused_even_by_greeters_that_use_none() -> None:
    with pytest.raises(ValueError, match="'utf-99' is not a text encoding"):
        find_greeter("path", "", "utf-99")


@pytest.mark.usefixtures("third_party")
def test_a_third_party_greeter_works_like_ours() -> None:
    assert find_greeter("shout", "hello", "utf-8").greet(VISIT) == b"HELLO 192.0.2.1"
    with pytest.raises(ValueError, match="nothing to shout"):
        find_greeter("shout", "", "utf-8")


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gone", "acme_not_there"),
        ("nameless", "Nobody"),
        ("broken", "invalid syntax"),
        ("leaving", r"SystemExit\(5\)"),
    ],
)
def test_a_greeter_that_does_not_load_is_refused_by_name_and_others_work(kind: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"the greeter {kind!r} .* does not load: .*{says}"):
        find_greeter(kind, "x", "utf-8")
    assert find_greeter("text", "hi", "utf-8").greet(VISIT) == b"hi"


def test_the_list_shows_greeters_that_do_not_load(third_party: Path) -> None:
    known = dict(known_greeters())
    assert third_party.exists()
    assert known["shout"] == "Shouts its argument."
    assert "does not load" in known["broken"]
    assert "Thank you" in known["text"]


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("needs", "says"),
    [
        ("{'pear'}", "needs 'pear'; a visit has transport, peer, local"),
        ("['peer', 'Path']", "needs 'Path'"),
        ("{'peer', 'when '}", "needs 'when '"),
        ("{'tls_version'}", "needs 'tls_version'"),
        ("'peer'", "has needs 'peer', which must be a set of names"),
        ("5", "has needs 5"),
        ("[[]]", r"needs \[\]"),
    ],
)
def test_needs_that_are_no_fields_of_a_visit_are_refused(needs: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"the greeter 'needing' {says}"):
        find_greeter("needing", needs, "utf-8")
    assert find_greeter("needing", "{'peer', 'tls', 'path'}", "utf-8")


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("needs", "says"), [("1/0", "ZeroDivisionError"), ("{}[1]", "KeyError"), ("exit_", "NameError")]
)
def test_a_greeter_that_cannot_tell_its_needs_is_refused(needs: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"the greeter 'unsure' cannot tell its needs: {says}"):
        find_greeter("unsure", needs, "utf-8")


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize("argument", ["__import__('sys').exit(3)", "__import__('os').listdir(3.5)"])
def test_a_factory_that_raises_anything_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=r"the greeter 'needing' cannot be made: (SystemExit|TypeError)"):
        find_greeter("needing", argument, "utf-8")


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize("argument", ["", "hello"])
def test_a_greeter_of_two_distributions_is_refused_and_both_are_named(argument: str) -> None:
    with pytest.raises(ValueError, match="'daytime' is in several distributions") as caught:
        find_greeter("daytime", argument, "utf-8")
    assert "acme-greeters (acme_greeters:Shouter)" in str(caught.value)
    assert "greetsvc (greetsvc.greeters.daytime:DaytimeGreeter.from_argument)" in str(caught.value)
    assert "in several distributions" in dict(known_greeters())["daytime"]
    assert find_greeter("text", "hi", "utf-8").greet(VISIT) == b"hi"
