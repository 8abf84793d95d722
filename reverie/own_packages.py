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
    strange = [path for name in OUR_PACKAGES for path in strange_entries(home, name)]
    others = owners(strange) if strange else []
    if others:
        named = " and ".join(others)
        raise UserError(
            f"{named} installed files into reverie's package {strange[0].parts[0]!r} in {home}, {strange[0]} among "
            f"them: one of the two cannot work there; install them in environments of their own: pip uninstall "
            f"{named}, then pip install --force-reinstall --no-deps reverie"
        )


def strange_entries(home: Path, package: str) -> Iterator[PurePosixPath]:
    """What lies in a package of ours in the folder `home` that was not installed there with it, or has changed since.

    Empty where the package was not installed into `home`, as in a checkout.
    """
    try:
        own = importlib.metadata.distribution("reverie")
    except importlib.metadata.PackageNotFoundError:
        return
    files = {path: path.hash for path in own.files or () if path.parts[0] == package}
    if not files or Path(str(own.locate_file(""))).resolve() != home:
        return
    known = {path.parts[1] for path in files}
    for entry in (home / package).iterdir():
        if entry.name not in known and entry.name not in IGNORED:
            yield PurePosixPath(package, entry.name)
    first = PurePosixPath(package, "__init__.py")
    expected = next((digest.value for path, digest in files.items() if path == first and digest is not None), None)
    if expected is not None and expected != _digest(home / first):
        yield first


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
