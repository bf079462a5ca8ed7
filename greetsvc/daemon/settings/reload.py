"""What a reload makes of new settings: which have to wait for a restart, and what the log says of the others."""

from __future__ import annotations

from operator import attrgetter

from attrs import evolve

from greetsvc.daemon.settings.table import SETTINGS, Listener, Place, Setting, Settings

__all__ = ["differences", "reloadable"]

_IN_SETTINGS = [one for one in SETTINGS if Place.FILE in one.places and Place.LISTEN not in one.places]


def reloadable(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """The new settings, except for those that only a restart changes; and a line for each of these."""
    fixed = [one for one in _changed(old, new) if not one.reload]
    lines = [f"{one.name} stays as it is: only a restart changes it" for one in fixed]
    return evolve(new, **{one.attribute: getattr(old, one.attribute) for one in fixed}), lines


def differences(old: Settings, new: Settings) -> str:
    """What changed, in words, as far as it can be told from the settings."""
    before, after = (
        {f"{'proxy:' * one.endpoint.proxied}{one.endpoint.text}": one for one in settings.listeners}
        for settings in (old, new)
    )
    changed = [one.name for one in _changed(old, new)]
    for name, attribute in (("greeter", "greeter_option"), ("protocol", "protocol_option"), ("encoding", "encoding")):
        value = attrgetter(attribute)
        of_all = value(old), value(new)
        pairs = [("", of_all)] * (of_all[0] != of_all[1])
        of_each = ((f" of {text}", (value(before[text]), value(after[text]))) for text in after if text in before)
        pairs += [(of, pair) for of, pair in of_each if pair[0] != pair[1] and pair != of_all]
        changed += [f"{_named(name, *pair)}{of}" for of, pair in pairs]
    parts = {
        "changed": changed,
        "added": [text for text in after if text not in before],
        "removed": [text for text in before if text not in after],
    }
    return "; ".join(f"{verb}: {', '.join(names)}" for verb, names in parts.items() if names)


def _named(name: str, *options: str) -> str:
    """The name of a setting: a greeter that is a template is set with ``greeting``."""
    return "greeting" if name == "greeter" and all(option.startswith("text:") for option in options) else name


def _changed(old: Settings, new: Settings) -> list[Setting]:
    return [one for one in _IN_SETTINGS if one.name != "listen" and _value(old, one) != _value(new, one)]


def _value(settings: Settings, one: Setting) -> object:
    """What is compared: of a listener its endpoint, as the greeter that it got with each reading equals no other."""
    value = getattr(settings, one.attribute)
    return value.endpoint if isinstance(value, Listener) else value
