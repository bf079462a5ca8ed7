"""`greet --healthcheck` in its plain form, without Twisted, click, attrs and rich: a tenth of their cost.

It takes a target (not tls:), -t, -4 and -6. With anything else, and for every wrong usage, the ordinary command
decides. Both give the same lines and exit statuses; a test compares them.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import NoReturn

from greetsvc.client.basics import BASICS, FLAWED, GREETED, NOT_GREETED, Basics, Family
from greetsvc.client.names import address_of
from greetsvc.client.target import Target, default_host, parse
from greetsvc.client.words import health_line
from greetsvc.interrupts import raise_interrupts

__all__ = ["plain_form", "run"]

_SECONDS = re.compile(r"(?!0*\.?0*$)[0-9]{1,4}(\.[0-9]{1,6})?")
"""Time-outs in the plainest form, and within the bounds."""


def plain_form(arguments: Sequence[str]) -> tuple[Target, Basics] | None:
    """What to probe; None when it takes the ordinary command to know, or to do it."""
    timeout, families, targets = BASICS.timeout, set[Family](), list[str]()
    rest = iter(arguments)
    for argument in rest:
        if argument == "-t":
            seconds = next(rest, "")
            if not _SECONDS.fullmatch(seconds):
                return None
            timeout = float(seconds)
        elif argument in {"-4", "-6"}:
            families.add(4 if argument == "-4" else 6)
        elif argument.startswith("-") and argument != "--healthcheck":
            return None
        elif argument != "--healthcheck":
            targets.append(argument)
    if len(families) > 1 or len(targets) > 1:
        return None
    family = next(iter(families), None)
    try:
        target = parse(targets[0] if targets else default_host(family))
    except ValueError:
        return None
    address = None if target.local else address_of(target.host)
    wrong_family = family is not None and (target.local or (address is not None and address.version != family))
    return None if wrong_family or target.transport == "tls" else (target, Basics(timeout, family))


def run(target: Target, options: Basics) -> int:
    """Probe, and say on standard error what is wrong; the exit status. SIGINT and SIGTERM end it with status 2."""
    from greetsvc.client.probe.quick import NotGreeted, probe
    from greetsvc.console import standard

    raise_interrupts()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        flaw, status = probe(target, options), GREETED
    except NotGreeted as failed:
        flaw, status = str(failed), NOT_GREETED
    except KeyboardInterrupt:
        return NOT_GREETED
    if flaw:
        standard().complain(health_line(target, flaw))
        status = status or FLAWED
    return status


def _stop(*_: object) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
