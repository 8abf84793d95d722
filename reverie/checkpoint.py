"""Checksummed checkpoints: written as a whole or not at all, and checked before they are read.

A checkpoint is a folder named by its step:

    weights.safetensors   the weights
    state.pt              everything else, written by torch.save and only ever read with weights_only=True
    manifest.json         versions, step, fingerprint, and the size and SHA-256 of both files
    manifest.sha256       the SHA-256 of manifest.json, in the format of sha256sum

It is written to a temporary folder, fsynced, read back, and then renamed. When a checkpoint is read, every hash is
compared before anything is parsed but the manifest and, to see that they fit into memory, the sizes of the weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from reverie.fingerprint import Fingerprint, as_json, differences
from reverie.weights_size import check_size
from training.errors import InputError, UserError
from training.files import create_file, open_regular

FORMAT = 1
WEIGHTS, STATE, MANIFEST, SEAL = "weights.safetensors", "state.pt", "manifest.json", "manifest.sha256"
_MANIFEST_KEYS = {"format", "step", "fingerprint", "num_threads", "versions", "files"}
_MAX_MANIFEST, _SPARE_BYTES = 16 * 2**20, 2**20
_NAME = re.compile(r"(\d{12})(?:-(\d{1,6}))?")
_UNEXPECTED = (LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, InputError)
"""What code raises on data that are not what it expects."""
_TEMPORARY = re.compile(r"\.tmp-.*-(\d+)")

logger = logging.getLogger(__name__)


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
class Checkpoint:
    """The content of a checkpoint."""

    path: Path
    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]
    fingerprint: dict[str, Any]
    num_threads: int
    """The number of torch threads when it was written."""


class SkippedCheckpoint(NamedTuple):
    """A damaged checkpoint, and the reason it was not used."""

    path: Path
    reason: str


def save(
    root: Path,
    step: int,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    fingerprint: Fingerprint,
    keep: int,
) -> Path:
    """Write the checkpoint of `step` under `root`, then delete all but the newest `keep` intact ones.

    Returns its folder. Raises CheckpointError if it cannot be written or read back; older ones are kept then.
    """
    if keep < 2:
        raise ValueError(f"keep must be at least 2, got {keep}")
    try:
        contents = {WEIGHTS: _weights_bytes(weights), STATE: _state_bytes(state)}
        contents |= _manifest(step, fingerprint, contents)
        root.mkdir(exist_ok=True)  # not its parent: a run folder that is gone stays gone
        remove_stale(root)
        _check_space(root, sum(map(len, contents.values())))
        folder = _publish(root, step, contents)
    except CheckpointError:
        raise
    except Exception as error:  # torch and safetensors raise their own kinds
        raise CheckpointError(f"{root}: cannot save step {step}: {_reason(error)}") from error
    _prune(root, folder, keep)
    return folder


def load(path: Path, fingerprint: Fingerprint | None = None) -> Checkpoint:
    """Read one checkpoint, whose fingerprint must equal the given one (None accepts any).

    Raises CheckpointError if it is damaged, IncompatibleError if it is of another experiment.
    """
    manifest = _read_manifest(path)
    if fingerprint is not None:
        found = differences(manifest["fingerprint"], fingerprint)
        if found:
            raise IncompatibleError(f"{path}: was written by another experiment:\n  " + "\n  ".join(found), found)
    contents = _read_files(path, manifest)
    with _convert_errors(path / WEIGHTS):
        weights = safetensors.torch.load(contents[WEIGHTS])
        broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.isnan().any()]
        if broken:
            raise ValueError(f"{', '.join(broken[:3])}: holds NaN")
    with _convert_errors(path / STATE):
        state = torch.load(io.BytesIO(contents[STATE]), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"expected a dict, got {type(state).__name__}")
    return Checkpoint(path, manifest["step"], weights, state, manifest["fingerprint"], manifest["num_threads"])


def newest(
    root: Path, fingerprint: Fingerprint | None = None, adopt: Callable[[Checkpoint], object] | None = None
) -> tuple[Checkpoint | None, list[SkippedCheckpoint]]:
    """The newest intact checkpoint under `root`, and the newer ones that are damaged.

    Newest means the highest step, whatever the time of the file. Returns (None, []) where there is no checkpoint.
    `adopt` uses its content; where that raises the errors of data that are not as expected, it is damaged too.
    Raises CheckpointError if there are some and all are damaged, IncompatibleError if the newest intact one is
    another experiment's.
    """
    skipped: list[SkippedCheckpoint] = []
    for folder in reversed(folders(root)):
        try:
            found = load(folder, fingerprint)
            if adopt is not None:
                with _convert_errors(folder, _UNEXPECTED):
                    adopt(found)
            return found, skipped
        except IncompatibleError:
            raise
        except CheckpointError as error:
            skipped.append(SkippedCheckpoint(folder, str(error)))
    if skipped:
        reasons = "\n  ".join(entry.reason for entry in skipped)
        raise CheckpointError(f"{root}: no checkpoint verifies:\n  {reasons}")
    return None, []


def newest_fingerprint(root: Path) -> dict[str, Any] | None:
    """The fingerprint of the newest checkpoint under `root` whose manifest is whole; None without one."""
    for folder in reversed(folders(root)):
        with contextlib.suppress(CheckpointError):
            return dict(_read_manifest(folder)["fingerprint"])
    return None


def folders(root: Path) -> list[Path]:
    """The checkpoints under `root` by ascending step, intact or damaged."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{root}: {_reason(error)}") from error
    return [root / name for name in sorted((name for name in names if _NAME.fullmatch(name)), key=_order)]


