"""Public names of a package that are loaded when they are first used (PEP 562), so that an import stays cheap."""

from __future__ import annotations

from sys import modules as loaded

TYPE_CHECKING = False  # see greetsvc/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["lazy_names"]


def lazy_names(
    package: str, modules: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of ``package``. ``modules`` gives the names that come from each module.

    Call it in the ``else`` of ``if TYPE_CHECKING``: a type checker that sees ``__getattr__`` accepts any name.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(module_of[name]), name)

    def names() -> list[str]:
        return sorted({*vars(loaded[package]), *module_of})

    return load, names
