"""One wrong setting, told in one line."""

from __future__ import annotations

from greetsvc.printable import escaped

__all__ = ["ConfigError", "reason_of"]


class ConfigError(ValueError):
    """A setting that cannot be used; its text is one line that names the setting, its value, and what is allowed.

    ``name`` and ``value`` are empty where the text in ``why`` says them already. A command line that spells the name
    in its own way (``--timeout`` for ``timeout``) puts the three together itself.
    """

    def __init__(self, why: str, *, name: str = "", value: object = "") -> None:
        self.name = name
        self.value = escaped(str(value))
        self.why = why
        subject = " ".join(filter(None, [name, self.value]))
        super().__init__(escaped(f"{subject}: {why}" if subject else why))


def reason_of(error: BaseException) -> str:
    """What an error says, in one line: the system's words and the file for an `OSError`, else its text or name."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename is not None else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
