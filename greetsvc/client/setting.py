"""A setting that cannot be: who wrote it must learn which one, what it was, and why."""

from __future__ import annotations

from greetsvc.printable import one_line

__all__ = ["BadSetting"]


class BadSetting(ValueError):
    """One line: the setting's name, its value, and what is wrong. Callers put their own spelling of the name."""

    def __init__(self, name: str, value: object, why: str) -> None:
        self.name = name
        self.value = one_line(str(value))
        self.why = why
        super().__init__(" ".join(filter(None, [name, self.value])) + f": {why}")
