"""Initial weights."""

from __future__ import annotations

from torch import nn


def fan_in_normal_(layer: nn.Linear, gain: float = 1.0) -> None:
    """Fill the weight with N(0, gain^2 / inputs), so that unit inputs give outputs of `gain`, and the bias with zeros.

    It depends on the number of inputs alone, so matrices that are fused along their outputs start as separate ones
    would. A gain of sqrt(2) is for inputs that passed a ReLU, which halves their second moment (He et al., 1502.01852,
    equation 10).
    """
    nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
