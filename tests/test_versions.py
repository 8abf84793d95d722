"""The libraries that must fit each other."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from tests.test_imports import MAY_IMPORT, MODULES, imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.filterwarnings("ignore")
def test_torch_and_torchaudio_import_together() -> None:
    torchaudio = importlib.import_module("torchaudio")
    assert torchaudio.functional.mu_law_encoding(torch.zeros(3), 256).tolist() == [128] * 3


def test_versions_without_known_holes() -> None:
    """Older torch runs code from weights-only files; older Ray runs code for any web page."""
    for package, least in (("torch", (2, 10)), ("ray", (2, 52))):
        major, minor = importlib.metadata.version(package).split(".")[:2]
        assert (int(major), int(minor)) >= least


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_requirements(declared: Iterable[str]) -> set[str]:
    """The distributions that some requirements name and all that those need, as far as they are installed."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(text), frozenset[str]()) for text in declared]
    while waiting:
        requirement, of = waiting.pop()
        marker, entry = requirement.marker, (canonical(requirement.name), frozenset(requirement.extras))
        if entry in found or not (marker is None or any(marker.evaluate({"extra": extra}) for extra in {*of, ""})):
            continue
        try:
            needed = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(entry)
        waiting += [(Requirement(text), entry[1]) for text in needed]
    return {name for name, _ in found}


def test_every_distribution_that_is_needed_has_a_known_version() -> None:
    pins = re.findall(r"^(\S+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    needed = installed_requirements([*PROJECT["dependencies"], *extras]) - {"reverie"}
    assert {"torch", "setuptools", "psutil", "annotated-types"} < needed
    assert needed - set(map(canonical, pins)) == set()


def test_every_package_that_is_imported_is_declared() -> None:
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    declared = {canonical(Requirement(text).name) for text in (*PROJECT["dependencies"], *extras)}
    distributions = importlib.metadata.packages_distributions()
    for module, path in MODULES.items():
        tops = {name.partition(".")[0] for name, _ in imports(ast.parse(path.read_text()))}
        for top in tops - set(sys.stdlib_module_names) - MAY_IMPORT.keys():
            providers = set(map(canonical, distributions.get(top, [top])))
            assert providers & declared, f"{module} imports {top}, which pyproject.toml does not declare"
