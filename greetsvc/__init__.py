"""A greeting service, and the client that says what the network did to the greeting.

The names of the client are loaded when they are first used, so the server never imports it.
"""

from __future__ import annotations

from greetsvc._lazy import lazy_names
from greetsvc._version import __version__

TYPE_CHECKING = False  # not from `typing`: until that is imported, Ctrl-C is a traceback (greetsvc.interrupts)
if TYPE_CHECKING:
    from greetsvc.client import GreetFailed, Greeting, Run, greet, greet_ex, greet_many
else:
    __getattr__, __dir__ = lazy_names(
        __name__, {"greetsvc.client": ("GreetFailed", "Greeting", "Run", "greet", "greet_ex", "greet_many")}
    )

__all__ = ["GreetFailed", "Greeting", "Run", "__version__", "greet", "greet_ex", "greet_many"]
