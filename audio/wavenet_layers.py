"""The stack of gated dilated convolutions of a WaveNet, with its gradient written out.

Autograd's own gradient of these layers adds and copies more than it multiplies; written out, a layer is five
products forth and back, on whole calls. Tensors are time-major inside, so that a delay by d steps is a shift of
d * B rows. N = T * B rows, L layers, D channels, E skip channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

aten = torch.ops.aten

ROWS_AT_ONCE = 1024
"""Of elementwise operations on gates: what they pass on to each other stays in a processor's cache."""


class Layers(NamedTuple):
    """The shape of the stack."""

    dilations: tuple[int, ...]
    kernel_size: int

    @property
    def delays(self) -> list[list[int]]:
        """For each layer the steps that its taps lie back, furthest first, without the present one."""
        return [[tap * dilation for tap in range(self.kernel_size - 1, 0, -1)] for dilation in self.dilations]

    @property
    def lengths(self) -> list[int]:
        """For each layer the past inputs it needs: all but the present one of its furthest tap's reach."""
        return [dilation * (self.kernel_size - 1) for dilation in self.dilations]

    @property
    def turn(self) -> int:
        """Steps after which all queues, as rings, are where they began."""
        return math.lcm(*self.lengths)

    @property
    def receptive_field(self) -> int:
        """The newest inputs that an output depends on, the present one included."""
        return sum(self.lengths) + 1

    def from_old_to_new(self, place: int) -> Tensor:
        """(Q,), where the queues' inputs, each queue's from old to new, lie in rings that have turned `place` steps."""
        order = []
        start = 0
        for length in self.lengths:
            order.append(start + (place + torch.arange(length)) % length)
            start += length
        return torch.cat(order)


class StackWeights(NamedTuple):
    """The weights of the L layers; a convolution's taps * D columns begin with the tap furthest back."""

    convolutions: Sequence[Tensor]
    """L of (2 D, taps * D), the rows of tanh's half first."""
    biases: Sequence[Tensor]
    """L of (2 D,)"""
    residuals: Sequence[Tensor]
    """L - 1 of (D, D)"""
    skip: Tensor
    """(E, L * D)"""
    skip_bias: Tensor
    """(E,)"""

    def flat(self) -> list[Tensor]:
        """All of them in one list."""
        return [*self.convolutions, *self.biases, *self.residuals, self.skip, self.skip_bias]

    @staticmethod
    def of_flat(weights: Sequence[Tensor]) -> StackWeights:
        """Back from the list."""
        layers = (len(weights) - 1) // 3
        ends = (layers, 2 * layers, 3 * layers - 1)
        return StackWeights(weights[: ends[0]], weights[ends[0] : ends[1]], weights[ends[1] : ends[2]], *weights[-2:])


def gated_stack(
    x: Tensor, queues: Tensor, age: Tensor | None, layers: Layers, weights: StackWeights
) -> tuple[Tensor, Tensor]:
    """Run the stack: x (T, B, D) -> the sum of its skips (T, B, E), and the queues after it.

    queues: (Q, B, D), the past inputs of all layers one after the other, each from old to new. age (T, B): the
    steps since the row's last reset in this call, at least the receptive field where there was none; None without
    resets. Products are in the weights' type, the sum along the residuals is in x's.
    """
    skips, queues = GatedStack.apply(x, queues, age, layers, *weights.flat())
    return skips, queues


