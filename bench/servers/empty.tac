"""A service that does nothing but say that it was started: what `twistd -n` itself costs."""

from twisted.application import service
from twisted.python import log


class Empty(service.Service):
    """Nothing."""

    def startService(self) -> None:
        """Say so."""
        super().startService()
        log.msg("Server start at port: 0")


application = service.Application("empty")
Empty().setServiceParent(application)
