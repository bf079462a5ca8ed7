"""The command `greet`: options in, verdict out; the exit status is 0 to 3 (docs/client.md)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from greetsvc._version import __version__
from greetsvc.cli.arguments import Number, wrong
from greetsvc.cli.load_options import check_load, load_options, load_plan
from greetsvc.cli.plan import Plan, Runnable, drive
from greetsvc.client.outgoing import HIGHEST_DSCP, Claim, Outgoing, parse_claim
from greetsvc.client.probe.flows import MOST_FLOWS, ROUNDS
from greetsvc.client.probe.greet import LONGEST_REQUEST, LONGEST_TIMEOUT, Asking
from greetsvc.client.report.text import JsonLines, Nagios, Plain, Quiet, Report
from greetsvc.client.stats import NOT_GREETED, WRONG_USAGE, Demands
from greetsvc.client.target import DEFAULT_HOST, Target, parse
from greetsvc.client.tls import ClientTls
from greetsvc.console import CannotWrite, Lines, Output, ReaderGone, standard
from greetsvc.errors import ConfigError
from greetsvc.printable import one_line

__all__ = ["main"]

_TLS_OPTIONS = ("ca", "insecure", "cert", "key", "sni")


def _help(context: click.Context, _: click.Parameter, asked: bool) -> None:
    _tell(context, context.get_help() if asked else None)


def _version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    _tell(context, f"greet {__version__}" if asked else None)


def _tell(context: click.Context, text: str | None) -> None:
    """Print this and be done. click's own way ends in a traceback where standard output takes no more."""
    if text is not None:
        context.obj.write(Lines([text]))
        context.exit()


@click.command(add_help_option=False)
@click.argument("target", required=False, default=DEFAULT_HOST)
@click.option("-c", "count", type=Number(0, 10**9, whole=True), metavar="N", help="How many (1); 0: until stopped.")
@click.option(
    "-i", "interval", type=Number(0, 86400), default=1.0, metavar="S", help="Seconds from start to start (1)."
)
@click.option(
    "-t",
    "timeout",
    type=Number(0, LONGEST_TIMEOUT, above=True),
    default=5.0,
    metavar="S",
    help="How long to wait for one (5).",
)
@click.option("-4", "four", is_flag=True, help="IPv4 only.")
@click.option("-6", "six", is_flag=True, help="IPv6 only.")
@click.option("--expect", metavar="REGEX", help="What the greeting must match, or the exit status is 1.")
@click.option("--warn", type=Number(0, 86400e3, above=True), metavar="MS", help="Slower than this: exit status 1.")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object per probe, then a summary of several.")
@click.option("--nagios", is_flag=True, help="One line with perfdata.")
@click.option("--healthcheck", is_flag=True, help="Quiet; the exit status says it, and standard error why.")
@click.option("-v", "verbose", is_flag=True, help="Each step as it happens, on standard error.")
@click.option(
    "--size", type=Number(0, LONGEST_REQUEST, whole=True), metavar="BYTES", help="Size of a datagram request (1200)."
)
@load_options
@click.option("--dscp", type=Number(0, HIGHEST_DSCP, whole=True), metavar="N", help="The DSCP to send with.")
@click.option(
    "--source-port",
    type=Number(1, 65535, whole=True),
    metavar="P",
    help="One fixed source port, held against a fresh one when it fails.",
)
@click.option(
    "--flows",
    type=Number(2, MOST_FLOWS, whole=True),
    metavar="N",
    help=f"N source ports (in a row from --source-port), {ROUNDS} times each without -c; loss by flow.",
)
@click.option("--proxy-v1", metavar="SRC:PORT", help="Send a PROXY header (version 1) that names this source first.")
@click.option("--proxy-v2", metavar="SRC:PORT", help="The same in version 2.")
@click.option("--ca", metavar="FILE", help="Trust these authorities (PEM) instead of the system's.")
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
@click.option("--cert", metavar="FILE", help="Our own certificate (PEM).")
@click.option("--key", metavar="FILE", help="Its key (PEM), when that is not in the same file.")
@click.option("--sni", metavar="NAME", help="The name to ask for, and to find in the certificate.")
@click.option("--encoding", default="utf-8", metavar="NAME", help="How the greeting is decoded (utf-8).")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
@click.option("--help", is_flag=True, is_eager=True, expose_value=False, callback=_help, help="Show this and exit.")
def _command(**given: Any) -> Runnable:
    """Ask TARGET for a greeting, and say which step failed when none comes.

    TARGET is HOST, HOST:PORT, [V6]:PORT, tcp:HOST:PORT, udp:HOST:PORT, tls:HOST:PORT, unix:PATH or unixgram:PATH;
    TCP and 8088 where left out, 127.0.0.1 when there is none.

    Exit status: 0 greeted; 1 greeted, but slow, not as expected, or some lost; 2 not greeted; 3 wrong usage.
    """
    check_load(given)
    if given["flows"] and given["count"] is None:
        given["count"] = ROUNDS
    given["count"] = 1 if given["count"] is None else given["count"]
    _check_together(given)
    try:
        target = parse(given["target"])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if given["flows"]:
        _check_flows(int(given["flows"]), target)
    warn = None if given["warn"] is None else given["warn"] / 1000
    demands = Demands(expect=_pattern(given["expect"]), warn=warn)
    try:
        asking = _asking(given, target)
        asking.check(target)
        if given["duration"] is not None:
            return load_plan(given, target, asking, demands)
    except ConfigError as error:
        option = f"--{error.name}" if error.name != "family" else "-4" if given["four"] else "-6"
        wrong(option, error.value, error.why)
    return Plan(
        target=target,
        asking=asking,
        demands=demands,
        report=_report(given, target, asking, demands),
        count=int(given["count"]),
        interval=given["interval"],
        verbose=given["verbose"],
        flows=int(given["flows"] or 0),
    )


