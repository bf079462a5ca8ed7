"""What is public is what the packages export, the documents name and the typing test uses: all the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.testing import StringTransport

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("greetsvc", "greetsvc.client", "greetsvc.greeters", "greetsvc.net", "greetsvc.protocols", "greetsvc.server"),
    "greetsvc.testing",
)
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("extending.md", "python.md")}
API = ast.parse((ROOT / "tests" / "typing" / "api.py").read_text())

reactor: Any = global_reactor


def exported(package: str) -> set[str]:
    """The names in ``__all__``; that of the version is in no document."""
    return set(importlib.import_module(package).__all__) - {"__version__"}


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the tables whose first heading is ``heading``."""
    for page in PAGES.values():
        for table in re.findall(
            rf"^\| {re.escape(heading)} \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", page, re.MULTILINE
        ):
            yield from ([cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines())


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each name that is imported from our packages, with the module it comes from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "greetsvc":
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_documents_name_exactly_what_a_package_exports(package: str) -> None:
    named = [name for row in rows(f"`{package}`") for name in re.findall(r"`(\w+)`", row[0])]
    assert len(named) == len(set(named))
    assert set(named) == exported(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_loads_has_a_docstring_and_is_listed_by_dir(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == [*dict.fromkeys(module.__all__)]
    assert exported(package) <= {*dir(module)}
    for name in exported(package):
        assert inspect.getdoc(getattr(module, name)), name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'no_such_name'"):
        _ = module.no_such_name


@pytest.mark.parametrize("package", PACKAGES)
def test_the_typing_test_uses_each_public_name(package: str) -> None:
    found = [*imports(API)]
    used = {node.id for node in ast.walk(API) if isinstance(node, ast.Name)}
    twice = exported("greetsvc") & exported("greetsvc.client")
    imported = {name for module, name in found if module == package} - {"no_such_name"}
    assert imported == exported(package) - (twice if package == "greetsvc.client" else set())
    assert imported <= used


def test_examples_and_documents_import_public_names_only() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "examples").rglob("*.py")}
    for page, text in PAGES.items():
        sources |= {f"{page} {number}": block for number, block in enumerate(blocks(text))}
        assert {*re.findall(r"greetsvc\.\w+(?:\.\w+)*", text)} <= {*PACKAGES, "greetsvc.example"}, page
    for name, source in sources.items():
        for module, imported in imports(ast.parse(source)):
            assert imported in exported(module), (name, module)


def test_no_module_of_the_package_imports_from_a_public_package() -> None:
    """Inside the package names come from their modules: the public packages would load in a circle."""
    for path in (ROOT / "greetsvc").glob("*/**/*.py"):
        for module, name in imports(ast.parse(path.read_text())):
            assert module not in PACKAGES or name not in exported(module), path


@pytest.mark.parametrize(
    ("package", "loads_not"),
    [
        ("greetsvc", "twisted"),
        ("greetsvc.net", "twisted.internet"),
        ("greetsvc.greeters", "greetsvc.net"),
        ("greetsvc.server", "greetsvc.client"),
        ("greetsvc.protocols", "twisted"),
        ("greetsvc.testing", "pytest"),
        ("greetsvc.testing.conformance", "pytest"),
        ("greetsvc.daemon.tap", "twisted.web"),
        ("greetsvc.client", "greetsvc.client.probe"),
        ("greetsvc.daemon.tap", "greetsvc.client"),
        ("greetsvc.daemon.tap", "twisted.internet.reactor"),
    ],
)
def test_importing_a_package_does_not_load_what_it_does_not_need(package: str, loads_not: str) -> None:
    code = f"import sys, {package}; print(*(name for name in sys.modules if name.startswith({loads_not!r})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == ""


# Tables of parameters and methods


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("greetsvc", "Run"),
        ("greetsvc.server", "Admission"),
        ("greetsvc.server", "GreetingDatagramProtocol"),
        ("greetsvc.server", "GreetingFactory"),
        ("greetsvc.server", "UdpPolicy"),
    ],
)
def test_a_table_of_parameters_is_that_of_the_constructor(package: str, name: str) -> None:
    parameters = inspect.signature(getattr(importlib.import_module(package), name)).parameters.values()
    first = ", ".join([*(each.name for each in parameters if each.kind is not each.KEYWORD_ONLY), "…"])
    table = [*rows(f"`{name}({first})`")]
    named = [parameter for row in table for parameter in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
    defaults = {each.name: each.default for each in parameters}
    for parameter, *_, default in table:
        if re.fullmatch(r"[0-9.]+|True|False|`\w+`", default):
            assert str(defaults[parameter.strip("`")]) in {default.strip("`"), f"{default}.0"}, parameter


@pytest.mark.parametrize("name", ["GreetingProtocol", "GreetingDatagramProtocol"])
def test_a_table_of_methods_is_that_of_the_class(name: str) -> None:
    kind = getattr(importlib.import_module("greetsvc.server"), name)
    methods = {method for row in rows(f"`{name}`") for method in re.findall(r"`(\w+)\(", row[0])}
    ours = {method for method, value in vars(kind).items() if inspect.isfunction(value) and method[0] != "_"}
    assert ours <= methods
    for row in rows(f"`{name}`"):
        for method, arguments in re.findall(r"`(\w+)\(([\w, ]*)\)`", row[0]):
            assert [*inspect.signature(getattr(kind, method)).parameters] == ["self", *re.findall(r"\w+", arguments)]


def test_the_fields_of_a_visit_are_documented_in_their_order() -> None:
    fields = [field.name for field in attrs.fields(importlib.import_module("greetsvc.greeters").Visit)]
    assert [row[0].strip("`") for row in rows("field")] == fields


# The code of docs/extending.md; that of docs/python.md is run in tests/client/load/test_run.py


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("block", blocks(PAGES["extending.md"]), ids=lambda block: block.partition("\n")[0])
@pytest_twisted.ensureDeferred
async def test_the_code_of_the_page_runs(block: str) -> None:
    transport = StringTransport()
    names: dict[str, Any] = {
        "Factory": Factory,
        "Shout": DatagramProtocol if "DatagramPort" in block else Protocol,
        "Mapping": Mapping,
        "reactor": reactor,
        "self": SimpleNamespace(transport=transport),
        "serverFromString": serverFromString,
    }
    for package in PACKAGES:
        names |= {name: getattr(importlib.import_module(package), name) for name in exported(package)}
    code = compile(block.replace("8088", "0"), "docs/extending.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, names)
    if inspect.iscoroutine(running):
        await Deferred.fromCoroutine(running)
    if "port" in names:
        await maybeDeferred(names["port"].stopListening)
    if "lingerers" in names:
        names["lingerers"].stop()
    if hasattr(names["self"], "closing"):
        names["self"].closing.stop()
        assert transport.disconnecting
