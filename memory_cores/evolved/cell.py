"""The two blocks of the Evolved Transformer's decoder cell (So et al., 1901.11117), without its encoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from memory_cores.attention.attention import Attention
from memory_cores.attention.patterns import View
from memory_cores.attention.positions import RelativePositions, RotaryPositions
from memory_cores.layers.convolution import CausalConvolution
from memory_cores.layers.initialisation import fan_in_normal_

LEFT_TAPS, RIGHT_TAPS, JOIN_TAPS = 11, 7, 7
BRANCH_HISTORY, JOIN_HISTORY = max(LEFT_TAPS, RIGHT_TAPS) - 1, JOIN_TAPS - 1
"""Earlier inputs that the two branches, and the convolution of their sum, read."""


class ConvolutionInputs(NamedTuple):
    """Inputs of a cell's convolutions: of a call's T steps, or of as many steps before it as they read."""

    branches: Tensor
    """(B, T, D), what both branches read; (B, BRANCH_HISTORY, D) before a call."""
    join: Tensor
    """(B, T, 2 D), the normalised sum of the branches; (B, JOIN_HISTORY, 2 D) before a call."""


class SeparableConvolution(nn.Module):
    """A causal depthwise convolution and a linear map of its channels (Chollet, 1610.02357)."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        """width: the number of taps."""
        super().__init__()
        self.depthwise = CausalConvolution(inputs, width)
        self.pointwise = nn.Linear(inputs, outputs)
        fan_in_normal_(self.pointwise)

    def forward(self, x: Tensor, past: Tensor, episode: Tensor) -> Tensor:
        """x (B, T, inputs) after past (B, N, inputs), of which the newest taps - 1 count -> (B, T, outputs).

        episode: (B, T), where the episode of each step begins.
        """
        y: Tensor = self.pointwise(self.depthwise(x, past[:, past.shape[1] + 1 - self.depthwise.width :], episode))
        return y


class EvolvedBlock(nn.Module):
    """Half a cell: h = x + attention(norm(x)), and what a subclass computes from h."""

    def __init__(self, attention: Attention, d_model: int) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(d_model)

    def normalise_memory(self, memory: Tensor) -> Tensor:
        """Layer inputs (..., D), remembered ones or those of the call, as attention reads them."""
        normalised: Tensor = self.attention_norm(memory)
        return normalised

    def attend(
        self, x: Tensor, memory: Tensor, views: list[View], positions: RelativePositions | RotaryPositions | None
    ) -> Tensor:
        """The residual stream (B, T, D) after x (B, T, D) attended to memory (B, M, D) and itself."""
        attended: Tensor = self.attention(self.normalise_memory(x), self.normalise_memory(memory), views, positions)
        return x + attended


class ConvolutionBlock(EvolvedBlock):
    """The first half of a cell: attention, and two branches of convolutions whose sum a third one joins.

        n = norm(h),   left = relu(conv_11(n)),   right = conv_7(n),   y = h + conv_7(norm(left + right))

    All convolutions are separable and causal. left has 2 D channels, right D / 2, and zeros fill it up.
    """

    def __init__(self, attention: Attention, d_model: int, dropout: float) -> None:
        super().__init__(attention, d_model)
        self.branch_norm = nn.LayerNorm(d_model)
        self.left = SeparableConvolution(d_model, 2 * d_model, LEFT_TAPS)
        self.right = SeparableConvolution(d_model, d_model // 2, RIGHT_TAPS)
        self.join_norm = nn.LayerNorm(2 * d_model)
        self.join = SeparableConvolution(2 * d_model, d_model, JOIN_TAPS)
        self.dropout = nn.Dropout(dropout)

    def convolve(self, h: Tensor, past: ConvolutionInputs, episode: Tensor) -> tuple[Tensor, ConvolutionInputs]:
        """The output (B, T, D) for h (B, T, D), and the inputs of the convolutions.

        episode: (B, T), where the episode of each step begins.
        """
        entering = self.branch_norm(h)
        left = self.dropout(self.left(entering, past.branches, episode).relu())
        right = self.dropout(self.right(entering, past.branches, episode))
        right = functional.pad(right, (0, left.shape[-1] - right.shape[-1]))
        # Under autocast the branches are of half precision; what enters the state never is.
        joined = self.join_norm((left + right).to(h.dtype))
        y = h + self.dropout(self.join(joined, past.join, episode))
        return y, ConvolutionInputs(entering, joined)


class DenseBlock(EvolvedBlock):
    """The second half of a cell: attention, and y = h + W_2 norm(swish(W_1 norm(h) + b_1)) + b_2."""

    def __init__(self, attention: Attention, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__(attention, d_model)
        self.dense_norm = nn.LayerNorm(d_model)
        self.hidden = nn.Linear(d_model, d_ff)
        self.hidden_norm = nn.LayerNorm(d_ff)
        self.output = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)
        fan_in_normal_(self.hidden)
        fan_in_normal_(self.output)

    def transform(self, h: Tensor) -> Tensor:
        """(..., D) -> (..., D), each step by itself."""
        hidden = self.dropout(functional.silu(self.hidden(self.dense_norm(h))))
        y: Tensor = h + self.dropout(self.output(self.hidden_norm(hidden)))
        return y