class GatedStack(torch.autograd.Function):
    """z = tanh(W_f * x) sigmoid(W_g * x); the next layer's input is x + W_r z (1609.03499, equation 2, figure 4).

    Each product is added to what it belongs to as it is made, and taps are slices of the layer's input: copies and
    additions of their own cost as much as the products. Shapes are those of `gated_stack`: x (T, B, D), queues
    (Q, B, D), age (T, B) -> the sum of skips (T, B, E) and the queues (Q, B, D).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, queues: Tensor, age: Tensor | None, layers: Layers, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps, batch, width = x.shape
        weights = StackWeights.of_flat(flat)
        keep = any(ctx.needs_input_grad)
        inputs, all_gates, queues_after = [], [], []
        gated = weights.skip.new_empty(steps * batch, len(layers.dilations) * width)
        for layer, queue in enumerate(torch.split(queues, layers.lengths)):
            queues_after.append(newest(x, queue, age))
            weight = weights.convolutions[layer]
            present, queue = x.to(weight.dtype), queue.to(weight.dtype)
            gates = torch.addmm(weights.biases[layer], present.flatten(0, 1), weight[:, -width:].t())
            for tap, delay in enumerate(layers.delays[layer]):
                for rows, past in delay_inputs(present, queue, delay, age):
                    gates[rows].addmm_(past, columns(weight, tap, width).t())
            tanh, sigmoid = gates[:, :width].tanh_(), gates[:, width:].sigmoid_()
            z = torch.mul(tanh, sigmoid, out=columns(gated, layer, width))
            if layer < len(weights.residuals):
                x = add_product(x.flatten(0, 1), z, weights.residuals[layer].t()).view_as(x)
            if keep:
                inputs.append(present)
                all_gates.append(gates)
        skips = torch.addmm(weights.skip_bias, gated, weights.skip.t()).view(steps, batch, -1)
        queues_after_all = torch.cat(queues_after)
        if keep:
            ctx.save_for_backward(queues, age, gated, *flat, *inputs, *all_gates)
            ctx.layers, ctx.dtype = layers, x.dtype
        ctx.mark_non_differentiable(queues_after_all)
        return skips, queues_after_all

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, skips_grad: Tensor, queues_grad: Tensor) -> tuple[Tensor | None, ...]:
        layers: Layers = ctx.layers
        count = len(layers.dilations)
        queues, age, gated, *rest = ctx.saved_tensors
        flat, inputs, all_gates = rest[: -2 * count], rest[-2 * count : -count], rest[-count:]
        weights = StackWeights.of_flat(flat)
        grads = StackWeights.of_flat([torch.empty_like(weight) for weight in flat])
        steps, batch, width = inputs[0].shape
        skips_grad = skips_grad.flatten(0, 1)
        torch.mm(skips_grad.t(), gated, out=grads.skip)
        torch.sum(skips_grad, 0, out=grads.skip_bias)
        x_grad = torch.zeros(steps * batch, width, dtype=ctx.dtype, device=gated.device)
        z_grad = gated.new_empty(steps * batch, width)
        gates_grad = torch.empty_like(all_gates[0])
        blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, steps * batch, ROWS_AT_ONCE)]
        for layer, queue in reversed(list(enumerate(torch.split(queues, layers.lengths)))):
            present, gates, weight = inputs[layer], all_gates[layer], weights.convolutions[layer]
            z = columns(gated, layer, width)
            torch.mm(skips_grad, columns(weights.skip, layer, width), out=z_grad)
            if layer < len(weights.residuals):
                residual_grad = x_grad.to(z.dtype)
                torch.mm(residual_grad.t(), z, out=grads.residuals[layer])
                z_grad.addmm_(residual_grad, weights.residuals[layer])
            for block in blocks:
                differentiate_gate(z_grad[block], gates[block], gates_grad[block])
            torch.sum(gates_grad, 0, out=grads.biases[layer])
            torch.mm(gates_grad.t(), present.flatten(0, 1), out=grads.convolutions[layer][:, -width:])
            add_input_gradient(x_grad, gates_grad, weight[:, -width:], 0, batch, None)
            for tap, delay in enumerate(layers.delays[layer]):
                weight_grad = columns(grads.convolutions[layer], tap, width).zero_()
                for rows, past in delay_inputs(present, queue.to(present.dtype), delay, age):
                    weight_grad.addmm_(gates_grad[rows].t(), past)
                add_input_gradient(x_grad, gates_grad, columns(weight, tap, width), delay, batch, age)
        return x_grad.view(steps, batch, width), None, None, None, *grads.flat()


def columns(matrix: Tensor, block: int, width: int) -> Tensor:
    """Columns [block * width, (block + 1) * width) of a matrix (N, columns): (N, width)."""
    return matrix[:, block * width : (block + 1) * width]


def differentiate_gate(z_grad: Tensor, gates: Tensor, out: Tensor) -> None:
    """Write the gradient of the gates' inputs to out (N, 2 D), from that of z (N, D), and tanh and sigmoid (N, 2 D)."""
    width = z_grad.shape[1]
    tanh, sigmoid = gates[:, :width], gates[:, width:]
    aten.tanh_backward.grad_input(z_grad * sigmoid, tanh, grad_input=out[:, :width])
    aten.sigmoid_backward.grad_input(z_grad * tanh, sigmoid, grad_input=out[:, width:])


def add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """total (N, D) + left (N, D) @ right (D, D), in one call where the types are one."""
    return torch.addmm(total, left, right) if total.dtype == left.dtype else total + left @ right


def delay_inputs(x: Tensor, queue: Tensor, delay: int, age: Tensor | None) -> list[tuple[slice, Tensor]]:
    """The inputs x (T, B, D) of `delay` steps ago, zero from before a reset: slices of the N rows, and their past.

    First come the rows whose past lies in the queue (length, B, D), then those whose past lies in x.
    """
    steps, batch, _ = x.shape
    start = len(queue) - delay
    pieces = [queue[start : start + steps], x[: max(steps - delay, 0)]]
    if age is not None:
        after_reset = torch.split(age >= delay, [len(piece) for piece in pieces])
        pieces = [torch.where(kept[..., None], piece, 0.0) for kept, piece in zip(after_reset, pieces, strict=True)]
    rows = [slice(0, delay * batch), slice(delay * batch, None)]
    return [(row, piece.flatten(0, 1)) for row, piece in zip(rows, pieces, strict=True) if len(piece)]


def newest(x: Tensor, queue: Tensor, age: Tensor | None) -> Tensor:
    """The queue (length, B, D) after the steps x (T, B, D), zero from before a reset."""
    length, steps = len(queue), len(x)
    after = torch.cat([queue[steps:], x[max(steps - length, 0) :]])
    if age is None:
        return after
    back = torch.arange(length - 1, -1, -1, device=x.device)
    return after.masked_fill_((age[-1] < back[:, None])[..., None], 0.0)


def add_input_gradient(
    x_grad: Tensor, gates_grad: Tensor, weight: Tensor, delay: int, batch: int, age: Tensor | None
) -> None:
    """Add to the gradient of x (N, D) what reaches it through gates (N, 2 D) `delay` steps later."""
    shift = delay * batch
    if shift >= len(x_grad):
        return
    reached, grad = x_grad[: len(x_grad) - shift], gates_grad[shift:]
    if age is None and reached.dtype == grad.dtype:
        reached.addmm_(grad, weight)
        return
    product = grad @ weight
    if age is not None:
        product.masked_fill_((age[delay:] < delay).view(-1, 1), 0.0)
    reached += product
