"""Asking for a greeting, and saying what the network did to it."""

from __future__ import annotations

from greetsvc.client.ask import greet, greet_ex
from greetsvc.client.targets import Target
from greetsvc.client.tls import ClientTls
from greetsvc.client.verdict import GreetFailed, Greeting, Seconds

__all__ = ["ClientTls", "GreetFailed", "Greeting", "Seconds", "Target", "greet", "greet_ex"]
