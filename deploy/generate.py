"""Writes the manual pages, and the completions for bash, zsh and fish, from the options that the commands declare.

``make generated`` runs it. A test fails when a file is out of date.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

import click
from attrs import frozen

from greetsvc._version import __version__
from greetsvc.cli.command import _command as greet_command
from greetsvc.client.talk.protocols import PROTOCOLS
from greetsvc.daemon.settings.table import SETTINGS, Place

__all__ = ["files", "main"]

HERE = Path(__file__).parent

DATE = "2026-11-26"
"""The last change of what the pages say besides the options."""

Entry = tuple[str, str]
"""A term of a list and what it means."""


@frozen
class Option:
    """An option with its names, as ``-h`` and ``--help``. ``metavar`` is empty for a flag."""

    names: tuple[str, ...]
    metavar: str
    meaning: str
    words: tuple[str, ...] = ()
    repeatable: bool = False

    @property
    def file(self) -> bool:
        """Whether its value is the name of a file."""
        return self.metavar == "FILE"


@frozen
class Command:
    """A command, and what its manual page says besides its options."""

    name: str
    section: int
    summary: str
    operand: str
    options: tuple[Option, ...]
    description: tuple[str, ...]
    sections: Mapping[str, str | tuple[Entry, ...]]
    """Titles, each with a text or with a list."""


def _greet() -> Command:
    words = {"talk": tuple(PROTOCOLS)}
    options = tuple(
        Option(
            tuple(one.opts), "" if one.is_flag else one.metavar or "", one.help or "", words.get(one.name or "", ())
        )
        for one in greet_command.params
        if isinstance(one, click.Option)
    )
    description = tuple(" ".join(part.split()) for part in (greet_command.help or "").split("\n\n"))
    return Command(
        "greet",
        1,
        "ask for a greeting, and say what the network did to it",
        "[TARGET]",
        options,
        description,
        {
            "EXAMPLES": (
                ("greet example.org", "Probe TCP port 8088 of a host."),
                ("greet -c 0 udp:[2001:db8::1]:8088", "Probe over UDP each second, until Ctrl-C."),
                ("greet --duration 10 --rate 1000 example.org", "Make a load run, and print its percentiles."),
                ("greet --healthcheck tcp:127.0.0.1:8088", "Say nothing, and let the exit status tell."),
            ),
            "SEE ALSO": "greetsvc(8), nc(1), traceroute(1)",
        },
    )


def _greetsvc() -> Command:
    options = tuple(
        Option((f"--{one.name}",), one.metavar, one.help, one.words, one.repeatable)
        for one in SETTINGS
        if Place.COMMAND_LINE in one.places
    )
    return Command(
        "greetsvc",
        8,
        "say hello to whoever connects or sends a datagram",
        "",
        options,
        (
            "greetsvc greets each peer over TCP, TLS, UDP and UNIX sockets, and closes. It runs in the foreground,"
            " and logs to standard output: it is the same as twistd -n --pidfile= greetsvc. The command twistd"
            " greetsvc runs it as a daemon, with the options of twistd(1) before its own.",
        ),
        {
            "ENDPOINTS": (
                (
                    "tcp:PORT[:interface=ADDRESS]",
                    r"TCP; every IPv4 address if none is given. An address has \: for a colon.",
                ),
                ("udp:PORT[:interface=ADDRESS]", "UDP."),
                ("unix:PATH[:mode=660], unixgram:PATH[:mode=660]", "UNIX sockets, for streams and for datagrams."),
                ("tls:DIR:port=PORT", "TLS, with the certificates and keys in the *.pem files of a folder."),
                ("inherited:NAME, inherited:INDEX", "Sockets that the service manager passes."),
                ("proxy:ENDPOINT", "A stream endpoint behind a load balancer that sends PROXY headers."),
            ),
            "SIGNALS": (
                (
                    "SIGTERM, SIGINT",
                    "Stop: accept nothing more, and give open connections --drain seconds. A second one ends them.",
                ),
                ("SIGHUP", "Read the file of --config again and use it. If it cannot be used, nothing changes."),
                ("SIGUSR1", "Rotate the log file of twistd -l, or open it again if it was moved away."),
                ("SIGUSR2", "Start the installed version on the same sockets; end when it serves."),
            ),
            "EXIT STATUS": "0 after a stop; 1 if the service cannot start: then one line on standard error says why.",
            "ENVIRONMENT": (
                ("NOTIFY_SOCKET, WATCHDOG_USEC", "What a service manager sets: see sd_notify(3)."),
                ("LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID", "The sockets that it passes: see sd_listen_fds(3)."),
            ),
            "EXAMPLES": (
                ("greetsvc", "Greet on TCP and UDP port 8088 of every address."),
                ("greetsvc --listen tcp:17 --greeter fortune:quotes", "Give quotes of the day, from a file."),
                ("greetsvc --check --config greetsvc.toml", "Check the settings, also beside a running service."),
                ("greetsvc --print-unit service", "Print a unit for systemd."),
            ),
            "SEE ALSO": "greet(1), twistd(1), systemd.service(5)",
        },
    )


# The manual page (man(7))


def _roff(text: str) -> str:
    """The text in lines of 78 characters, of which none is taken for a request."""
    lines = textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False)
    escaped = [line.replace("\\", "\\e").replace("-", "\\-") for line in lines]
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped)


def _section(body: str | tuple[Entry, ...]) -> str:
    if isinstance(body, str):
        return _roff(body)
    return "\n".join(f".TP\n\\fB{_roff(term)}\\fR\n{_roff(text)}" for term, text in body)


def manual(command: Command) -> str:
    """The manual page of a command."""
    parts = [
        f'.TH {command.name.upper()} {command.section} {DATE} "greetsvc {__version__}"',
        f".SH NAME\n{command.name} \\- {_roff(command.summary)}",
        f".SH SYNOPSIS\n\\fB{command.name}\\fR [\\fIOPTIONS\\fR] {command.operand}".rstrip(),
        ".SH DESCRIPTION",
        "\n.PP\n".join(map(_roff, command.description)),
        ".SH OPTIONS",
    ]
    for option in command.options:
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in option.names)
        value = f" \\fI{_roff(option.metavar)}\\fR" if option.metavar else ""
        parts.append(f".TP\n{names}{value}\n{_roff(option.meaning)}")
    parts += [f".SH {title}\n{_section(body)}" for title, body in command.sections.items()]
    return "\n".join(parts) + "\n"


# Completions


def bash(command: Command) -> str:
    """The completion for bash: options, words and files. A target or an endpoint cannot be completed."""
    cases, plain = [], []
    for option in command.options:
        names = "|".join(option.names)
        if option.file:
            cases.append(f"{names}) _complete -f ;;")
        elif option.words:
            cases.append(f'{names}) _complete -W "{" ".join(option.words)}" ;;')
        elif option.metavar:
            plain.append(names)
    every = " ".join(name for option in command.options for name in option.names)
    body = "\n".join(
        f"        {case}" for case in [*cases, f"{'|'.join(plain)}) ;;", f'*) _complete -W "{every}" ;;']
    )
    name = f"_{command.name}"
    return f"""# Completion of {command.name} for bash.
{name}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    # An equals sign is a word of its own, as in --log-format=json.
    [ "$before" = "=" ] && before=${{COMP_WORDS[COMP_CWORD - 2]}}
    [ "$word" = "=" ] && word= && before=${{COMP_WORDS[COMP_CWORD - 1]}}
    COMPREPLY=()
    case $before in
{body.replace("_complete", f"{name}_from")}
    esac
}}
{name}_from() {{
    mapfile -t COMPREPLY < <(compgen "$@" -- "$word")
}}
complete -o filenames -F {name} {command.name}
"""


def zsh(command: Command) -> str:
    """The completion for zsh."""
    lines = [f"#compdef {command.name}", "_arguments \\"]
    for option in command.options:
        meaning = re.sub(r"([\\\[\]:])", r"\\\1", option.meaning).replace("'", "'\\''")
        action = "_files" if option.file else f"({' '.join(option.words)})" if option.words else " "
        value = f":{option.metavar.replace(':', chr(92) + ':')}:{action}" if option.metavar else ""
        for name in option.names:
            star = "*" if option.repeatable else ""
            sign = "=" if option.metavar and name.startswith("--") else ""
            lines.append(f"    '{star}{name}{sign}[{meaning}]{value}' \\")
    lines[-1] = lines[-1].removesuffix(" \\")
    return "\n".join([*lines, ""])


def fish(command: Command) -> str:
    """The completion for fish."""
    lines = [f"complete -c {command.name} -f"]
    for option in command.options:
        flags = "".join(f" -{'l' if name.startswith('--') else 's'} {name.lstrip('-')}" for name in option.names)
        value = ""
        if option.metavar:
            value = " -r -F" if option.file else f" -x -a '{' '.join(option.words)}'" if option.words else " -x"
        meaning = option.meaning.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c {command.name}{flags}{value} -d '{meaning}'")
    return "\n".join([*lines, ""])


def files() -> dict[str, str]:
    """Each file, by its path in this folder, with its text."""
    found = {}
    for command in (_greet(), _greetsvc()):
        found[f"man/{command.name}.{command.section}"] = manual(command)
        found[f"completion/{command.name}.bash"] = bash(command)
        found[f"completion/_{command.name}"] = zsh(command)
        found[f"completion/{command.name}.fish"] = fish(command)
    return found


def main() -> None:
    """Write them."""
    for name, text in files().items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
