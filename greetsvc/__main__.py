"""The command ``greetsvc``: ``twistd -n --pidfile= greetsvc``, but that being told to stop is no failure."""

from __future__ import annotations

import sys

from twisted.python import usage
from twisted.scripts._twistd_unix import ServerOptions, UnixApplicationRunner

from greetsvc.daemon.tap import refuse

__all__ = ["main"]


def main() -> None:
    """Serve in the foreground with the options of ``twistd greetsvc``, and exit 0 on SIGTERM and SIGINT."""
    config = ServerOptions()
    try:
        config.parseOptions(["--nodaemon", "--pidfile=", "greetsvc", *sys.argv[1:]])
    except usage.UsageError as error:
        refuse(error)
    UnixApplicationRunner(config).run()


if __name__ == "__main__":
    main()
