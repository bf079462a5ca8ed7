"""The options of `greet` as click declares them, and which of them go together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import click
from attrs import frozen
from click.core import ParameterSource

from greetsvc.client import options as limits
from greetsvc.client.hold import DEFAULT_MOST, Search
from greetsvc.client.options import DEFAULT_INTERVAL, DEFAULT_ROUNDS, DEFAULTS
from greetsvc.client.talk.protocols import PROTOCOLS
from greetsvc.printable import one_line

__all__ = ["TLS_OPTIONS", "Number", "Silence", "check_combinations", "greet_options", "is_given", "wrong"]

TLS_OPTIONS = ("ca", "insecure", "cert", "key", "sni")

_FORMATS = {"--json": "as_json", "--nagios": "nagios", "--healthcheck": "healthcheck"}
_LOAD_OPTIONS = {"target", "duration", "concurrency", "rate", "timeout", "four", "six"}
_LOAD_OPTIONS |= {"expect", "warn", "as_json", "size", "encoding", "talk", "say", *TLS_OPTIONS}
_HOLD_OPTIONS = {"target", "hold", "talk", "say", "timeout", "four", "six", "as_json", "nagios", "healthcheck"}
_HOLD_OPTIONS |= {"verbose", "encoding", "dscp", "proxy_v1", "proxy_v2", *TLS_OPTIONS}
_NEEDS = {"concurrency": ("duration",), "rate": ("duration",), "say": ("talk", "hold")}
_TRACE_OPTIONS = {"target", "trace", "timeout", "four", "six", "as_json", "verbose", "size", "dscp"}
_TRACE_OPTIONS |= {"source_port", "flows"}
_MTU_OPTIONS = {"target", "mtu", "timeout", "four", "six", "as_json", "verbose", "dscp", "source_port", *TLS_OPTIONS}
_MODES = {"duration": _LOAD_OPTIONS, "hold": _HOLD_OPTIONS, "trace": _TRACE_OPTIONS, "mtu": _MTU_OPTIONS}
"""What `greet` does in place of probes, by its option, and the options that this uses; it refuses the others."""


@frozen
class Number(click.ParamType[float]):
    """A finite decimal number in a range."""

    name = "number"

    least: float
    most: float
    whole: bool = False
    above: bool = False

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that was written; the message quotes what was written."""
        if not isinstance(value, str):
            return float(value)
        kind = r"[+-]?[0-9]{1,18}" if self.whole else r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
        number = float(value) if re.fullmatch(kind, value) else math.nan
        low = number > self.least if self.above else number >= self.least
        if not (low and number <= self.most):
            what = "a whole number" if self.whole else "a number"
            start = "above 0, at most" if self.above else f"from {self.least:g} to"
            self.fail(f"{value}: must be {what} {start} {self.most:.10g}", param, ctx)
        return int(number) if self.whole else number


class Silence(click.ParamType[Search]):
    """How long to be silent: seconds, ``auto``, or ``auto:`` and the most seconds."""

    name = "silence"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Search:
        """The search for it; a number is a search that tries just that."""
        auto, _, most = value.partition(":")
        if value == "auto":
            return Search(DEFAULT_MOST)
        try:
            seconds = _above_0(_DAY).convert(most if auto == "auto" else value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value}: must be a number above 0, at most {_DAY:.10g}, or auto, or auto:S", param, ctx)
        return Search(seconds, search=auto == "auto")


def wrong(option: str, value: object, why: str) -> NoReturn:
    """Refuse an option, in one line.

    :raises click.UsageError: always.
    """
    raise click.UsageError(" ".join(filter(None, [option, one_line(str(value))])) + f": {why}")


def _whole(least: int, most: int) -> Number:
    return Number(least, most, whole=True)


def _above_0(most: float) -> Number:
    return Number(0, most, above=True)


