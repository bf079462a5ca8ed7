"""What every option of `greet` has in common: numbers in a range, and one line for what is wrong. Needs click."""

from __future__ import annotations

import math
import re
from typing import Any, NoReturn

import click

from greetsvc.printable import one_line

__all__ = ["Number", "wrong"]


class Number(click.ParamType[float]):
    """A finite decimal number in a range."""

    name = "number"

    def __init__(self, least: float, most: float, *, whole: bool = False, above: bool = False) -> None:
        self.least = least
        self.most = most
        self.whole = whole
        self.above = above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that was written; the message names what was written."""
        if not isinstance(value, str):
            return float(value)
        kind = r"[+-]?[0-9]{1,18}" if self.whole else r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
        number = float(value) if re.fullmatch(kind, value) else math.nan
        low = number > self.least if self.above else number >= self.least
        if not (low and number <= self.most):
            self.fail(f"{value}: must be {self._range()}", param, ctx)
        return number

    def _range(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{what} above {self.least:g}, at most {self.most:g}"
        return f"{what} from {self.least:g} to {self.most:.10g}"


def wrong(option: str, value: object, why: str) -> NoReturn:
    """Refuse what was written after this option, in one line.

    :raises click.UsageError: always.
    """
    raise click.UsageError(" ".join(filter(None, [option, one_line(str(value))])) + f": {why}")
