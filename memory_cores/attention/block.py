"""One layer of a Transformer with memory, in the published orders of norm, residual and gate."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memory_cores.layers.gating import GRUGate
from memory_cores.layers.mlp import MLP

BlockKind = Literal["post", "pre", "trxl_i", "gtrxl"]


class TransformerBlock(nn.Module):
    """A layer around any attention module that is called as attention(x, memory, *more).

    With the sublayers f, attention and MLP, one after the other:

        post    LN(x + f(x))                 Vaswani et al., 1706.03762, section 3.1
        pre     x + f(LN(x))                 Baevski & Auli, 1809.10853; needs a norm after the last block
        trxl_i  x + relu(f(LN(x)))           identity map reordering (TrXL-I; Parisotto et al., 1910.06764, section 3.1)
        gtrxl   g(x, relu(f(LN(x))))         GRU gates g (GTrXL; section 3.2)
    """

    def __init__(
        self,
        attention: nn.Module,
        *,
        d_model: int,
        d_ff: int,
        kind: BlockKind,
        dropout: float,
        mlp_chunk_length: int | None = None,
    ) -> None:
        """mlp_chunk_length: steps for which the MLP is computed at a time, and again for the gradient; None for all."""
        super().__init__()
        self.kind = kind
        self.mlp_chunk_length = mlp_chunk_length
        self.attention = attention
        self.attention_norm = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model, d_ff, dropout)
        self.mlp_norm = nn.LayerNorm(d_model)
        if kind == "gtrxl":
            self.attention_gate = GRUGate(d_model)
            self.mlp_gate = GRUGate(d_model)

    def forward(self, x: Tensor, memory: Tensor, *more: object) -> Tensor:
        """x (B, T, D) and the remembered layer inputs memory (B, M, D), not normalised -> (B, T, D)."""
        attended = self.attention(self.normalise_memory(x), self.normalise_memory(memory), *more)
        h = self.after_attention(x, attended)
        return self.after_mlp(h, self.run_mlp(self.mlp_input(h)))

    def attention_update(self, x: Tensor, memory: Tensor, *more: object) -> Tensor:
        """What the attention sublayer adds (B, T, D) to the residual stream x (B, T, D), of `pre` and `trxl_i` blocks.

        memory: (B, M, D), the remembered layer inputs.
        """
        attended: Tensor = self.attention(self.normalise_memory(x), self.normalise_memory(memory), *more)
        return attended.relu() if self.kind == "trxl_i" else attended

    def mlp_update(self, h: Tensor) -> Tensor:
        """What the second sublayer adds (B, T, D) to the residual stream h (B, T, D), of `pre` and `trxl_i` blocks."""
        transformed = self.run_mlp(self.mlp_input(h))
        return transformed.relu() if self.kind == "trxl_i" else transformed

    def run_mlp(self, x: Tensor) -> Tensor:
        """The MLP of x (B, T, D), in chunks of steps if there is a length for them (Kitaev et al., 2001.04451, section
        3)."""
        length = self.mlp_chunk_length
        if length is None or x.shape[1] <= length:
            y: Tensor = self.mlp(x)
            return y
        return torch.cat(
            [checkpoint(self.mlp, part, use_reentrant=False) for part in torch.split(x, length, dim=1)], dim=1
        )

    def normalise_memory(self, memory: Tensor) -> Tensor:
        """Layer inputs (..., D), remembered ones or those of the call, as attention reads them."""
        return memory if self.kind == "post" else self.attention_norm(memory)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The residual stream (..., D) after the attention sublayer gave attended (..., D) on x (..., D)."""
        h: Tensor
        if self.kind == "post":
            h = self.attention_norm(x + attended)
        elif self.kind == "gtrxl":
            h = self.attention_gate(x, attended.relu())
        else:
            h = x + (attended.relu() if self.kind == "trxl_i" else attended)
        return h

    def mlp_input(self, h: Tensor) -> Tensor:
        """The residual stream (..., D) between the sublayers as the second one reads it."""
        return h if self.kind == "post" else self.mlp_norm(h)

    def after_mlp(self, h: Tensor, transformed: Tensor) -> Tensor:
        """The residual stream (..., D) after the second sublayer gave transformed (..., D) on h (..., D)."""
        y: Tensor
        if self.kind == "post":
            y = self.mlp_norm(h + transformed)
        elif self.kind == "gtrxl":
            y = self.mlp_gate(h, transformed.relu())
        else:
            y = h + (transformed.relu() if self.kind == "trxl_i" else transformed)
        return y
