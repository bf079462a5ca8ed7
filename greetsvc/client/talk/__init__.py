"""Talking on one connection: how messages are framed, and what is said. Pure: no socket, no reactor."""
