"""Datagram ports that are fair to the reactor and answer from the address that was asked."""
