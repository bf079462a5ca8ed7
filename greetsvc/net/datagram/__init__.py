"""Datagram ports that are fair to the reactor and answer from the address the request was sent to."""
