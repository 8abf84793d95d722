"""The house: imports point one way, and private names stay private."""

from __future__ import annotations

import ast
import sys
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
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import of a file; name is empty for `import module`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module, name in imported(path):
        top = module.split(".")[0]
        if top in MAY_IMPORT:
            assert top in MAY_IMPORT[package], f"{package} imports {module}"
            private = [part for part in [*module.split("."), name] if part.startswith("_") and part != "__version__"]
            assert top == package or not private, f"{package} imports the private {module}.{name}"
        elif package == "memory_cores":
            assert top in {"torch", *sys.stdlib_module_names}, f"memory_cores imports {module}"
