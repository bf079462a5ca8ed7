"""The command `greet`: it reads the options, checks them once, and runs the plan that they make."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Literal

import click

from greetsvc._version import __version__
from greetsvc.cli.options import TLS_OPTIONS, check_combinations, greet_options, is_given, wrong
from greetsvc.cli.plan import Plan, ProbePlan, drive
from greetsvc.client.basics import NOT_GREETED, WRONG_USAGE
from greetsvc.client.options import (
    DEFAULT_ROUNDS,
    DEFAULT_SAY,
    DEFAULTS,
    NO_TALK_FROM_A_PORT,
    ROUTE_SECONDS,
    ProbeOptions,
    Talk,
    parse_proxy_claim,
)
from greetsvc.client.probe.probe import Probe
from greetsvc.client.report.base import Report
from greetsvc.client.stats import Expectations
from greetsvc.client.talk.protocols import LINES
from greetsvc.client.target import Target, default_host, parse
from greetsvc.client.tls import ClientTls
from greetsvc.console import CannotWrite, Lines, ReaderGone, standard
from greetsvc.errors import ConfigError
from greetsvc.printable import one_line
from greetsvc.wire import MAX_MEASURED

__all__ = ["main"]


_EXTRA = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)


def _print_and_exit(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Print without click, whose own way ends in a traceback when standard output cannot be written."""
    if wanted:
        context.obj.write(Lines([context.get_help() if option.name == "help" else f"greet {__version__}"]))
        context.exit()


_EXITING: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "callback": _print_and_exit}


@click.command(add_help_option=False)
@greet_options
@click.option("--version", help="Show the version and exit.", **_EXITING)
@click.option("-h", "--help", help="Show this and exit.", **_EXITING)
def _command(**given: Any) -> Plan:
    """Probe TARGET for its greeting, and say which step failed when none comes.

    TARGET is HOST, HOST:PORT, [V6]:PORT, tcp:HOST:PORT, udp:HOST:PORT, tls:HOST:PORT, unix:PATH or unixgram:PATH.
    The default is tcp:127.0.0.1:8088, with -6 tcp:[::1]:8088; TCP and port 8088 may be left out.

    Exit status: 0 greeted; 1 greeted, but slow, cut short or not as expected, or some lost; 2 not greeted; 3 wrong
    usage, or output that cannot be written.
    """
    check_combinations(given)
    if given["warn"] is not None:
        given["warn"] /= 1000
    try:
        target = parse(given["target"] if given["target"] is not None else default_host(6 if given["six"] else None))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if given["flows"]:
        _check_flows(given["flows"], given["source_port"], target)
    try:
        return _make_plan(given, target)
    except ConfigError as error:
        option = f"--{error.name}" if error.name != "family" else "-4" if given["four"] else "-6"
        wrong(option, error.value, error.why)


def _make_plan(given: dict[str, Any], target: Target) -> Plan:
    if given["duration"] is not None:
        return _load_plan(given, target)
    if given["hold"] is not None:
        return _hold_plan(given, target)
    if given["trace"] or given["mtu"]:
        return _route_plan(given, target)
    return _probe_plan(given, target)


def _check_flows(flows: int, first_port: int | None, target: Target) -> None:
    from greetsvc.net.descriptors import raise_limit, remaining

    if target.local:
        wrong("--flows", flows, f"needs an IP target, not {target}")
    if first_port is not None and first_port + flows > 65536:
        wrong("--flows", flows, f"only {65536 - first_port} ports remain from {first_port}")
    limit = raise_limit()
    if flows > remaining():
        wrong("--flows", flows, f"too many for a process that may open {limit} files in all (ulimit -n)")


def _common_options(given: dict[str, Any], target: Target) -> dict[str, Any]:
    """The options that single probes and load runs share."""
    tls = {name: given[name] for name in TLS_OPTIONS if given[name] not in (None, False)}
    if tls and target.transport != "tls":
        name, value = next(iter(tls.items()))
        wrong(f"--{name}", "" if value is True else value or "''", f"needs a tls: target, not {target}")
    if given["size"] is not None and not target.datagram:
        wrong("--size", given["size"], f"needs a udp: or unixgram: target, not {target}")
    return {
        "timeout": given["timeout"],
        "family": 4 if given["four"] else 6 if given["six"] else None,
        "size": DEFAULTS.size if given["size"] is None else given["size"],
        "encoding": given["encoding"],
        "tls": ClientTls(**tls) if target.transport == "tls" else None,
        "talk": None if given["talk"] is None else Talk(given["talk"], given["say"] or (DEFAULT_SAY,)),
    }


