"""The options of a load run: what `greet` takes for it, what goes together, what plan they come to. Needs click."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from greetsvc.cli.arguments import Number, wrong
from greetsvc.cli.plan import Runnable
from greetsvc.client.bounds import LONGEST_DURATION, MOST_CONCURRENT, MOST_RATE
from greetsvc.client.probe.greet import Asking
from greetsvc.client.stats import Demands
from greetsvc.client.target import Target

__all__ = ["check_load", "load_options", "load_plan"]

_OPTIONS = (
    click.option(
        "--duration",
        type=Number(0, LONGEST_DURATION, above=True),
        metavar="S",
        help="A load run of so many seconds.",
    ),
    click.option(
        "--concurrency",
        type=Number(1, MOST_CONCURRENT, whole=True),
        metavar="N",
        help="So many at once (16; with --rate at most so many, 1024).",
    ),
    click.option(
        "--rate",
        type=Number(0, MOST_RATE, above=True),
        metavar="R",
        help="So many a second, timed from when each was meant to begin.",
    ),
)
_TAKES = frozenset(
    [
        *("target", "duration", "concurrency", "rate", "timeout", "four", "six"),
        *("expect", "warn", "as_json", "size", "encoding", "ca", "insecure"),
        *("cert", "key", "sni"),
    ]
)
"""The parameters that a load run heeds; another one together with --duration is a mistake."""


def load_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_load(given: dict[str, Any]) -> None:
    """What a load run needs, and what it cannot be."""
    if given["duration"] is None:
        for name in ("concurrency", "rate"):
            if given[name] is not None:
                wrong(f"--{name}", f"{given[name]:.10g}", "needs --duration")
        return
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is ParameterSource.COMMANDLINE and parameter.name not in _TAKES:
            wrong(parameter.opts[0], "", "not together with --duration")


def load_plan(given: dict[str, Any], target: Target, asking: Asking, demands: Demands) -> Runnable:
    """The load run that was asked for.

    :raises ConfigError: for one that cannot be.
    """
    from greetsvc.cli.load_plan import LoadPlan
    from greetsvc.client.load.pacing import Loading
    from greetsvc.client.load.run import Run
    from greetsvc.client.report.terminal import terminal
    from greetsvc.net.descriptors import raise_limit

    raise_limit()
    concurrency = None if given["concurrency"] is None else int(given["concurrency"])
    load = Run.of(target, asking, Loading(given["duration"], concurrency, given["rate"]), demands)
    return LoadPlan(load, as_json=given["as_json"], terminal=terminal(sys.stdout, os.environ))
