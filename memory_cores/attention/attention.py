"""Multi-head attention of a call's steps to a memory and to themselves: a pattern, positions, and one softmax."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from memory_cores.attention.patterns import View, put, take
from memory_cores.attention.positions import Positions, RelativePositions, RelativeTerms, RotaryPositions, rotate
from memory_cores.layers.initialisation import fan_in_normal_

Observe = Callable[[View, Tensor], None]
"""A function that is called with every view and its attention weights (B, H, S, K), detached and before dropout."""
OutputHook = Callable[[Tensor, Tensor], Tensor]
"""A function that takes the scaled queries (B, H, T, W), without positions, and the attention's output (B, T, D), and
returns the output used in its place."""


class Heads(nn.Module):
    """The projections to queries, keys and values of H heads of width W (Vaswani et al., 1706.03762, section 3.2.2).

    Tensors of heads are (H, B, T, W), so that one table of relative positions serves all rows in one product. The
    weights are a subclass's to initialise.
    """

    def __init__(self, d_model: int, num_heads: int, head_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = head_width
        self.scale = head_width**-0.5
        """By which queries are multiplied."""
        self.qkv = nn.Linear(d_model, 3 * num_heads * head_width, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        """(..., N, H W) -> (H, ..., N, W)."""
        return x.view(*x.shape[:-1], self.num_heads, self.head_width).movedim(-2, 0)

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, M, H W), of memory (B, M, D)."""
        of_memory = self.qkv.weight[self.num_heads * self.head_width :]
        key, value = functional.linear(memory, of_memory).chunk(2, dim=-1)
        return key, value

    def project_heads(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (H, B, N, W), of entries (B, N, D)."""
        key, value = self.project_memory(entries)
        return self.heads(key), self.heads(value)

    def project(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H W) of x (B, T, D), and keys and values (B, M + T, H W) of memory (B, M, D) and x."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        memory_key, memory_value = self.project_memory(memory)
        return query, torch.cat([memory_key, key], dim=1), torch.cat([memory_value, value], dim=1)


class MultiHead(Heads):
    """Heads of width W = D / H, and the projection of their outputs to width D."""

    def __init__(self, d_model: int, num_heads: int, dropout: float) -> None:
        super().__init__(d_model, num_heads, d_model // num_heads)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)
        fan_in_normal_(self.qkv)
        fan_in_normal_(self.output)


def merge_heads(context: Tensor) -> Tensor:
    """(H, B, T, W) -> (B, T, H W)."""
    return context.permute(1, 2, 0, 3).flatten(2)


class Attention(MultiHead):
    """softmax(Q K^T / sqrt(W) + positions) V over the keys that a pattern names (Vaswani et al., 1706.03762, section
    3.2.1)."""

    def __init__(self, d_model: int, num_heads: int, dropout: float, positions: Positions) -> None:
        super().__init__(d_model, num_heads, dropout)
        self.position = None
        if positions == "relative":
            self.position = nn.Linear(d_model, d_model, bias=False)
            fan_in_normal_(self.position)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        views: list[View],
        positions: RelativePositions | RotaryPositions | None,
        observe: Observe | None = None,
        hook: OutputHook | None = None,
    ) -> Tensor:
        """x (B, T, D) attends to memory (B, M, D) and itself as the views say -> (B, T, D).

        The memory is compressed slots, if there are any, and then remembered steps.
        """
        return self.attend(*self.project(x, memory), views, positions, observe, hook)

    def at_steps(
        self,
        queries: Tensor,
        x: Tensor,
        memory: Tensor,
        views: list[View],
        positions: RelativePositions | RotaryPositions | None,
    ) -> Tensor:
        """`forward` for some steps of x alone, queries (B, S, D) -> (B, S, D), with their views and positions."""
        query = functional.linear(queries, self.qkv.weight[: x.shape[-1]])
        key, value = self.project_memory(torch.cat([memory, x], dim=1))
        return self.attend(query, key, value, views, positions)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        views: list[View],
        positions: RelativePositions | RotaryPositions | None,
        observe: Observe | None = None,
        hook: OutputHook | None = None,
    ) -> Tensor:
        """The output (B, T, D) of queries (B, T, D), keys and values (B, N, D)."""
        query, key, value = self.heads(query), self.heads(key), self.heads(value)
        context = self.contexts(query, key, value, views, positions, observe, self.dropout.p if self.training else 0.0)
        attended: Tensor = self.dropout(self.output(context))
        return attended if hook is None else hook((query * self.scale).transpose(0, 1), attended)

    def contexts(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        views: list[View],
        positions: RelativePositions | RotaryPositions | None = None,
        observe: Observe | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """The attended values (B, T, D) of queries (H, B, T, W), keys and values (H, B, N, W)."""
        terms = None
        if isinstance(positions, RelativePositions):
            terms = self.relative_terms(positions)
        elif isinstance(positions, RotaryPositions):
            # Turned row by row, so that they lie in memory as the fused kernels read them.
            query = rotate(query.transpose(0, 1), *positions.queries).transpose(0, 1)
            key = rotate(key.transpose(0, 1), *positions.keys).transpose(0, 1)
        attended = []
        for view in views:
            asking, keys, values = take(query, view.queries), take(key, view.keys), take(value, view.keys)
            if terms is None and observe is None:
                attended.append(fused_attention(asking, keys, values, view.mask, dropout))
                continue
            asking = asking * self.scale
            scores = asking @ keys.transpose(-1, -2) if terms is None else terms.scores(asking, keys, view)
            penalty = torch.zeros_like(view.mask, dtype=scores.dtype).masked_fill_(~view.mask, -torch.inf)
            weights = scores.add_(penalty).softmax(dim=-1)
            if observe is not None:
                observe(view, weights.detach().transpose(0, 1))
            attended.append(functional.dropout(weights, dropout) @ values)
        return merge_heads(put(views, attended, query.shape[2]))

    def relative_terms(self, positions: RelativePositions) -> RelativeTerms:
        """This layer's terms of the relative positions of a call."""
        table = self.position_table(self.dropout(positions.table))
        biases = self.scale_biases(positions.content_bias, positions.position_bias)
        return RelativeTerms(table, positions.farthest, *biases)

    def scale_biases(self, content: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The biases u and v (H, 1, W), which attentions share, scaled and read as those of this layer's heads."""
        shape = (self.num_heads, 1, self.head_width)
        return self.scale * content.view(shape), self.scale * position.view(shape)

    def position_table(self, sinusoids: Tensor) -> Tensor:
        """W_r R (H, W, N) of the sinusoids R (N, D) of distances."""
        assert self.position is not None
        return self.heads(self.position(sinusoids)).transpose(1, 2).contiguous()


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """softmax(Q K^T / sqrt(W)) V (H, B, S, W) by torch's fused kernels, which do not return weights."""
    mask = mask.transpose(0, 1) if mask.dim() == 4 else mask[:, None]
    query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))  # (B, H, T, W)
    return functional.scaled_dot_product_attention(query, key, value, mask, dropout).transpose(0, 1)
