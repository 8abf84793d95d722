"""The position-wise feed-forward sublayer (Vaswani et al., 1706.03762, section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from memory_cores.layers.initialisation import fan_in_normal_


class MLP(nn.Module):
    """W_2 relu(W_1 x + b_1) + b_2, with dropout after each matrix."""

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_model, d_ff)
        self.output = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)
        fan_in_normal_(self.hidden)
        fan_in_normal_(self.output)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = self.dropout(self.hidden(x).relu())
        y: Tensor = self.dropout(self.output(hidden))
        return y
