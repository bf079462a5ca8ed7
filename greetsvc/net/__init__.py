"""Networking parts that know nothing of greetings: sockets, listeners, transports and what they measure."""
