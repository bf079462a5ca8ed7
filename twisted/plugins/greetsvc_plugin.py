"""The twistd drop-in: it names the service and imports none of it, so that it cannot break twistd."""

from twisted.application.service import ServiceMaker

greetsvc = ServiceMaker(
    "greetsvc",
    "greetsvc.daemon.tap",
    "Greets each peer that connects or sends a datagram: TCP, UDP, TLS and UNIX sockets.",
    "greetsvc",
)
