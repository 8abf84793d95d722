"""The house: imports point one way and never in a circle, private names stay private, files stay short."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "memory_cores": {"memory_cores"},
    "training": {"training", "memory_cores"},
    "envs": {"envs", "training", "memory_cores"},
    "agents": {"agents", "envs", "training", "memory_cores"},
    "lm": {"lm", "training", "memory_cores"},
    "audio": {"audio", "lm", "training", "memory_cores"},
    "reverie": {"reverie", "agents", "audio", "envs", "lm", "training", "memory_cores"},
}
ENTRY = re.compile(r"(\w+(?:\.\w+)+|\w+(?=:))(?::[A-Za-z_]\w*)?")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in MAY_IMPORT
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every import statement, wherever it stands; name is empty for `import module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def imports_by_string(tree: ast.AST) -> Iterator[str]:
    """The modules that strings may import: `package.module`, `module:Name` and the argument of `import_module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if match := ENTRY.fullmatch(node.value):
                yield match[1]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def modules_imported(source: str, modules: Collection[str]) -> set[str]:
    """The modules among `modules` that a source imports, by statement or by string.

    `from package import name` imports `package.name` where that is a module, else the package. To import a module is
    not to import the packages above it.
    """
    tree = ast.parse(source)
    found = {f"{module}.{name}" if f"{module}.{name}" in modules else module for module, name in imports(tree)}
    return (found | set(imports_by_string(tree))) & set(modules)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    package, source = module.split(".")[0], MODULES[module].read_text()
    for other in modules_imported(source, MODULES):
        assert other.split(".")[0] in MAY_IMPORT[package], f"{module} imports {other}"
    for other, name in imports(ast.parse(source)):
        top = other.split(".")[0]
        if top in MAY_IMPORT:
            private = [part for part in [*other.split("."), name] if part.startswith("_") and part != "__version__"]
            assert top == package or not private, f"{module} imports the private {other}.{name}"
        elif package == "memory_cores":
            assert top in {"torch", *sys.stdlib_module_names}, f"{module} imports {other}"


def test_no_modules_import_each_other() -> None:
    graph = {module: modules_imported(path.read_text(), MODULES) for module, path in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("modules import each other: " + " -> ".join(reversed(error.args[1])))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import p.a", {"p.a"}),
        ("from p import a, b", {"p.a", "p"}),
        ("from p.a import b", {"p.a"}),
        ("def f():\n    import p.c.d as e", {"p.c.d"}),
        ("if TYPE_CHECKING:\n    from p.c import d", {"p.c.d"}),
        ("importlib.import_module('p')", {"p"}),
        ("ENTRIES = {'core': ('p.c.d', 'Core')}", {"p.c.d"}),
        ("name = 'p.c.d:Core'", {"p.c.d"}),
        ("name = 'p:Core'", {"p"}),
        ("kind = 'p'; path = 'p.txt'; id = 'p:Maze-v0'; import q.a", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, expected: set[str]) -> None:
    assert modules_imported(source, {"p", "p.a", "p.c.d"}) == expected


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "tests", "benchmarks", "examples"])
def test_files_are_short_enough_to_read(folder: str) -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): lines for path, lines in lengths.items() if lines > 400} == {}
