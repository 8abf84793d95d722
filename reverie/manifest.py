"""The manifest of a checkpoint, which says what its files must be, and the reading of files against it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reverie.fingerprint import Fingerprint, as_json
from reverie.weights_size import check_size
from training.errors import InputError, UserError
from training.files import open_regular

FORMAT = 1
WEIGHTS, STATE, MANIFEST, SEAL = "weights.safetensors", "state.pt", "manifest.json", "manifest.sha256"
NAME = re.compile(r"(\d{12})(?:-(\d{1,6}))?")
"""The names of checkpoints: the step, and a number where there was one of that step, damaged or without its score."""
_KEYS = {"format", "step", "fingerprint", "num_threads", "versions", "files"}
_MAX_MANIFEST = 16 * 2**20


class CheckpointError(UserError):
    """A checkpoint that cannot be written or that is damaged; the message names the file and the reason."""

    exit_code = 1


class IncompatibleError(CheckpointError):
    """An intact checkpoint of another experiment or of another format version."""

    exit_code = 2

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        """`differences` are those of the fingerprints, each led by its dotted path."""
        super().__init__(message)
        self.differences = differences


@dataclass(frozen=True)
class Score:
    """How good a checkpoint is on held-out data."""

    metric: str
    """The TensorBoard tag of what was measured."""
    value: float
    higher_is_better: bool
    basis: dict[str, Any]
    """JSON data that says on what it was measured."""

    def is_comparable(self, other: Score) -> bool:
        """Whether both measure the same on the same."""
        ours, theirs = ((score.metric, score.higher_is_better, score.basis) for score in (self, other))
        return ours == theirs

    def beats(self, other: Score | None) -> bool:
        """Whether it is better than another; one that cannot be compared counts for nothing, as none does."""
        if other is None or not self.is_comparable(other):
            return True
        return self.rank > other.rank

    @property
    def rank(self) -> float:
        """The value, or its negative: higher is better."""
        return self.value if self.higher_is_better else -self.value


def make_manifest(
    step: int, fingerprint: Fingerprint, contents: Mapping[str, bytes], score: Score | None
) -> dict[str, bytes]:
    """The manifest of the files with these contents, and its seal, by the names of their files."""
    body = {
        "format": FORMAT,
        "step": step,
        "score": score and asdict(score),
        "fingerprint": as_json(fingerprint),
        "num_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ray": _version("ray")},
        "files": {name: {"size": len(raw), "sha256": _sha256(raw)} for name, raw in contents.items()},
    }
    text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False).encode()
    return {MANIFEST: text, SEAL: f"{_sha256(text)}  {MANIFEST}\n".encode()}


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in the folder of a checkpoint, whose `score` is a Score or None.

    Raises CheckpointError if it is damaged, IncompatibleError if it is of another format version.
    """
    if path.is_symlink() or not path.is_dir():
        raise CheckpointError(f"{path}: is not a folder")
    raw = _read(path / MANIFEST, _MAX_MANIFEST)
    if _read(path / SEAL, 1024) != f"{_sha256(raw)}  {MANIFEST}\n".encode():
        raise CheckpointError(f"{path / MANIFEST}: its SHA-256 is not the one in {SEAL}")
    with convert_errors(path / MANIFEST):
        manifest = json.loads(raw)
        version = manifest["format"]
    if version != FORMAT:
        raise IncompatibleError(f"{path}: has format version {version}; this program reads version {FORMAT}")
    if not _is_manifest(manifest):
        raise CheckpointError(f"{path / MANIFEST}: does not have the fields of format version {FORMAT}")
    named = NAME.fullmatch(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise CheckpointError(f"{path}: is the checkpoint of step {manifest['step']} under another name")
    score = manifest.get("score")
    return {**manifest, "score": score and Score(**score)}


def is_intact(path: Path) -> bool:
    """Whether the files of a checkpoint are those of its manifest."""
    with contextlib.suppress(CheckpointError):
        return bool(read_files(path, read_manifest(path)))
    return False


def read_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of a checkpoint's files by their names; raises CheckpointError for others than its manifest says."""
    with convert_errors(path / WEIGHTS):
        check_size(path / WEIGHTS, [entry["size"] for entry in manifest["files"].values()])
    return {name: _read_and_verify(path / name, manifest["files"][name]) for name in (WEIGHTS, STATE)}


def _read_and_verify(path: Path, expected: Mapping[str, Any]) -> bytes:
    raw = _read(path, expected["size"])
    if len(raw) != expected["size"]:
        raise CheckpointError(f"{path}: has {len(raw)} bytes, the manifest says {expected['size']}")
    if _sha256(raw) != expected["sha256"]:
        raise CheckpointError(f"{path}: its SHA-256 is not the one in the manifest")
    return raw


@contextlib.contextmanager
def convert_errors(path: Path, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Turn errors into CheckpointError: all of them, as torch.load and safetensors fail with a dozen kinds, or some."""
    try:
        yield
    except kinds as error:
        if isinstance(error, UserError) and not isinstance(error, InputError):
            raise
        raise CheckpointError(f"{path}: cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).split("\n", 1)[0]
    return text or type(error).__name__


def _is_manifest(data: Any) -> bool:
    """Whether JSON data has the fields of a manifest, of their types."""
    return (
        isinstance(data, dict)
        and set(data) - {"score"} == _KEYS
        and type(data["step"]) is type(data["num_threads"]) is int
        and isinstance(data["fingerprint"], dict)
        and isinstance(data["files"], dict)
        and set(data["files"]) == {WEIGHTS, STATE}
        and all(
            isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)
            for entry in data["files"].values()
        )
        and (data.get("score") is None or _is_score(data["score"]))
    )


def _is_score(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and set(data) == {"metric", "value", "higher_is_better", "basis"}
        and isinstance(data["metric"], str)
        and type(data["value"]) is float
        and math.isfinite(data["value"])
        and type(data["higher_is_better"]) is bool
        and isinstance(data["basis"], dict)
    )


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links and pipes are refused without waiting."""
    try:
        with open_regular(path, follow_links=False) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(f"{path}: has {size} bytes, at most {limit} expected")
            return file.read()
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
