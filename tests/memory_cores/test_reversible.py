from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import memory_cores
from memory_cores.attention import base, reversible
from memory_cores.attention.base import MemoryTransformer

CORES: dict[str, dict[str, Any]] = {
    "transformer_xl": {"positions": "relative"},
    "sparse": {"stride": 4},
    "routing": {"window": 8, "local_window": 4},
    "reformer": {"window": 8},
}


def build(name: str, **options: Any) -> MemoryTransformer:
    torch.manual_seed(3)
    sizes = {"d_model": 16, "num_heads": 4, "num_layers": 3, "memory_length": 16, "block": "pre"}
    core = memory_cores.build(name, **{**sizes, **CORES[name], **options})
    assert isinstance(core, MemoryTransformer)
    return core


def gradients(core: MemoryTransformer, x: Tensor) -> dict[str, Tensor]:
    """Of the inputs and of all parameters, in a call with a memory."""
    torch.manual_seed(5)
    state = core(x, core.initial_state(2)).state
    x = x.clone().requires_grad_()
    core.zero_grad()
    (core(x, state).y.square() * torch.arange(1.0, 17.0)).sum().backward()
    assert x.grad is not None
    return {"x": x.grad} | {name: p.grad.clone() for name, p in core.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", CORES)
def test_gradients_are_those_of_autograd(name: str, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    core = build(name, reversible=True, dropout=dropout).double()
    x = torch.randn(2, 30, 16, dtype=torch.float64)
    recomputed = gradients(core, x)
    monkeypatch.setattr(base, "run_reversible", reversible.forward_through)
    kept = gradients(core, x)
    assert recomputed.keys() == kept.keys() == {"x"} | {name for name, _ in core.named_parameters()}
    for parameter, gradient in kept.items():
        torch.testing.assert_close(recomputed[parameter], gradient, rtol=1e-6, atol=1e-9, msg=parameter)


def test_chunks_of_the_mlp_change_no_gradient() -> None:
    x = torch.randn(2, 30, 16, dtype=torch.float64)
    whole, chunked = (gradients(build("transformer_xl", mlp_chunk_length=length).double(), x) for length in (None, 7))
    torch.testing.assert_close(chunked, whole)


def saved_bytes(num_layers: int, is_reversible: bool) -> int:
    """What autograd keeps of one call, without parameters."""
    core = build("sparse", num_layers=num_layers, reversible=is_reversible)
    own = {parameter.data_ptr() for parameter in core.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = core(torch.randn(1, 256, 16), core.initial_state(1))
    assert output.y.requires_grad
    return sum(kept.values())


def test_what_is_kept_for_the_gradient_does_not_grow_with_depth() -> None:
    assert saved_bytes(8, is_reversible=True) == saved_bytes(2, is_reversible=True)
    assert saved_bytes(8, is_reversible=False) > 3 * saved_bytes(2, is_reversible=False)


@pytest.mark.parametrize("block", ["post", "gtrxl"])
def test_blocks_that_cannot_be_reversed_are_refused(block: str) -> None:
    with pytest.raises(memory_cores.OptionsError, match=f"block is '{block}', expected pre or trxl_i with reversible"):
        build("transformer_xl", block=block, reversible=True)
