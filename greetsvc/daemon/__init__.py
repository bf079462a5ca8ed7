"""The service as twistd runs it: options, settings, listeners and logs."""

import os

LISTEN_VARIABLES = {name: value for name, value in os.environ.items() if name.startswith("LISTEN_")}
"""What a service manager says of the sockets that it passes (sd_listen_fds(3)).

It is read here, before any module of this package: Twisted's endpoints remove some of it when they are imported.
"""