def _packet_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options on what a probe sends, besides its messages."""
    version: Literal[1, 2] = 1 if given["proxy_v2"] is None else 2
    source = given[f"proxy_v{version}"]
    return {"dscp": given["dscp"], "proxy": None if source is None else parse_proxy_claim(version, source)}


def _probe_plan(given: dict[str, Any], target: Target) -> ProbePlan:
    """The plan for single probes, a series, or flows."""
    expectations = Expectations.of(given["expect"], given["warn"])
    options = ProbeOptions(
        **_common_options(given, target), **_packet_options(given), source_port=given["source_port"]
    )
    flows = given["flows"] or 0
    if flows and options.talk is not None:
        wrong("--flows", flows, NO_TALK_FROM_A_PORT)
    count = given["count"] if given["count"] is not None else DEFAULT_ROUNDS if flows else 1
    several = count != 1 or flows > 0
    return ProbePlan(
        probe=Probe(target, options),
        expectations=expectations,
        report=_report(given, target, expectations, several=several),
        count=count,
        interval=given["interval"],
        verbose=given["verbose"],
        flows=flows,
        **({"unmeasured": _unmeasured(given, target, options.size)} if several else {}),
    )


def _unmeasured(given: dict[str, Any], target: Target, size: int) -> str:
    """Why a run cannot ask for measured answers, in words; empty where it can."""
    if target.transport != "udp":
        return "only UDP is measured"
    if given["expect"] is not None:
        return "--expect asks for greetings, not for measured answers"
    return f"a request of {size} bytes (--size) is too short for it" if size <= MAX_MEASURED else ""


def _load_plan(given: dict[str, Any], target: Target) -> Plan:
    """The plan for a load run. Its modules are imported here: a health check does not need them."""
    from greetsvc.cli.load_plan import LoadPlan
    from greetsvc.client.load.run import Run
    from greetsvc.client.report.terminal import find_terminal
    from greetsvc.net.descriptors import raise_limit

    raise_limit()
    load = {name: given[name] for name in ("duration", "concurrency", "rate", "expect", "warn")}
    common = _common_options(given, target)
    run = Run(target, **load, **common, measure=not _unmeasured(given, target, common["size"]))
    return LoadPlan(run, as_json=given["as_json"], terminal=find_terminal(sys.stdout, os.environ))


def _hold_plan(given: dict[str, Any], target: Target) -> Plan:
    """The plan for silent connections."""
    from greetsvc.cli.hold_plan import HoldPlan
    from greetsvc.client.report import hold as reports

    if target.datagram:
        wrong("--hold", "", f"needs a stream target, not {target}")
    given["talk"] = given["talk"] or LINES
    search, timeout = given["hold"], given["timeout"]
    reporting = {"as_json": reports.JsonHoldReport, "nagios": reports.NagiosHoldReport}
    reporting["healthcheck"] = reports.HealthHoldReport
    kind = next((kind for name, kind in reporting.items() if given[name]), None)
    return HoldPlan(
        Probe(target, ProbeOptions(**_common_options(given, target), **_packet_options(given))),
        search,
        reports.TextHoldReport(target, timeout, search.search) if kind is None else kind(target, timeout),
        given["verbose"],
    )


def _route_plan(given: dict[str, Any], target: Target) -> Plan:
    """The plan for what is asked about the route, which takes longer than a probe."""
    from greetsvc.cli.route_plan import MtuPlan, TracePlan
    from greetsvc.net.linux import error_queue

    mode = "--trace" if given["trace"] else "--mtu"
    if target.local:
        wrong(mode, "", f"needs an IP target, not {target}")
    if not error_queue.AVAILABLE:
        wrong(mode, "", "needs Linux: this system does not tell which router sent an ICMP message")
    common = _common_options(given, target)
    if not is_given("timeout") and (given["trace"] or target.datagram):
        common["timeout"] = ROUTE_SECONDS
    options = ProbeOptions(**common, dscp=given["dscp"], source_port=given["source_port"])
    options.check_target(target)
    if given["trace"]:
        return TracePlan(target, options, given["flows"] or 1, given["as_json"], given["verbose"])
    return MtuPlan(target, options, given["as_json"], given["verbose"])


def _report(given: dict[str, Any], target: Target, expectations: Expectations, *, several: bool) -> Report:
    """The report; each is imported where it is used, so that a health check loads one only."""
    if given["healthcheck"] or given["nagios"]:
        from greetsvc.client.report.monitoring import HealthReport, NagiosReport

        if given["healthcheck"]:
            return HealthReport(target)
        return NagiosReport(target, given["timeout"], expectations.warn)
    if given["as_json"]:
        from greetsvc.client.report.json_lines import JsonReport

        return JsonReport(target, several)
    from greetsvc.client.report.text import TextReport

    text = TextReport(target, several, traced=given["verbose"])
    if not several or sys.stdout is None or not sys.stdout.isatty():
        return text
    from greetsvc.client.report.terminal import DrawnReport, find_terminal

    terminal = find_terminal(sys.stdout, os.environ)
    return text if terminal is None else DrawnReport(text, terminal)


def _usage_error(error: click.ClickException) -> str:
    """What click found wrong, in one line that begins with the option."""
    if isinstance(error, click.NoSuchOption):
        near = f"; did you mean {error.possibilities[0]}?" if error.possibilities else ""
        return f"{error.option_name}: there is no such option{near}"
    if isinstance(error, click.BadOptionUsage):
        takes_none = "not take a value" in error.message
        return f"{error.option_name}: {'takes no value' if takes_none else 'needs a value'}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{error.param.opts[0]} {error.message}"
    if extra := _EXTRA.fullmatch(error.message):
        return f"{extra[1]}: there can be only one TARGET"
    return error.message


def main() -> int:
    """Run the command; the exit status."""
    output = standard()
    try:
        plan = _command.main(sys.argv[1:], prog_name="greet", standalone_mode=False, obj=output)
        # --help and --version leave an exit status, 0, in place of a plan.
        return 0 if plan is None or isinstance(plan, int) else drive(plan, output)
    except click.ClickException as error:
        output.complain(f"greet: {one_line(_usage_error(error))}")
        return WRONG_USAGE
    except ReaderGone:
        return 0
    except CannotWrite as error:
        output.complain(f"greet: standard output: {error}")
        return WRONG_USAGE
    except (KeyboardInterrupt, click.Abort):
        return NOT_GREETED
