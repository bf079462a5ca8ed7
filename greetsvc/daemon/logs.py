# mypy: allow-untyped-calls
# (twisted.python.logfile has no types.)
"""The log: as text or as JSON Lines, on standard output or in a file that rotates, and limited in lines a second."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TextIO, cast

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    Logger,
    LogLevel,
    eventAsText,
    formatEventAsClassicLogText,
    formatTime,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from greetsvc.daemon.owner import Owner, locked
from greetsvc.errors import ConfigError
from greetsvc.printable import escaped

__all__ = ["LINES", "LimitedObserver", "Log", "OwnLogFile", "event_as_json", "event_as_text", "limited", "open_log"]

_log = Logger(namespace="greetsvc")

_OWN_FIELDS = (
    *("peer", "reason", "transport", "address", "port", "path"),
    *("count", "transports", "reasons"),
)
"""The facts in a message that JSON has as fields too."""

LINES = 50
"""Lines of one kind that are logged in a second. `greetsvc.server.visit_log` stays below it."""

_KINDS = 256
"""Kinds that are told apart in a second: a message that is made up each time must not fill the memory."""

_TRACEBACK = 25
"""Lines that an event with a traceback counts for."""

LONGEST = 10_000_000
"""Bytes of a log file before it is rotated."""

ROTATED = 9
"""Old log files that are kept: with the present one, at most 100 MB."""

_NAMED = 3
"""Kinds that a summary names."""


def event_as_json(event: LogEvent) -> str:
    """One line with ``time`` (ISO 8601), ``level``, ``system``, ``message``, and those of `_OWN_FIELDS` it has."""
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(),
        "level": level.name if level is not None else "info",
        "system": event.get("log_namespace") or event.get("log_system") or "-",
        "message": eventAsText(event, includeTimestamp=False, includeSystem=False),
    }
    line.update({name: event[name] for name in _OWN_FIELDS if isinstance(event.get(name), str | int | tuple | dict)})
    return json.dumps(line, default=str) + "\n"


def event_as_text(event: LogEvent) -> str | None:
    """As Twisted writes an event."""
    return formatEventAsClassicLogText(event, formatTime)


@implementer(ILogObserver)
class LimitedObserver:
    """Passes `LINES` lines of each kind a second to ``observer``, and sums up the rest in one line a second.

    A peer may be able to cause a line for each byte that it sends. Events are of one kind if they have the same
    namespace and format, and the same type of exception if they have one; a traceback counts for 25 lines.
    ``later`` calls a function in the reactor's thread after a second; events come from any thread.
    """

    def __init__(
        self,
        observer: ILogObserver,
        later: Callable[[Callable[[], None]], object],
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observer = observer
        self._later = later
        self._seconds = seconds
        self._ends = 0.0
        self._logged: Counter[tuple[object, ...]] = Counter()
        self._left_out: Counter[tuple[object, ...]] = Counter()

    def __call__(self, event: LogEvent) -> None:
        """Log or count the event."""
        now = self._seconds()
        if now >= self._ends:
            self._ends = now + 1
            self._logged.clear()
        failure = event.get("log_failure")
        # Twisted's old API formats messages itself: their format is in `format`, or they have none.
        text = event.get("format") or event.get("log_format")
        kind = (event.get("log_namespace"), text, getattr(failure, "type", None))
        if len(self._logged) >= _KINDS and kind not in self._logged:
            kind = ("other", "other", None)
        if self._logged[kind] < LINES:
            self._logged[kind] += 1 if failure is None else _TRACEBACK
            self._observer(event)
            return
        if not self._left_out:
            self._later(self.sum_up)
        self._left_out[kind] += 1

    def sum_up(self) -> None:
        """Log how many events were left out, if there are any."""
        left_out, self._left_out = self._left_out, Counter()
        if not left_out:
            return
        named = [f"{number} of {kind[1]!s:.80}" for kind, number in left_out.most_common(_NAMED)]
        if len(left_out) > _NAMED:
            named.append("and others")
        self._observer(
            {
                "log_time": time.time(),
                "log_level": LogLevel.warn,
                "log_namespace": "greetsvc",
                "log_format": "Left out {count} log messages (more than {lines} lines a second of one kind): {kinds}",
                "lines": LINES,
                "count": left_out.total(),
                "kinds": "; ".join(named),
            }
        )


class OwnLogFile(LogFile):
    """A log file that belongs to ``owner``, and of which `ROTATED` old ones are kept.

    ``kept`` is why it keeps another owner. It says why it cannot be rotated. What cannot be encoded is escaped:
    Twisted's own file would lose the line.
    """

    def __init__(self, path: str, owner: Owner) -> None:
        folder, name = os.path.split(path)
        self._may_be_cut = False
        super().__init__(name, folder, rotateLength=LONGEST, maxRotatedFiles=ROTATED)
        self.kept = owner.give_file(self.path, self._file.fileno())

    def _openFile(self) -> None:
        super()._openFile()
        if self._is_plain():  # so that a file that was cut (logrotate's copytruncate) has no hole
            flags = fcntl.fcntl(self._file.fileno(), fcntl.F_GETFL)
            fcntl.fcntl(self._file.fileno(), fcntl.F_SETFL, flags | os.O_APPEND)

    def shouldRotate(self) -> bool:
        """Whether it is long, as far as it still is: it may have been cut meanwhile."""
        if self.size >= LONGEST:
            self.size = os.fstat(self._file.fileno()).st_size
        return self.size >= LONGEST

    def write(self, data: str | bytes) -> None:
        """Write text or bytes. After a full disk this begins a line, whatever was written of the last one."""
        line = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        length = self._length()
        if self._may_be_cut and length and os.pread(self._file.fileno(), 1, length - 1) != b"\n":
            line = b"\n" + line
        self._may_be_cut = True
        super().write(line)
        # A disk that fills up in mid-line takes a part of it, and that is no error yet.
        self._may_be_cut = self._length() < length + len(line)

    @property
    def obstacle(self) -> str:
        """Why it cannot be rotated, in one line; empty if it can, or is no plain file, as /dev/null."""
        why = locked(self.path) if self._is_plain() else ""
        return self._cannot(why) if why else ""

    def follow(self) -> None:
        """Open the file at the path if ours was moved away or removed, as logrotate does; else rotate it."""
        old = self._file
        found = here = os.fstat(old.fileno())
        moved = True
        with suppress(OSError):
            found = os.stat(self.path)  # noqa: PTH116
            moved = not os.path.samestat(found, here)
        if not moved:
            self.rotate()
            return
        self.defaultMode = stat.S_IMODE(found.st_mode)  # as logrotate made the new one, or that of the old one
        try:
            self._openFile()
        except OSError as error:
            _log.warn("{path} cannot be opened again: {error}", path=escaped(self.path), error=error.strerror)
        else:
            old.close()

    def rotate(self) -> None:
        """Rotate; or say why not, and try again when the file has grown by as much again."""
        try:
            obstacle = self.obstacle
            if not self._is_plain():
                self.size = 0
            elif not obstacle:
                self.defaultMode = stat.S_IMODE(os.fstat(self._file.fileno()).st_mode)
                self._rotate()
        except OSError as error:
            obstacle = self._cannot(error.strerror)
        if obstacle:
            self.size = 0
            _log.warn("{obstacle}", obstacle=obstacle)

    def _rotate(self) -> None:
        """Rotate as inherited, which closes the old file first; where no new one can be made, go on with the old."""
        old = os.dup(self._file.fileno())
        try:
            super().rotate()
        except OSError:
            if self._file.closed:
                with suppress(OSError):
                    if not os.path.lexists(self.path):
                        os.rename(f"{self.path}.1", self.path)  # noqa: PTH104
                self._file = os.fdopen(old, "rb+", 0)
            else:
                os.close(old)
            raise
        os.close(old)

    def _cannot(self, why: str | None) -> str:
        return f"{escaped(self.path)} cannot be rotated: {why}"

    def _length(self) -> int:
        """The bytes that the file has; 0 where it is no plain file."""
        found = os.fstat(self._file.fileno())
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def _is_plain(self) -> bool:
        return stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)


class Log(NamedTuple):
    """Where the log goes: ``observer`` writes it, unless others do; ``file`` is set if that is one which rotates.

    ``writer`` is the observer that has the format; ``fixed`` is why that cannot be JSON, if so.
    """

    observer: ILogObserver | None = None
    file: OwnLogFile | None = None
    writer: FileLogObserver | None = None
    fixed: str = ""

    def rotate(self) -> None:
        """Rotate the file, or open it again if it was moved away; or log that there is none."""
        if self.file is None:
            _log.info("SIGUSR1 ignored: there is no log file that greetsvc could rotate")
        else:
            self.file.follow()

    def check_format(self, form: str) -> None:
        """Raise `ConfigError` if the log cannot have this format."""
        if form == "json" and self.fixed:
            raise ConfigError(f"--log-format: 'json' {self.fixed}")

    def use_format(self, form: str) -> None:
        """Write in this format from now on, ``text`` or ``json``."""
        if self.writer is not None:
            self.writer.formatEvent = event_as_json if form == "json" else event_as_text


def open_log(parent: Any, form: str, owner: Owner, *, check: bool = False) -> Log:
    """The log that the options of twistd or twist (``parent``) ask for, in the format ``form``.

    With ``check`` no file is made. Raises `ConfigError` if the options exclude JSON, or the file cannot be written.
    """
    fixed = _fixed_format(parent)
    Log(fixed=fixed).check_format(form)
    if parent is None or parent.get("logger"):
        return Log(fixed=fixed)
    if "nodaemon" not in parent:
        _limit_twist(parent)
        return Log(fixed=fixed)
    if parent.get("syslog"):
        from twisted.python import syslog  # not on every system

        observer = LegacyLogObserverWrapper(cast(Any, syslog.SyslogObserver(parent.get("prefix", "")).emit))
        return Log(limited(observer), fixed=fixed)
    name = parent.get("logfile")
    file: OwnLogFile | None = None
    output: Any
    if name == "-" or (not name and parent["nodaemon"]):
        if name == "-" and not parent["nodaemon"]:
            return Log(fixed=fixed)  # twistd refuses that
        output = _escaping(sys.stdout)
    else:
        output = file = _log_file(os.path.abspath(name or "twistd.log"), owner, check)  # noqa: PTH100 - keeps links
    if output is None:
        return Log(fixed=fixed)
    writer = FileLogObserver(cast(TextIO, output), event_as_text)
    log = Log(limited(writer), file, writer)
    log.use_format(form)
    return log


def _fixed_format(parent: Any) -> str:
    """Why the log cannot be JSON; empty if it can."""
    if parent is None or "nodaemon" not in parent:
        return "works with twistd only; twist has its own --log-format"
    other = next((name for name in ("logger", "syslog") if parent.get(name)), None)
    return f"cannot be combined with twistd's --{other}" if other else ""


def _log_file(path: str, owner: Owner, check: bool) -> OwnLogFile | None:
    try:
        if not check:
            return OwnLogFile(path, owner)
        target = path if os.path.lexists(path) else f"{os.path.dirname(path)}/."  # noqa: PTH120
        os.stat(target)  # noqa: PTH116 - says why it is not there
        if os.path.isdir(path) or not os.access(target, os.W_OK):  # noqa: PTH112
            raise OSError("it is a folder, or not writable")
    except (AssertionError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--logfile: {path!r} cannot be written: {why}") from error
    return None


def _escaping(stream: TextIO | None) -> TextIO | None:
    """The stream, which from now on escapes what its encoding has no character for."""
    if stream is not None and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def limited(observer: ILogObserver) -> LimitedObserver:
    """The observer, limited while the reactor runs."""
    from twisted.internet import reactor

    core: Any = reactor
    limited = LimitedObserver(observer, lambda call: core.callFromThread(core.callLater, 1, call))
    core.addSystemEventTrigger("after", "shutdown", limited.sum_up)
    return limited


def _limit_twist(twist: Any) -> None:
    """Limit the log that twist will make."""
    make = twist.get("fileLogObserverFactory")
    if make is not None:
        twist["fileLogObserverFactory"] = lambda file: limited(make(_escaping(file)))