def remove_stale(root: Path) -> None:
    """Delete the temporary folders that unfinished saves and deletions of this or of ended processes left behind."""
    for entry in root.iterdir() if root.is_dir() else ():
        match = _TEMPORARY.fullmatch(entry.name)
        if match and (int(match[1]) == os.getpid() or not _is_alive(int(match[1]))):
            _delete(entry)


def _order(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _weights_bytes(weights: Mapping[str, Tensor]) -> bytes:
    # Tied weights share storage, which safetensors refuses; copies are equal and load into either.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    return safetensors.torch.save(plain)


def _state_bytes(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _manifest(step: int, fingerprint: Fingerprint, contents: Mapping[str, bytes]) -> dict[str, bytes]:
    body = {
        "format": FORMAT,
        "step": step,
        "fingerprint": as_json(fingerprint),
        "num_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ray": _version("ray")},
        "files": {name: {"size": len(raw), "sha256": _sha256(raw)} for name, raw in contents.items()},
    }
    text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False).encode()
    return {MANIFEST: text, SEAL: f"{_sha256(text)}  {MANIFEST}\n".encode()}


def _publish(root: Path, step: int, contents: Mapping[str, bytes]) -> Path:
    temporary = root / f".tmp-{step}-{os.getpid()}"
    temporary.mkdir()
    try:
        for name, raw in contents.items():
            with create_file(temporary / name) as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(temporary)
        load(temporary)
        folder = _free_name(root, step)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(root)
    return folder


def _free_name(root: Path, step: int) -> Path:
    """A folder for `step` that does not exist yet; a damaged checkpoint of that step is kept under its own name."""
    folder, count = root / f"{step:012d}", 0
    while os.path.lexists(folder):
        count += 1
        folder = root / f"{step:012d}-{count}"
    return folder


