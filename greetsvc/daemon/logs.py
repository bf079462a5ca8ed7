"""The log as JSON Lines: one object for each event."""

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
    """One line: ``time`` (ISO 8601), ``level``, ``system``, ``message``; for visits ``peer``, ``transport``."""
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
    """An observer that writes where ``twistd``'s options say. Raises `ConfigError` where they leave it no place."""
    if twistd is None or "nodaemon" not in twistd:
        raise ConfigError("--log-format: 'json' is for twistd; twist has a --log-format of its own")
    for other in ("logger", "syslog"):
        if twistd.get(other):
            raise ConfigError(f"--log-format: 'json' does not go together with twistd's --{other}")
    name = twistd.get("logfile")
    if name == "-" or (not name and twistd["nodaemon"]):
        return FileLogObserver(sys.stdout, event_as_json)
    try:
        file = LogFile.fromFullPath(name or "twistd.log")
    except (AssertionError, OSError) as error:  # an assertion where the folder is missing
        raise ConfigError(f"--logfile: {name!r} cannot be written: {error}") from error

    def rotate(*_: object) -> None:
        from twisted.internet import reactor

        cast(Any, reactor).callFromThread(file.rotate)

    # As twistd does for its own log.
    if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, rotate)
    return FileLogObserver(cast(TextIO, file), event_as_json)
