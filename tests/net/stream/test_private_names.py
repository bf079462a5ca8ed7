# mypy: allow-untyped-calls
# (zope.interface has few types.)
"""The attributes of Twisted's transports that net/stream uses and Twisted does not document.

A new Twisted may change them without notice. Then these tests fail and name the attribute and the lines that use it;
when those lines are right for the new Twisted, `UNDOCUMENTED` is brought up to date.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from twisted.internet import unix
from zope.interface import implementedBy

from greetsvc.net import stream
from greetsvc.net.stream import transport as our_module
from greetsvc.net.stream.transport import UnixStreamTransport

UNDOCUMENTED = {
    "TLS",
    "_aborting",
    "_closeSocket",
    "_getLogPrefix",
    "_maybePauseProducer",
    "_sendmsgQueue",
    "_tempDataBuffer",
    "_tempDataLen",
    "_writeDisconnected",
    "_writeDisconnecting",
    "connected",
    "dataBuffer",
    "disconnected",
    "disconnecting",
    "logstr",
    "offset",
    "producer",
    "producerPaused",
    "protocol",
    "reactor",
    "server",
    "sessionno",
    "socket",
    "startReading",
    "startWriting",
    "stopReading",
    "stopWriting",
    "streamingProducer",
}
"""What net/stream uses or overrides of Twisted's transports, besides what their interfaces promise."""


def used_names() -> dict[str, list[str]]:
    """The attributes that our transport classes use of themselves or define, with the lines that do."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(Path(stream.__file__).parent.glob("*.py")):
        for kind in ast.walk(ast.parse(path.read_text())):
            if isinstance(kind, ast.ClassDef) and hasattr(getattr(our_module, kind.name, None), "doRead"):
                for name, line in _names(kind):
                    found[name].append(f"net/stream/{path.name}:{line}")
    return found


def _names(kind: ast.ClassDef) -> Iterator[tuple[str, int]]:
    for node in ast.walk(kind):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.lineno
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner in {"self", "super()", "abstract.FileDescriptor", "tcp.Server"}:
                yield node.attr, node.lineno


def twisted_names() -> set[str]:
    """The attributes that Twisted's stream transports have: defined in a class, or set by a method."""
    found: set[str] = set()
    for kind in unix.Server.__mro__[:-1]:
        if kind.__module__.startswith("twisted."):
            found |= {*vars(kind), *getattr(kind, "__annotations__", ())}
            for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(kind) or kind))):
                if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
                    found |= {
                        part.attr
                        for part in ast.walk(node)
                        if isinstance(part, ast.Attribute)
                        and isinstance(part.ctx, ast.Store)
                        and ast.unparse(part.value) == "self"
                    }
    return {name for name in found if not name.startswith("__")}


def documented_names() -> set[str]:
    """The attributes that the interfaces of Twisted's transports promise."""
    return {
        name for interface in implementedBy(UnixStreamTransport).flattened() for name in interface.names(all=True)
    }


def test_twisted_has_each_undocumented_name_that_we_use() -> None:
    used, theirs = used_names(), twisted_names()
    gone = {name: used[name] for name in UNDOCUMENTED - theirs}
    assert not gone, f"Twisted's stream transports no longer have what these lines use: {gone}"


def test_the_list_of_undocumented_names_is_what_we_use() -> None:
    used = used_names()
    undocumented = (used.keys() & twisted_names()) - documented_names()
    new = {name: used[name] for name in undocumented - UNDOCUMENTED}
    assert not new, f"these lines use names of Twisted's that are not in the list: {new}"
    assert sorted(UNDOCUMENTED - undocumented) == [], "the list has names that are not used, or are documented now"


def test_twisted_defines_no_name_that_is_meant_to_be_ours_alone() -> None:
    """A new Twisted may also come to use one of our own attributes."""
    ours = {
        name
        for name in used_names()
        if name.startswith("_") and not name.startswith("__") and name not in UNDOCUMENTED
    }
    assert ours
    assert not ours & twisted_names()