_DAY = limits.MAX_SECONDS
_DEFAULTS = {"interval": DEFAULT_INTERVAL, "timeout": DEFAULTS.timeout, "encoding": DEFAULTS.encoding}
_REPEATED = ("--say",)
_OPTIONS: list[tuple[str, str, click.ParamType[Any] | None, str]] = [
    ("-c count", "N", _whole(0, 10**9), "Number of probes; 0: until stopped (1)."),
    ("-i interval", "S", Number(0, _DAY), f"Seconds from one start to the next ({DEFAULT_INTERVAL:g})."),
    ("-t timeout", "S", _above_0(_DAY), f"Time-out of one probe, in seconds ({DEFAULTS.timeout:g})."),
    ("-4 four", "", None, "Use IPv4 only."),
    ("-6 six", "", None, "Use IPv6 only."),
    ("--expect", "REGEX", None, "Exit status 1 when nothing in the greeting matches."),
    ("--warn", "MS", _above_0(1000 * _DAY), "Exit status 1 when a probe takes longer."),
    ("--json as_json", "", None, "Print JSON Lines: an object per probe, then a summary."),
    ("--nagios", "", None, "Print one line with perfdata for a monitoring system."),
    ("--healthcheck", "", None, "Print nothing, except errors on standard error."),
    ("-v verbose", "", None, "Print each step as it happens, on standard error."),
    ("--size", "BYTES", _whole(0, limits.MAX_DATAGRAM), f"Size of a datagram request ({DEFAULTS.size})."),
    ("--duration", "S", _above_0(_DAY), "Make a load run of S seconds."),
    ("--concurrency", "N", _whole(1, limits.MAX_CONCURRENCY), "Probes in flight (16, or 1024 with --rate)."),
    ("--rate", "R", _above_0(limits.MAX_RATE), "Start R probes a second, timed from their intended starts."),
    ("--trace", "", None, "Show each router on the way to the target's port."),
    ("--mtu", "", None, "Find the largest packets that pass, there and back."),
    ("--dscp", "N", _whole(0, limits.MAX_DSCP), "Send with this DSCP."),
    ("--source-port", "P", _whole(1, 65535), "Send from this port; when it fails, compare with a fresh one."),
    ("--flows", "N", _whole(2, limits.MAX_FLOWS), f"Probe from N source ports, -c times each ({DEFAULT_ROUNDS})."),
    ("--proxy-v1", "SRC:PORT", None, "First send a PROXY header (version 1) with this source."),
    ("--proxy-v2", "SRC:PORT", None, "First send a PROXY header (version 2) with this source."),
    ("--ca", "FILE", None, "Trust the authorities in this PEM file instead of the system's."),
    ("--insecure", "", None, "Accept any certificate."),
    ("--cert", "FILE", None, "Our own certificate (PEM)."),
    ("--key", "FILE", None, "Its private key (PEM), if it is not in the same file."),
    ("--sni", "NAME", None, "The server name to send, and to find in the certificate."),
    ("--talk", "NAME", None, f"Talk after the greeting: {', '.join(PROTOCOLS)}."),
    ("--say", "TEXT", None, f"With --talk: a message; repeatable ({limits.DEFAULT_SAY})."),
    ("--hold", "S", Silence(), "Does a connection survive S seconds of silence? auto, or auto:S: find the limit."),
    ("--encoding", "NAME", None, f"Encoding of the greeting ({DEFAULTS.encoding})."),
]
"""Names, metavar (none: a flag), type (none: text) and help of each option, in the order of ``--help``."""


def greet_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `greet`, and its argument."""
    for names, metavar, kind, text in reversed(_OPTIONS):
        *_, name = names.split()
        value: dict[str, Any] = {"metavar": metavar, "type": kind, "default": _DEFAULTS.get(name.lstrip("-"))}
        value["multiple"] = name in _REPEATED
        command = click.option(*names.split(), help=text, **(value if metavar else {"is_flag": True}))(command)
    return click.argument("target", required=False)(command)


def check_combinations(given: dict[str, Any]) -> None:
    """Refuse options that cannot be combined.

    :raises click.UsageError: for the first one.
    """
    if given["four"] and given["six"]:
        wrong("-4", "", "cannot be combined with -6")
    formats = [name for name, key in _FORMATS.items() if given[key]]
    if len(formats) > 1:
        wrong(formats[0], "", f"cannot be combined with {formats[1]}")
    if given["count"] == 0 and (given["nagios"] or given["healthcheck"]):
        wrong("-c", 0, f"cannot be combined with {formats[0]}, which reports at the end")
    if given["proxy_v1"] is not None and given["proxy_v2"] is not None:
        wrong("--proxy-v1", given["proxy_v1"], "cannot be combined with --proxy-v2")
    for name, modes in _NEEDS.items():
        if is_given(name) and all(given[mode] is None for mode in modes):
            value = given[name][0] if name == "say" else f"{given[name]:.10g}"
            wrong(f"--{name}", value, f"needs {' or '.join(f'--{mode}' for mode in modes)}")
    for mode, used in _MODES.items():
        if given[mode] not in (None, False):
            for parameter in click.get_current_context().command.params:
                if is_given(str(parameter.name)) and parameter.name not in used:
                    wrong(parameter.opts[0], "", f"cannot be combined with --{mode}")
            return


def is_given(name: str) -> bool:
    """Whether an option is on the command line."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
