"""The stack of gated dilated convolutions of a WaveNet, with its gradient written out.

Autograd's own gradient of these layers adds and copies more than it multiplies; written out, a layer is five
products forth and back, on whole calls. Tensors are time-major inside, so that a delay by d steps is a shift of
d * B rows. N = T * B rows, K kernel size, L layers, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Layers(NamedTuple):
    """The shape of the stack."""

    dilations: tuple[int, ...]
    kernel_size: int

    @property
    def delays(self) -> list[list[int]]:
        """For each layer the steps that its taps lie back, furthest first, 0 last."""
        return [[tap * dilation for tap in reversed(range(self.kernel_size))] for dilation in self.dilations]

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


def gated_stack(
    x: Tensor,
    queues: Tensor,
    age: Tensor | None,
    layers: Layers,
    convolutions: list[Tensor],
    biases: list[Tensor],
    residuals: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """Run the stack: x (T, B, D) -> what all layers' gates let through (T, B, L * D), and the queues after it.

    queues: (Q, B, D), the past inputs of all layers one after the other, each from old to new. age (T, B): the
    steps since the row's last reset in this call, at least `steps` where there was none; None without resets.
    convolutions: L of (2 D, K * D), tanh's half first, taps from the furthest back; biases: L of (2 D,);
    residuals: L - 1 of (D, D). Products are in the weights' type, the sum along the residuals is in x's.
    """
    gated, queues = GatedStack.apply(x, queues, age, layers, *convolutions, *biases, *residuals)
    return gated, queues


class GatedStack(torch.autograd.Function):
    """z = tanh(W_f * x) sigmoid(W_g * x); the next layer's input is x + R z (1609.03499, equation 2, figure 4).

    tanh(a) is 2 sigmoid(2 a) - 1, one sigmoid for both halves.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, queues: Tensor, age: Tensor | None, layers: Layers, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps, batch, width = x.shape
        convolutions, biases, residuals = split_weights(layers, weights)
        keep = any(ctx.needs_input_grad)
        saved, outputs, kept_queues = [], [], []
        for layer, queue in enumerate(torch.split(queues, layers.lengths)):
            taps = torch.cat([delayed(x, queue, delay, age) for delay in layers.delays[layer]], dim=2)
            taps = taps.view(steps * batch, -1).to(biases[layer].dtype)
            kept_queues.append(newest(x, queue, age))
            gates = torch.addmm(tanh_doubled(biases[layer]), taps, tanh_doubled(convolutions[layer]).t()).sigmoid_()
            tanh, sigmoid = gates[:, :width], gates[:, width:]
            tanh.mul_(2).sub_(1)
            outputs.append(tanh * sigmoid)
            if layer < len(residuals):
                x = x + (outputs[layer] @ residuals[layer].t()).view_as(x)
            saved += [taps, gates] if keep else []
        gated, queues = torch.cat(outputs, dim=1), torch.cat(kept_queues)
        if keep:
            ctx.save_for_backward(gated, age, *weights, *saved)
            ctx.layers, ctx.dtype = layers, x.dtype
        ctx.mark_non_differentiable(queues)
        return gated.view(steps, batch, -1), queues

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gated_grad: Tensor, queues_grad: Tensor) -> tuple[Tensor | None, ...]:
        layers: Layers = ctx.layers
        count = len(layers.dilations)
        gated, age, *rest = ctx.saved_tensors
        weights, saved = rest[: 3 * count - 1], rest[3 * count - 1 :]
        convolutions, _, residuals = split_weights(layers, weights)
        (steps, batch), width = gated_grad.shape[:2], gated.shape[1] // count
        gated_grad = gated_grad.reshape(gated.shape)
        weight_grads: list[Tensor] = [torch.empty(0)] * len(weights)
        x_grad = gated.new_zeros(steps * batch, width, dtype=ctx.dtype)  # of the layer's output along the residuals
        for layer in reversed(range(count)):
            taps, gates = saved[2 * layer : 2 * layer + 2]
            tanh, sigmoid = gates[:, :width], gates[:, width:]
            z, grad = (tensor[:, layer * width : (layer + 1) * width] for tensor in (gated, gated_grad))
            if layer < len(residuals):
                residual_grad = x_grad.to(z.dtype)
                weight_grads[2 * count + layer] = residual_grad.t() @ z
                grad = torch.addmm(grad, residual_grad, residuals[layer])
            gates_grad = torch.empty_like(gates)
            through, with_z = grad * sigmoid, grad * z
            torch.addcmul(through, through * tanh, tanh, value=-1, out=gates_grad[:, :width])
            torch.addcmul(with_z, with_z, sigmoid, value=-1, out=gates_grad[:, width:])
            weight_grads[layer] = gates_grad.t() @ taps
            weight_grads[count + layer] = gates_grad.sum(0)
            taps_grad = (gates_grad @ convolutions[layer]).view(steps, batch, layers.kernel_size, width)
            add_undelayed(x_grad.view(steps, batch, width), taps_grad, layers.delays[layer], age)
        return x_grad.view(steps, batch, width), None, None, None, *weight_grads


def split_weights(
    layers: Layers, weights: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """The convolutions, their biases and the residual projections."""
    count = len(layers.dilations)
    return weights[:count], weights[count : 2 * count], weights[2 * count :]


def tanh_doubled(weight: Tensor) -> Tensor:
    """(2 D, ...) with its first half, tanh's, doubled."""
    doubled = weight.clone()
    doubled[: len(weight) // 2] *= 2
    return doubled


def delayed(x: Tensor, queue: Tensor, delay: int, age: Tensor | None) -> Tensor:
    """x (T, B, D) as it was `delay` steps ago, from the queue (n, B, D) before that, zero from before a reset."""
    if delay == 0:
        return x
    steps = len(x)
    start = len(queue) - delay
    tap = torch.cat([queue[start : start + steps], x[: max(steps - delay, 0)]])
    return tap if age is None else tap.masked_fill_((age < delay)[..., None], 0.0)


def newest(x: Tensor, queue: Tensor, age: Tensor | None) -> Tensor:
    """The queue (n, B, D) after the steps x (T, B, D), zero from before a reset."""
    length, steps = len(queue), len(x)
    after = torch.cat([queue[steps:], x[max(steps - length, 0) :]])
    if age is None:
        return after
    back = torch.arange(length - 1, -1, -1, device=x.device)
    return after.masked_fill_((age[-1] < back[:, None])[..., None], 0.0)


def add_undelayed(x_grad: Tensor, taps_grad: Tensor, delays: list[int], age: Tensor | None) -> None:
    """Add the gradient of a layer's taps (T, B, K, D) to that of its input (T, B, D), each at its own step."""
    for tap, delay in enumerate(delays):
        if delay < len(taps_grad):
            grad = taps_grad[delay:, :, tap]
            if age is not None:
                grad = grad.masked_fill((age[delay:] < delay)[..., None], 0.0)
            x_grad[: len(grad)] += grad
