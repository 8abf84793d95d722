"""The examples in docstrings, each run as a doctest: a module is read whole, so that none is passed over."""

from __future__ import annotations

import ast
import doctest
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
FILES = [path for package in BUILD["targets"]["wheel"]["packages"] for path in sorted((ROOT / package).rglob("*.py"))]
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def examples_in(path: Path) -> list[tuple[Path, str, str, int]]:
    """(path, name, docstring, line) of every docstring of a file that has an example."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Documented) and ">>>" in (text := ast.get_docstring(node, clean=False) or ""):
            found.append((path, getattr(node, "name", "module"), text, node.body[0].lineno - 1))
    return found


EXAMPLES = [example for path in FILES for example in examples_in(path)]


@pytest.mark.parametrize(
    ("path", "name", "text", "line"),
    EXAMPLES,
    ids=[f"{path.relative_to(ROOT)}:{name}" for path, name, _, _ in EXAMPLES],
)
def test_example(path: Path, name: str, text: str, line: int) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    test = doctest.DocTestParser().get_doctest(text, dict(vars(module)), name, str(path), line)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed, _ = runner.run(test, out=report.append)
    assert not failed, "".join(report)


def test_examples_are_found() -> None:
    assert EXAMPLES
