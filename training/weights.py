"""The weights of a model, out of it and into it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from training.errors import InputError


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers by name; what has two names, as a tied matrix has, under its first alone."""
    own = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights, as `weights_of` gives them, into a model; raises InputError naming what does not fit."""
    expected = weights_of(model)
    wrong = [
        f"{name}: the weights have {shape(weights, name)}, the model {shape(expected, name)}"
        for name in sorted({*weights, *expected})
        if shape(weights, name) != shape(expected, name)
    ]
    if wrong:
        raise InputError(
            "the weights do not fit the model; options that change their shapes stay as they were in training\n"
            + "\n".join(wrong[:10])
        )
    model.load_state_dict(dict(weights), strict=False)


def shape(tensors: Mapping[str, Tensor], name: str) -> str:
    """The shape of a named tensor, in words."""
    return str(tuple(tensors[name].shape)) if name in tensors else "none of that name"
