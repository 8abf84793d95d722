"""Public functions that take or return tensors say of what shape: (B, T, D), in their docstring, in a comment, or in
that of the method they implement."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("memory_cores", "agents", "lm", "audio")
SIZE = r"(\.\.\.|\*[\w ]+|\d+ \w+|[A-Z]( [A-Z])+|\w+( ?[-+*/] ?\w+)*)"
SHAPE = re.compile(rf"\({SIZE}(,\s*{SIZE})*,\)|\({SIZE}(,\s*{SIZE})+\)|\(\.\.\.(,[^()]+)?\)|\(\*[\w ]+\)|\bscalars?\b")
TENSORS = re.compile(r"(?<!\[str, )\bTensor\b")
"""Tensors, but for the named weights and states, which have a shape each."""
EXCEPTIONS = {
    "audio.model.full_precision": "asks for the device alone",
    "audio.wavenet_layers.StackWeights.flat": "its fields say their shapes",
    "audio.wavenet_layers.StackWeights.of_flat": "its fields say their shapes",
    "memory_cores.attention.base.MemoryTransformer.call_positions": "asks for dtype and device alone",
}
"""Functions that need no shape, and why."""


class Function(NamedTuple):
    """A public function or method."""

    name: str
    bases: tuple[str, ...]
    """Names of the classes that its class derives from, from whatever package."""
    text: str
    """Its docstring and the comments within it, and the docstring of its class if torch prescribes its signature."""
    takes_tensors: bool


def functions(path: Path) -> Iterator[Function]:
    """The public functions and methods of a file."""
    source = path.read_text()
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield function(node, module, source)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = tuple(ast.unparse(base).split(".")[-1] for base in node.bases)
            prescribed = ast.get_docstring(node) or "" if "Function" in bases else ""
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield function(method, f"{module}.{node.name}", source, bases, prescribed)


def function(
    node: ast.FunctionDef, place: str, source: str, bases: tuple[str, ...] = (), prescribed: str = ""
) -> Function:
    """What is to be known of a definition."""
    parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    annotations = [*(parameter.annotation for parameter in parameters), node.returns]
    tensors = any(TENSORS.search(ast.unparse(annotation)) for annotation in annotations if annotation is not None)
    comments = re.findall(r"# .*", ast.get_source_segment(source, node) or "")
    text = "\n".join([ast.get_docstring(node) or "", prescribed, *comments])
    return Function(f"{place}.{node.name}", bases, text, tensors and not node.name.startswith("_"))


FUNCTIONS = [
    found for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) for found in functions(path)
]
BASES = {name.split(".")[-2]: bases for name, bases, *_ in FUNCTIONS if bases}
DOCUMENTED = {tuple(found.name.split(".")[-2:]) for found in FUNCTIONS if SHAPE.search(found.text)}


def inherited(cls: str, method: str) -> bool:
    """Whether a class that `cls` derives from says the shapes of a method."""
    return any((base, method) in DOCUMENTED or inherited(base, method) for base in BASES.get(cls, ()))


def says_its_shapes(found: Function) -> bool:
    """Whether the shapes of a function's tensors are written down."""
    cls, method = found.name.split(".")[-2:]
    return bool(SHAPE.search(found.text)) or inherited(cls, method)


def test_shapes_are_written() -> None:
    silent = {found.name for found in FUNCTIONS if found.takes_tensors and not says_its_shapes(found)}
    assert sorted(silent - set(EXCEPTIONS)) == []
    assert sorted(set(EXCEPTIONS) - silent) == [], "no exceptions any more"


@pytest.mark.parametrize(
    "text", ["x: (B, T, D)", "-> (N,)", "(...) int64", "(..., V)", "(*shape)", "(4 D, D)", "(B, T + 1)"]
)
def test_shapes_are_seen(text: str) -> None:
    assert SHAPE.search(text)


def test_letters_are_in_the_glossary() -> None:
    known = set(re.findall(r"^\| ([A-Z]) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE))
    shapes = [(found.name, shape[0]) for found in FUNCTIONS for shape in SHAPE.finditer(found.text)]
    assert [(name, shape) for name, shape in shapes if not set(re.findall(r"\b[A-Z]\b", shape)) <= known] == []


def test_prose_is_no_shape() -> None:
    assert not SHAPE.search("Keys (as `forward` makes them) of memory and steps (Dai et al., 1901.02860; figure 4).")
