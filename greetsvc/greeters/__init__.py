"""What is said: a greeter turns a visit into bytes. `greetsvc.greeters.registry` finds them by their entry points.

These are the public names; each is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc._lazy import lazy_names

if TYPE_CHECKING:
    from greetsvc.greeters.daytime import DaytimeGreeter
    from greetsvc.greeters.file import FileGreeter
    from greetsvc.greeters.fortune import FortuneGreeter
    from greetsvc.greeters.path import PathGreeter
    from greetsvc.greeters.registry import Greeter, GreeterFactory, find_greeter
    from greetsvc.greeters.text import TextGreeter
    from greetsvc.visit import Address, Visit
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greetsvc.greeters.daytime": ("DaytimeGreeter",),
            "greetsvc.greeters.file": ("FileGreeter",),
            "greetsvc.greeters.fortune": ("FortuneGreeter",),
            "greetsvc.greeters.path": ("PathGreeter",),
            "greetsvc.greeters.registry": ("Greeter", "GreeterFactory", "find_greeter"),
            "greetsvc.greeters.text": ("TextGreeter",),
            "greetsvc.visit": ("Address", "Visit"),
        },
    )

__all__ = [
    "Address",
    "DaytimeGreeter",
    "FileGreeter",
    "FortuneGreeter",
    "Greeter",
    "GreeterFactory",
    "PathGreeter",
    "TextGreeter",
    "Visit",
    "find_greeter",
]
