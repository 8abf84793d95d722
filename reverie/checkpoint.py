"""Checksummed checkpoints: written as a whole or not at all, and checked before they are read.

A checkpoint is a folder named by its step:

    weights.safetensors   the weights
    state.pt              everything else, written by torch.save and only ever read with weights_only=True
    manifest.json         versions, step, held-out score, fingerprint, and the size and SHA-256 of both files
    manifest.sha256       the SHA-256 of manifest.json, in the format of sha256sum

It is written to a temporary folder, fsynced, read back, and then renamed. When a checkpoint is read, every hash is
compared before anything is parsed but the manifest and, to see that they fit into memory, the sizes of the weights.

The best checkpoint is the intact one whose manifest has the best score, so no other record can disagree with it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from reverie.fingerprint import Fingerprint, differences
from reverie.manifest import (
    NAME,
    STATE,
    WEIGHTS,
    CheckpointError,
    IncompatibleError,
    Score,
    convert_errors,
    is_intact,
    make_manifest,
    read_files,
    read_manifest,
    reason,
)
from training.errors import InputError
from training.files import create_file

_SPARE_BYTES = 2**20
_UNEXPECTED = (LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, InputError)
"""What code raises on data that are not what it expects."""
_TEMPORARY = re.compile(r"\.tmp-.*-(\d+)")

logger = logging.getLogger(__name__)


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
    score: Score | None
    """That of its weights on held-out data; None where they were not scored."""


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
    score: Score | None = None,
) -> Path:
    """Write the checkpoint of `step` under `root`, then delete all but the newest `keep` intact ones and the best.

    Returns its folder. Raises CheckpointError if it cannot be written or read back; older ones are kept then.
    """
    if keep < 2:
        raise ValueError(f"keep must be at least 2, got {keep}")
    try:
        contents = {WEIGHTS: _weights_bytes(weights), STATE: _state_bytes(state)}
        contents |= make_manifest(step, fingerprint, contents, score)
        root.mkdir(exist_ok=True)  # not its parent: a run folder that is gone stays gone
        remove_stale(root)
        _check_space(root, sum(map(len, contents.values())))
        folder = _publish(root, step, contents)
    except CheckpointError:
        raise
    except Exception as error:  # torch and safetensors raise their own kinds
        raise CheckpointError(f"{root}: cannot save step {step}: {reason(error)}") from error
    _prune(root, folder, keep)
    return folder


def load(path: Path, fingerprint: Fingerprint | None = None) -> Checkpoint:
    """Read one checkpoint, whose fingerprint must equal the given one (None accepts any).

    Raises CheckpointError if it is damaged, IncompatibleError if it is of another experiment.
    """
    manifest = read_manifest(path)
    if fingerprint is not None:
        found = differences(manifest["fingerprint"], fingerprint)
        if found:
            raise IncompatibleError(f"{path}: was written by another experiment:\n  " + "\n  ".join(found), found)
    contents = read_files(path, manifest)
    with convert_errors(path / WEIGHTS):
        weights = safetensors.torch.load(contents[WEIGHTS])
        broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.isnan().any()]
        if broken:
            raise ValueError(f"{', '.join(broken[:3])}: holds NaN")
    with convert_errors(path / STATE):
        state = torch.load(io.BytesIO(contents[STATE]), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"expected a dict, got {type(state).__name__}")
    about = (manifest[key] for key in ("fingerprint", "num_threads", "score"))
    return Checkpoint(path, manifest["step"], weights, state, *about)


def newest(
    root: Path, fingerprint: Fingerprint | None = None, adopt: Callable[[Checkpoint], object] | None = None
) -> tuple[Checkpoint | None, list[SkippedCheckpoint]]:
    """The newest intact checkpoint under `root`, and the newer ones that are damaged.

    Newest means the highest step, whatever the time of the file. See `first_intact`.
    """
    return first_intact(reversed(folders(root)), fingerprint, adopt)


def best(
    root: Path, fingerprint: Fingerprint | None = None, adopt: Callable[[Checkpoint], object] | None = None
) -> tuple[Checkpoint | None, list[SkippedCheckpoint]]:
    """The intact checkpoint under `root` with the best score, and the better ones that are damaged.

    See `ranking` and `first_intact`.
    """
    return first_intact((path for path, _ in ranking(root)), fingerprint, adopt)


def first_intact(
    candidates: Iterable[Path],
    fingerprint: Fingerprint | None = None,
    adopt: Callable[[Checkpoint], object] | None = None,
) -> tuple[Checkpoint | None, list[SkippedCheckpoint]]:
    """The first intact one of some checkpoints, and those before it, which are damaged; (None, []) where there is none.

    `adopt` uses its content; where that raises the errors of data that are not as expected, it is damaged too.
    Raises CheckpointError if all are damaged, IncompatibleError if the first intact one is another experiment's.
    """
    skipped: list[SkippedCheckpoint] = []
    for folder in candidates:
        try:
            found = load(folder, fingerprint)
            if adopt is not None:
                with convert_errors(folder, _UNEXPECTED):
                    adopt(found)
            return found, skipped
        except IncompatibleError:
            raise
        except CheckpointError as error:
            skipped.append(SkippedCheckpoint(folder, str(error)))
    if skipped:
        reasons = "\n  ".join(entry.reason for entry in skipped)
        raise CheckpointError(f"{skipped[0].path.parent}: no checkpoint verifies:\n  {reasons}")
    return None, []


def ranking(root: Path) -> list[tuple[Path, Score]]:
    """The checkpoints under `root` that have scores, the best first, of equal ones the oldest.

    Left out are those whose manifest is damaged, and scores that cannot be compared with that of the newest one.
    """
    scored: list[tuple[Path, Score]] = []
    for folder in folders(root):
        with contextlib.suppress(CheckpointError):
            if (score := read_manifest(folder)["score"]) is not None:
                scored.append((folder, score))
    comparable = [(folder, score) for folder, score in scored if score.is_comparable(scored[-1][1])]
    return sorted(comparable, key=lambda entry: -entry[1].rank)


def best_intact(root: Path) -> tuple[Path, Score] | None:
    """The best checkpoint under `root` whose files are those that were written; None without one."""
    return next((entry for entry in ranking(root) if is_intact(entry[0])), None)


def newest_fingerprint(root: Path) -> dict[str, Any] | None:
    """The fingerprint of the newest checkpoint under `root` whose manifest is whole; None without one."""
    for folder in reversed(folders(root)):
        with contextlib.suppress(CheckpointError):
            return dict(read_manifest(folder)["fingerprint"])
    return None


def folders(root: Path) -> list[Path]:
    """The checkpoints under `root` by ascending step, intact or damaged."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{root}: {reason(error)}") from error
    return [root / name for name in sorted((name for name in names if NAME.fullmatch(name)), key=_order)]


