"""Checks of the tensors of a call; errors name the tensor, what it is and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_cores.core import MemoryCore, State


def check_call(core: MemoryCore, x: Tensor, state: State, reset: Tensor | None) -> None:
    """Raise ValueError unless x (B, T, D), `state` and reset (B, T) fit `core`; T is at least 1."""
    if x.dim() != 3 or x.shape[1] < 1 or x.shape[2] != core.d_model:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, steps >= 1, {core.d_model})")
    if not x.is_floating_point():
        raise ValueError(f"x is {x.dtype}, expected a floating-point type")
    check_reset(reset, x.shape[:2])
    check_state(core, state, x.shape[0])


def check_step(core: MemoryCore, batch_size: int, x: Tensor, reset: Tensor | None) -> None:
    """Raise ValueError unless x (B, D) and reset (B,) fit a stream of `batch_size` rows over `core`."""
    if x.shape != (batch_size, core.d_model):
        raise ValueError(f"x has shape {tuple(x.shape)}, expected ({batch_size}, {core.d_model})")
    check_reset(reset, x.shape[:1])


def check_reset(reset: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `reset` is None or a bool tensor of `shape`, (B, T) of a call or (B,) of a step."""
    if reset is not None and (reset.dtype != torch.bool or reset.shape != shape):
        raise ValueError(f"reset is {reset.dtype} {tuple(reset.shape)}, expected torch.bool {tuple(shape)}")


def check_state(core: MemoryCore, state: State, batch_size: int) -> None:
    """Raise ValueError unless `state` has the entries, shapes and dtypes of `batch_size` streams of `core`."""
    expected = core.initial_state(batch_size, device="meta")
    if state.keys() != expected.keys():
        raise ValueError(f"state has the entries {sorted(state)}, expected {sorted(expected)}")
    for name, tensor in expected.items():
        given = state[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise ValueError(
                f"state[{name!r}] is {given.dtype} {tuple(given.shape)}, expected {tensor.dtype} {tuple(tensor.shape)}"
            )
