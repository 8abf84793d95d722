"""Whether files of weights are as large as they say and fit into memory, told from their first bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from training.files import open_regular

MAX_HEADER = 16 * 2**20
"""Bytes; a header names each tensor once."""


def check_size(weights: Path, sizes: Iterable[int]) -> None:
    """Raise ValueError unless a safetensors file ends where its header says, and files of these sizes fit into memory.

    While they are loaded, memory holds their bytes and the tensors made of them. Nothing but the header is read here,
    so that a file with a hole of many gigabytes costs nothing.
    """
    needed, available = 2 * sum(sizes), available_memory()
    if needed > available:
        raise ValueError(f"needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are free")
    with open_regular(weights, follow_links=False) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"its header is said to have {length} bytes, at most {MAX_HEADER} expected")
        header = json.loads(file.read(length))
        size = file.seek(0, 2)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if size != 8 + length + max(ends, default=0):
        raise ValueError(f"has {size} bytes, its tensors end at byte {8 + length + max(ends, default=0)}")


def available_memory() -> float:
    """Bytes of memory that can still be used, with what can be swapped; infinity where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    kibibytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return 1024 * (kibibytes["MemAvailable"] + kibibytes["SwapFree"])