def _check_flows(flows: int, target: Target) -> None:
    from greetsvc.net.descriptors import raise_limit, remaining

    if target.local:
        wrong("--flows", flows, f"needs ports, and {target} has none")
    raise_limit()
    if flows > remaining():
        wrong("--flows", flows, f"this process may open {max(0, int(remaining()))} more files")


def _check_together(given: dict[str, Any]) -> None:
    """Options that contradict each other."""
    if given["four"] and given["six"]:
        wrong("-4", "", "not together with -6")
    ways = [
        name
        for name, key in (("--json", "as_json"), ("--nagios", "nagios"), ("--healthcheck", "healthcheck"))
        if given[key]
    ]
    if len(ways) > 1:
        wrong(ways[0], "", f"not together with {ways[1]}")
    if given["count"] == 0 and (given["nagios"] or given["healthcheck"]):
        wrong("-c", 0, f"would never end, and {ways[0]} tells at the end")
    if given["proxy_v1"] is not None and given["proxy_v2"] is not None:
        wrong("--proxy-v1", given["proxy_v1"], "not together with --proxy-v2")
    if given["flows"] and (given["source_port"] or 1) + given["flows"] > 65536:
        wrong("--flows", int(given["flows"]), f"there are not so many ports from {given['source_port']:.0f} on")


def _asking(given: dict[str, Any], target: Target) -> Asking:
    chosen = {name: given[name] for name in _TLS_OPTIONS if given[name] not in (None, False)}
    if chosen and target.transport != "tls":
        name, value = next(iter(chosen.items()))
        wrong(f"--{name}", "" if value is True else value or "''", f"needs a tls: target, and {target} is none")
    if given["size"] is not None and not target.datagram:
        wrong("--size", int(given["size"]), f"needs a udp: or unixgram: target, and {target} is none")
    return Asking(
        timeout=given["timeout"],
        family=4 if given["four"] else 6 if given["six"] else None,
        size=1200 if given["size"] is None else int(given["size"]),
        encoding=given["encoding"],
        tls=ClientTls(**chosen) if target.transport == "tls" else None,
        outgoing=Outgoing(dscp=_whole(given["dscp"]), source_port=_whole(given["source_port"]), claim=_claim(given)),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _claim(given: dict[str, Any]) -> Claim | None:
    if given["proxy_v1"] is not None:
        return parse_claim(1, given["proxy_v1"])
    return None if given["proxy_v2"] is None else parse_claim(2, given["proxy_v2"])


def _pattern(expect: str | None) -> re.Pattern[str] | None:
    if expect is None:
        return None
    try:
        return re.compile(expect)
    except (re.error, OverflowError, RecursionError) as error:
        wrong("--expect", expect, f"is no regular expression: {error}")


def _report(given: dict[str, Any], target: Target, asking: Asking, demands: Demands) -> Report:
    several = given["count"] != 1 or bool(given["flows"])
    if given["as_json"]:
        return JsonLines(target, several)
    if given["nagios"]:
        return Nagios(target, asking.timeout, demands.warn)
    plain = Plain(target, several)
    if given["healthcheck"]:
        return Quiet(plain)
    if several and sys.stdout is not None and sys.stdout.isatty():
        return _drawn(plain)
    return plain


def _drawn(plain: Plain) -> Report:
    """The same with drawings, where the terminal can show them."""
    from greetsvc.client.report.terminal import Drawn, terminal

    shown = terminal(sys.stdout, os.environ)
    return plain if shown is None else Drawn(plain, shown)


def _said(error: click.ClickException) -> str:
    """What click found wrong, in one line that names the option."""
    if isinstance(error, click.NoSuchOption):
        return f"{error.option_name}: there is no such option"
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name}: {error.message.partition(repr(error.option_name))[2].strip() or error.message}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{error.param.opts[0]} {error.message}"
    return error.message


def _run(arguments: Sequence[str], output: Output) -> int:
    try:
        plan = _command.main(list(arguments), prog_name="greet", standalone_mode=False, obj=output)
    except click.ClickException as error:
        output.complain(f"greet: {one_line(_said(error))}")
        return WRONG_USAGE
    return 0 if plan is None or isinstance(plan, int) else drive(plan, output)


def main() -> int:
    """Run the command; the exit status."""
    output = standard()
    try:
        return _run(sys.argv[1:], output)
    except ReaderGone:
        return 0
    except CannotWrite as error:
        output.complain(f"greet: standard output: {error}")
        return WRONG_USAGE
    except (KeyboardInterrupt, click.Abort):
        return NOT_GREETED