def remove_stale(root: Path) -> None:
    """Delete the temporary folders that unfinished saves and deletions of this or of ended processes left behind."""
    for entry in root.iterdir() if root.is_dir() else ():
        match = _TEMPORARY.fullmatch(entry.name)
        if match and (int(match[1]) == os.getpid() or not _is_alive(int(match[1]))):
            _delete(entry)


def _order(name: str) -> tuple[int, int]:
    match = NAME.fullmatch(name)
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
    """Delete the checkpoints up to `saved` but for the newest `keep` intact ones and the best; failures are logged."""
    older = [folder for folder in folders(root) if _order(folder.name) < _order(saved.name)]
    intact = 1
    while older and intact < keep:
        intact += is_intact(older.pop())
    if not older:
        return
    best_one = best_intact(root)
    for folder in older:
        if best_one is not None and folder == best_one[0]:
            continue
        # Renamed first, so that an interrupted deletion leaves no partial folder under a checkpoint's name.
        doomed = root / f".tmp-{folder.name}-{os.getpid()}"
        try:
            os.replace(folder, doomed)
        except OSError as error:
            logger.warning("%s: cannot be deleted, kept for now: %s", folder, reason(error))
            continue
        _delete(doomed)


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
        logger.warning("%s: cannot be deleted, tried again at the next save: %s", path, reason(error))


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
