"""One layer of a Transformer with memory, in the three published orders of norm and residual."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from memory_cores.layers.gating import GRUGate
from memory_cores.layers.mlp import MLP

Norm = Literal["post", "pre", "gru"]


class TransformerBlock(nn.Module):
    """A layer around any attention module that is called as attention(x, memory, *more).

    post: layer norm after each residual sum (Vaswani et al., 1706.03762). pre: identity map reordering, the
    norm on each sublayer's input and a ReLU on its output (TrXL-I; Parisotto et al., 1910.06764, section
    3.1). gru: as pre, with GRU gates for the residual sums (GTrXL; section 3.2).
    """

    def __init__(self, attention: nn.Module, *, d_model: int, d_ff: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.attention = attention
        self.attention_norm = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model, d_ff, dropout)
        self.mlp_norm = nn.LayerNorm(d_model)
        if norm == "gru":
            self.attention_gate = GRUGate(d_model)
            self.mlp_gate = GRUGate(d_model)

    def forward(self, x: Tensor, memory: Tensor, *more: object) -> Tensor:
        """x (B, T, D) and the remembered layer inputs memory (B, M, D), not normalised -> (B, T, D)."""
        attended = self.attention(self.normalise_memory(x), self.normalise_memory(memory), *more)
        h = self.after_attention(x, attended)
        return self.after_mlp(h, self.mlp(self.mlp_input(h)))

    def normalise_memory(self, memory: Tensor) -> Tensor:
        """Layer inputs, remembered or of the call, (..., D) as attention reads them."""
        return memory if self.norm == "post" else self.attention_norm(memory)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The stream (..., D) after the attention sublayer gave attended (..., D) on x (..., D)."""
        h: Tensor
        if self.norm == "post":
            h = self.attention_norm(x + attended)
        elif self.norm == "pre":
            h = x + attended.relu()
        else:
            h = self.attention_gate(x, attended.relu())
        return h

    def mlp_input(self, h: Tensor) -> Tensor:
        """The stream (..., D) between the sublayers as the second one reads it."""
        return h if self.norm == "post" else self.mlp_norm(h)

    def after_mlp(self, h: Tensor, transformed: Tensor) -> Tensor:
        """The stream (..., D) after the second sublayer gave transformed (..., D) on h (..., D)."""
        y: Tensor
        if self.norm == "post":
            y = self.mlp_norm(h + transformed)
        elif self.norm == "pre":
            y = h + transformed.relu()
        else:
            y = self.mlp_gate(h, transformed.relu())
        return y
