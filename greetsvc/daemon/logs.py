"""The log as JSON Lines: one object per event."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO, cast

from twisted.logger import FileLogObserver, LogEvent, eventAsText
from twisted.python.logfile import LogFile

from greetsvc.errors import ConfigError

__all__ = ["event_as_json", "json_observer"]

_OWN_FIELDS = ("peer", "transport", "count")


def event_as_json(event: LogEvent) -> str:
    """One line with ``time`` (ISO 8601), ``level``, ``system``, ``message``; for visits ``peer``, ``transport``."""
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(),
        "level": level.name if level is not None else "info",
        "system": event.get("log_namespace") or event.get("log_system") or "-",
        "message": eventAsText(event, includeTimestamp=False, includeSystem=False),
    }
    line.update({name: event[name] for name in _OWN_FIELDS if isinstance(event.get(name), str | int | tuple)})
    return json.dumps(line, default=str) + "\n"


def json_observer(twistd: Mapping[str, Any] | None) -> FileLogObserver:
    """An observer that writes JSON where ``twistd``'s options send the log.

    Raises `ConfigError` if the options exclude a log in JSON, or if the log file cannot be written.
    """
    if twistd is None or "nodaemon" not in twistd:
        raise ConfigError("--log-format: 'json' works with twistd only; twist has its own --log-format")
    for other in ("logger", "syslog"):
        if twistd.get(other):
            raise ConfigError(f"--log-format: 'json' cannot be combined with twistd's --{other}")
    name = twistd.get("logfile")
    if name == "-" or (not name and twistd["nodaemon"]):
        return FileLogObserver(sys.stdout, event_as_json)
    try:
        file = LogFile.fromFullPath(name or "twistd.log")
    except (AssertionError, OSError) as error:  # LogFile asserts that the folder exists
        raise ConfigError(f"--logfile: {name!r} cannot be written: {error}") from error

    # twistd does the same for its own log, and leaves a handler that is already set.
    if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        from twisted.internet import reactor

        signal.signal(signal.SIGUSR1, lambda *_: cast(Any, reactor).callFromThread(file.rotate))
    return FileLogObserver(cast(TextIO, file), event_as_json)