def _prune(root: Path, saved: Path, keep: int) -> None:
    """Delete the checkpoints older than the newest `keep` intact ones up to `saved`; failures are logged."""
    older = [folder for folder in folders(root) if _order(folder.name) < _order(saved.name)]
    intact = 1
    for folder in reversed(older):
        if intact < keep:
            intact += _is_intact(folder)
            continue
        # Renamed first, so that an interrupted deletion leaves no partial folder under a checkpoint's name.
        doomed = root / f".tmp-{folder.name}-{os.getpid()}"
        try:
            os.replace(folder, doomed)
        except OSError as error:
            logger.warning("%s: cannot be deleted, kept for now: %s", folder, _reason(error))
            continue
        _delete(doomed)


def _is_intact(path: Path) -> bool:
    with contextlib.suppress(CheckpointError):
        return bool(_read_files(path, _read_manifest(path)))
    return False


def _read_files(path: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    with _convert_errors(path / WEIGHTS):
        check_size(path / WEIGHTS, [entry["size"] for entry in manifest["files"].values()])
    return {name: _read_and_verify(path / name, manifest["files"][name]) for name in (WEIGHTS, STATE)}


def _read_manifest(path: Path) -> dict[str, Any]:
    if path.is_symlink() or not path.is_dir():
        raise CheckpointError(f"{path}: is not a folder")
    raw = _read(path / MANIFEST, _MAX_MANIFEST)
    if _read(path / SEAL, 1024) != f"{_sha256(raw)}  {MANIFEST}\n".encode():
        raise CheckpointError(f"{path / MANIFEST}: its SHA-256 is not the one in {SEAL}")
    with _convert_errors(path / MANIFEST):
        manifest = json.loads(raw)
        version = manifest["format"]
    if version != FORMAT:
        raise IncompatibleError(f"{path}: has format version {version}; this program reads version {FORMAT}")
    if not _is_manifest(manifest):
        raise CheckpointError(f"{path / MANIFEST}: does not have the fields of format version {FORMAT}")
    named = _NAME.fullmatch(path.name)
    if named and int(named[1]) != manifest["step"]:
        raise CheckpointError(f"{path}: is the checkpoint of step {manifest['step']} under another name")
    return dict(manifest)


def _is_manifest(data: Any) -> bool:
    """Whether JSON data has the fields of a manifest, of their types."""
    return (
        isinstance(data, dict)
        and set(data) == _MANIFEST_KEYS
        and type(data["step"]) is type(data["num_threads"]) is int
        and isinstance(data["fingerprint"], dict)
        and isinstance(data["files"], dict)
        and set(data["files"]) == {WEIGHTS, STATE}
        and all(
            isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)
            for entry in data["files"].values()
        )
    )


def _read_and_verify(path: Path, expected: Mapping[str, Any]) -> bytes:
    raw = _read(path, expected["size"])
    if len(raw) != expected["size"]:
        raise CheckpointError(f"{path}: has {len(raw)} bytes, the manifest says {expected['size']}")
    if _sha256(raw) != expected["sha256"]:
        raise CheckpointError(f"{path}: its SHA-256 is not the one in the manifest")
    return raw


def _read(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links and pipes are refused without waiting."""
    try:
        with open_regular(path, follow_links=False) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(f"{path}: has {size} bytes, at most {limit} expected")
            return file.read()
    except OSError as error:
        raise CheckpointError(f"{path}: {_reason(error)}") from error


@contextlib.contextmanager
def _convert_errors(path: Path, kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Turn errors into CheckpointError: all of them, as torch.load and safetensors fail with a dozen kinds, or some."""
    try:
        yield
    except kinds as error:
        if isinstance(error, UserError) and not isinstance(error, InputError):
            raise
        raise CheckpointError(f"{path}: cannot be read: {_reason(error)}") from error


def _check_space(root: Path, size: int) -> None:
    free = shutil.disk_usage(root).free
    if free < size + _SPARE_BYTES:
        raise CheckpointError(
            f"{root}: no space for a checkpoint of {size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free"
        )


def _delete(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        logger.warning("%s: cannot be deleted, tried again at the next save: %s", path, _reason(error))


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).split("\n", 1)[0]
    return text or type(error).__name__
