"""Whether our packages are ours: other projects are called `agents` or `envs` too, and pip merges what has one name."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from training.errors import UserError

OUR_PACKAGES = ("memory_cores", "training", "envs", "agents", "audio", "lm")
IGNORED = ("__pycache__",)


def check_packages(home: Path) -> None:
    """Raise UserError unless our packages are those in the folder `home`, and without files of another project."""
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if place is None or place.parent.parent != home:
            raise UserError(
                f"the package {name!r} is found at {place}, not beside reverie in {home}: another project's "
                f"package of that name is in the way; install reverie in an environment of its own"
            )
    strange = list(strange_entries(home))
    others = owners(strange) if strange else []
    if others:
        named = " and ".join(others)
        raise UserError(
            f"{named} installed files into reverie's package {strange[0].parts[0]!r} in {home}, {strange[0]} among "
            f"them: one of the two cannot work there; install them in environments of their own: pip uninstall "
            f"{named}, then pip install --force-reinstall --no-deps reverie"
        )


def strange_entries(home: Path) -> Iterator[PurePosixPath]:
    """What lies in our packages in the folder `home` that was not installed there with them, or has changed since.

    Empty where they were not installed into `home`, as in a checkout.
    """
    try:
        own = importlib.metadata.distribution("reverie")
    except importlib.metadata.PackageNotFoundError:
        return
    files = {path.parts: path.hash for path in own.files or () if path.parts[0] in OUR_PACKAGES}
    if not files or Path(str(own.locate_file(""))).resolve() != home:
        return
    known = {parts[:2] for parts in files}
    for package in OUR_PACKAGES:
        for entry in (home / package).iterdir():
            if (package, entry.name) not in known and entry.name not in IGNORED:
                yield PurePosixPath(package, entry.name)
        first = package, "__init__.py"
        expected = files.get(first)
        if expected is not None and expected.value != _digest(home.joinpath(*first)):
            yield PurePosixPath(*first)


def owners(strange: list[PurePosixPath]) -> list[str]:
    """The other installed distributions that list one of some paths, or what lies below one."""
    wanted = {path.parts[:2] for path in strange}
    return sorted(
        found.name
        for found in importlib.metadata.distributions()
        if found.name != "reverie" and any(path.parts[:2] in wanted for path in found.files or ())
    )


def _digest(path: Path) -> str:
    """The SHA-256 of a file as records of installed files write it."""
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
