"""Single steps of a Transformer block, with prepacked weights and a key-value cache."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from memory_cores.attention.attention import OutputHook
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.kv_cache import StepAttention, StepView, pack
from memory_cores.layers.gating import GRUGate

A = TypeVar("A", bound=StepAttention)


class CachedLayer(Protocol):
    """What a stream steps: a layer that computes one step of B rows over cached keys and values."""

    @property
    def attention(self) -> StepAttention:
        """The layer's attention with its cache."""
        ...

    def step(self, x: Tensor, seen: StepView) -> Tensor:
        """x (B, D) attends to the cached keys that are seen and to itself -> (B, D)."""
        ...


class CachedBlock(Generic[A]):
    """A Transformer block that computes one step of B rows."""

    def __init__(self, block: TransformerBlock, attention: A, batch_size: int) -> None:
        self.block = block
        self.kind = block.kind
        self.attention = attention
        self.hook: OutputHook | None = None
        """Takes the scaled queries (B, H, 1, W) and the attention's output (B, D); returns the output used in its
        place."""
        self.attention_output = pack(cast(nn.Linear, block.get_submodule("attention.output")).weight)
        self.hidden = pack(block.mlp.hidden.weight)
        self.output = pack(block.mlp.output.weight)
        if self.kind == "gtrxl":
            self.attention_gate = CachedGate(block.attention_gate, batch_size)
            self.mlp_gate = CachedGate(block.mlp_gate, batch_size)

    def step(self, x: Tensor, seen: StepView) -> Tensor:
        """x (B, D) attends to the cached keys that are seen and to itself -> (B, D)."""
        h = self.attend(x, seen)
        return self.after_mlp(h, self.mlp(self.mlp_input(h)))

    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        """The attention sublayer: x (B, D) attends to the cached keys that are seen and to itself -> (B, D)."""
        if self.kind == "post":
            return normalise(self.run_attention(x, seen).add_(x), self.block.attention_norm)
        attended = self.attention_update(x, seen)
        return self.attention_gate.combine(x, attended) if self.kind == "gtrxl" else attended.add_(x)

    def attention_update(self, x: Tensor, seen: StepView) -> Tensor:
        """What the attention sublayer gives (B, D) for the residual stream x (B, D), of all but `post` blocks."""
        attended = self.run_attention(normalise(x, self.block.attention_norm), seen)
        return attended if self.kind == "pre" else attended.relu_()

    def mlp_update(self, h: Tensor) -> Tensor:
        """What the second sublayer adds (B, D) to the residual stream h (B, D), of `pre` and `trxl_i` blocks."""
        transformed = self.mlp(self.mlp_input(h))
        return transformed if self.kind == "pre" else transformed.relu_()

    def mlp_input(self, h: Tensor) -> Tensor:
        """The residual stream (B, D) between the sublayers as the second one reads it."""
        return h if self.kind == "post" else normalise(h, self.block.mlp_norm)

    def after_mlp(self, h: Tensor, transformed: Tensor) -> Tensor:
        """The residual stream (B, D) after the second sublayer gave transformed (B, D), overwritten, on h (B, D)."""
        if self.kind == "post":
            return normalise(transformed.add_(h), self.block.mlp_norm)
        if self.kind == "pre":
            return transformed.add_(h)
        transformed.relu_()
        return self.mlp_gate.combine(h, transformed) if self.kind == "gtrxl" else transformed.add_(h)

    def run_attention(self, x: Tensor, seen: StepView) -> Tensor:
        """The output (B, D) of the attention module for its input x (B, D)."""
        output = torch.mm(self.attention.attend(x, seen), self.attention_output)
        return output if self.hook is None else self.hook(self.attention.query.transpose(0, 1)[:, :, None], output)

    def mlp(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        hidden = torch.addmm(self.block.mlp.hidden.bias, x, self.hidden).relu_()
        return torch.addmm(self.block.mlp.output.bias, hidden, self.output)


class CachedGate:
    """A GRU gate that computes in preallocated rows, [y, x] and then [y, r x]."""

    def __init__(self, gate: GRUGate, batch_size: int) -> None:
        self.reset_update = pack(gate.reset_update.weight)
        self.candidate = pack(gate.candidate.weight)
        width = gate.bias.shape[0]
        self.bias = torch.cat([torch.zeros_like(gate.bias), -gate.bias])
        self.rows = gate.bias.new_empty(batch_size, 2 * width)
        self.y, self.x = self.rows.chunk(2, dim=1)

    def combine(self, x: Tensor, y: Tensor) -> Tensor:
        """g(x, y) of x, y (B, D) -> (B, D)."""
        self.y.copy_(y)
        self.x.copy_(x)
        reset, update = torch.addmm(self.bias, self.rows, self.reset_update).sigmoid_().chunk(2, dim=1)
        torch.mul(reset, x, out=self.x)
        return torch.lerp(x, torch.mm(self.rows, self.candidate).tanh_(), update)


def normalise(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    """The layer norm of x (B, D), without the cost of a module call."""
    return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
