"""Processes on one machine that train one model together, over torch.distributed and the loopback address."""

from __future__ import annotations

import datetime
import io
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from memory_cores.core import SumInPlace


def join_group(rank: int, size: int, store: str, timeout: float) -> None:
    """Join a group of `size` processes as number `rank`, and wait for the others, `timeout` seconds at most.

    They meet at the file `store`, which none of them has made before. Raises RuntimeError if one does not come.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    limit = datetime.timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=limit)
    dist.barrier()


def make_sum(timeout: float) -> SumInPlace:
    """A sum over the group, which raises RuntimeError if a process does not answer within `timeout` seconds."""
    limit = datetime.timedelta(seconds=timeout)

    def sum_over_group(tensor: Tensor) -> None:
        dist.all_reduce(tensor, async_op=True).wait(limit)

    return sum_over_group


def pack(*data: Any) -> bytes:
    """Tensors and plain data by value: tensors sent as they are would stay shared between the processes."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def unpack(packed: bytes) -> Any:
    """The tuple of what was packed."""
    return torch.load(io.BytesIO(packed), weights_only=True)
