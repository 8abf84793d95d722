"""Reversible blocks, whose inputs are computed again from their outputs instead of being kept for the gradient.

With the sublayers F (attention) and G (MLP), each with its norm, a block maps two streams to two (Kitaev et al.,
2001.04451, section 3, after Gomez et al., 1707.04585):

    y1 = x1 + F(x2),   y2 = x2 + G(y1)        x2 = y2 - G(y1),   x1 = y1 - F(x2)

Both streams begin as the input of the core; its output is their mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memory_cores.attention.block import TransformerBlock


class ReversibleCall(NamedTuple):
    """What the blocks of a call are run with."""

    blocks: Sequence[TransformerBlock]
    memory: Tensor
    """(B, L, M, D), the remembered inputs of each block's attention, without gradient."""
    more: tuple[object, ...]
    """What attention is called with besides its input and its memory."""
    shared: tuple[Tensor, ...]
    """Parameters in `more`."""
    capacity: int
    """C, the steps that the memory holds: of a block's input no more are kept."""


def run_reversible(call: ReversibleCall, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output (B, T, D) of the blocks for x (B, T, D), and the last inputs (B, at most C, D) of their attention, to
    be remembered."""
    if not torch.is_grad_enabled():
        return forward_through(call, x)
    inputs: list[Tensor] = []
    named = {
        f"{layer}.{name}": tensor
        for layer, block in enumerate(call.blocks)
        for name, tensor in block.named_parameters()
    }
    y: Tensor = _Reversible.apply(call, inputs, tuple(named), x, *call.shared, *named.values())
    return y, inputs


def forward_through(call: ReversibleCall, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`run_reversible` of x (B, T, D) with the gradient of autograd, which keeps what every sublayer computed."""
    first, second, inputs = _streams_after(call, x, None)
    return (first + second) / 2, inputs


def _streams_after(
    call: ReversibleCall, x: Tensor, random_states: list[_RandomState] | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    first = second = x
    inputs = []
    for layer, block in enumerate(call.blocks):
        inputs.append(second[:, max(0, x.shape[1] - call.capacity) :].detach().clone())
        if random_states is not None:
            random_states.append(_RandomState.now(x.device))
        first = first + block.attention_update(second, call.memory[:, layer], *call.more)
        if random_states is not None:
            random_states.append(_RandomState.now(x.device))
        second = second + block.mlp_update(first)
    return first, second, inputs


class _RandomState(NamedTuple):
    """The state of the generators that dropout draws from."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @staticmethod
    def now(device: torch.device) -> _RandomState:
        return _RandomState(
            torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None, device
        )

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw what was drawn after this state, and leave the generators as they were."""
        with torch.random.fork_rng([] if self.cuda is None else [self.device]):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield


class _Sublayer(nn.Module):
    """One sublayer of a block, so that it can be called with given tensors for its parameters."""

    def __init__(self, block: TransformerBlock, is_attention: bool) -> None:
        super().__init__()
        self.block = block
        self.update = block.attention_update if is_attention else block.mlp_update

    def forward(self, *arguments: Any) -> Tensor:
        return self.update(*arguments)


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: ReversibleCall, inputs: list[Tensor], names: tuple[str, ...], x: Tensor, *tensors: Tensor
    ) -> Tensor:
        device = x.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.call, ctx.names = call, names
        draws = any(isinstance(m, nn.Dropout) and m.training and m.p for block in call.blocks for m in block.modules())
        ctx.random_states = [] if draws else None
        first, second, kept = _streams_after(call, x, ctx.random_states)
        inputs += kept
        ctx.save_for_backward(first, second, *tensors[len(call.shared) :])
        return (first + second) / 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        call: ReversibleCall = ctx.call
        first, second, *parameters = ctx.saved_tensors
        gradient = _Gradient(call, dict(zip(ctx.names, parameters, strict=True)), ctx.random_states or [])
        d_first = d_second = gradients[0] / 2
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype, enabled=enabled):
            for layer in reversed(range(len(call.blocks))):
                update, d_input = gradient.of(layer, False, first, d_second)
                second, d_first = second - update, d_first + d_input
                update, d_input = gradient.of(layer, True, second, d_first, call.memory[:, layer], *call.more)
                first, d_second = first - update, d_second + d_input
        found = [*gradient.of_shared, *(gradient.of_parameters.get(name) for name in ctx.names)]
        return (None, None, None, d_first + d_second, *found)


class _Gradient:
    """Computes sublayers again, the last one first, and collects the gradients of their parameters."""

    def __init__(self, call: ReversibleCall, parameters: dict[str, Tensor], random_states: list[_RandomState]) -> None:
        self.call, self.parameters, self.random_states = call, parameters, random_states
        self.of_parameters: dict[str, Tensor] = {}
        self.of_shared: list[Tensor | None] = [None] * len(call.shared)

    def of(self, layer: int, is_attention: bool, x: Tensor, d_update: Tensor, *more: object) -> tuple[Tensor, Tensor]:
        """What a sublayer adds (B, T, D) for its input x (B, T, D), and the gradient (B, T, D) of x."""
        prefix = f"{layer}."
        own = {
            name.removeprefix(prefix): tensor.detach().requires_grad_(tensor.requires_grad)
            for name, tensor in self.parameters.items()
            if name.startswith(prefix)
        }
        with (
            torch.enable_grad(),
            self.random_states.pop().replayed() if self.random_states else contextlib.nullcontext(),
        ):
            x = x.detach().requires_grad_()
            sublayer = _Sublayer(self.call.blocks[layer], is_attention)
            named = {f"block.{name}": tensor for name, tensor in own.items()}
            update = torch.func.functional_call(sublayer, named, (x, *more))
        learned = {name: tensor for name, tensor in own.items() if tensor.requires_grad}
        shared = self.call.shared if is_attention else ()
        wanted = [x, *learned.values(), *shared]
        d_x, *gradients = torch.autograd.grad(update, wanted, d_update.to(update.dtype), allow_unused=True)
        for name, gradient in zip(learned, gradients, strict=False):
            if gradient is not None:
                self.of_parameters[prefix + name] = _added(self.of_parameters.get(prefix + name), gradient)
        for index, gradient in enumerate(gradients[len(learned) :]):
            self.of_shared[index] = _added(self.of_shared[index], gradient)
        return update.detach(), d_x


def _added(total: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient if total is None else total + gradient
