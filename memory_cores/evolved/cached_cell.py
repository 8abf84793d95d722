"""Single steps of a cell's blocks: prepacked weights, cached keys and values, and windows of convolutions."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from memory_cores.attention.cached_block import normalise
from memory_cores.attention.kv_cache import CachedAttention, StepView, pack
from memory_cores.evolved.cell import (
    ConvolutionBlock,
    ConvolutionInputs,
    DenseBlock,
    EvolvedBlock,
    SeparableConvolution,
)


class CachedEvolvedBlock(ABC):
    """Half a cell that computes one step of B rows."""

    def __init__(self, block: EvolvedBlock, attention: CachedAttention) -> None:
        self.attention_norm = block.attention_norm
        self.attention = attention
        self.attention_output = pack(block.attention.output.weight)

    def attend(self, x: Tensor, seen: StepView) -> Tensor:
        """The residual stream (B, D) after x (B, D) attended to the cached keys that are seen and to itself."""
        context = self.attention.attend(normalise(x, self.attention_norm), seen)
        return torch.addmm(x, context, self.attention_output)

    @abstractmethod
    def step(self, x: Tensor, seen: StepView) -> Tensor:
        """The output (B, D) of the block for x (B, D)."""


class CachedConvolutionBlock(CachedEvolvedBlock):
    """Steps a `ConvolutionBlock`; its convolutions read windows of their last inputs."""

    def __init__(self, block: ConvolutionBlock, attention: CachedAttention, past: ConvolutionInputs) -> None:
        super().__init__(block, attention)
        self.block = block
        self.branches = past.branches.transpose(0, 1).clone()
        """(BRANCH_HISTORY, B, D), the last inputs of the branches, newest last."""
        self.joined = past.join.transpose(0, 1).clone()
        """(JOIN_HISTORY, B, 2 D), those of the convolution of their sum."""
        self.left, self.right, self.join = (CachedConvolution(c) for c in (block.left, block.right, block.join))

    def step(self, x: Tensor, seen: StepView) -> Tensor:
        h = self.attend(x, seen)
        branches = torch.cat([self.branches, normalise(h, self.block.branch_norm)[None]])
        left, right = self.left.convolve(branches).relu_(), self.right.convolve(branches)
        left[:, : right.shape[1]] += right
        joined = torch.cat([self.joined, normalise(left, self.block.join_norm)[None]])
        self.branches, self.joined = branches[1:], joined[1:]
        return self.join.convolve(joined).add_(h)

    def forget(self, reset: Tensor) -> None:
        """Clear the past of the rows in which an episode begins, those where reset (B,)."""
        self.branches, self.joined = (t.masked_fill(reset[:, None], 0.0) for t in (self.branches, self.joined))


class CachedDenseBlock(CachedEvolvedBlock):
    """Steps a `DenseBlock`."""

    def __init__(self, block: DenseBlock, attention: CachedAttention) -> None:
        super().__init__(block, attention)
        self.block = block
        self.hidden, self.output = pack(block.hidden.weight), pack(block.output.weight)

    def step(self, x: Tensor, seen: StepView) -> Tensor:
        h = self.attend(x, seen)
        block = self.block
        hidden = torch.addmm(block.hidden.bias, normalise(h, block.dense_norm), self.hidden)
        hidden = normalise(functional.silu(hidden, inplace=True), block.hidden_norm)
        return torch.addmm(block.output.bias, hidden, self.output).add_(h)


class CachedConvolution:
    """A separable convolution of windows that end with the present step."""

    def __init__(self, convolution: SeparableConvolution) -> None:
        self.taps = convolution.depthwise.taps.detach().flip(0)[:, None].contiguous()  # (taps, 1, inputs)
        self.pointwise = pack(convolution.pointwise.weight)
        self.bias = convolution.pointwise.bias

    def convolve(self, window: Tensor) -> Tensor:
        """(B, outputs) for the newest inputs (N, B, inputs), of which those that taps read count."""
        mixed = (window[len(window) - len(self.taps) :] * self.taps).sum(dim=0)
        return torch.addmm(self.bias, mixed, self.pointwise)
