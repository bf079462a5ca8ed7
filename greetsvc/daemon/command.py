"""The command ``greetsvc``: ``twistd -n --pidfile= greetsvc``, except that it exits 0 on SIGTERM and SIGINT."""

from __future__ import annotations

import sys
from typing import Any

from twisted.python import usage
from twisted.scripts._twistd_unix import ServerOptions, UnixApplicationRunner

from greetsvc.daemon.tap import refuse
from greetsvc.interrupts import raise_interrupts
from twisted.plugins.greetsvc_plugin import greetsvc as plugin

__all__ = ["main"]


class _Options(ServerOptions):
    """Those of twistd with one command. For the others, twistd reads all plugins and what these import."""

    @property
    def subCommands(self) -> list[tuple[str, None, Any, str]]:
        self.loadedPlugins = {plugin.tapname: plugin}
        return [(plugin.tapname, None, plugin.options, plugin.description)]


class _Runner(UnixApplicationRunner):
    def startReactor(self, *arguments: Any) -> None:
        raise_interrupts()
        super().startReactor(*arguments)  # type: ignore[no-untyped-call]


def main() -> None:
    """Serve in the foreground with the options of ``twistd greetsvc``.

    The runner is used without `twistd`'s own ``main``, which would raise SIGTERM again at exit: status 143.
    """
    config: Any = _Options()  # type: ignore[no-untyped-call]
    try:
        config.parseOptions(["--nodaemon", "--pidfile=", "greetsvc", *sys.argv[1:]])
    except usage.UsageError as error:
        refuse(error)
    _Runner(config).run()  # type: ignore[no-untyped-call]
