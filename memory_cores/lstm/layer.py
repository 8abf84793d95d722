"""One LSTM layer over a call in which episodes begin, with its gradient written out.

torch's own LSTM does not know resets, and over packed pieces of episodes its gradient fills a tensor as large as the
whole call at every step. Written out, a step is one product and a few elementwise operations, forward and backward.
Tensors are time-major inside. The gates of a row are in the order o, i, f, g, so that three share one sigmoid and three
share the gradient of the cell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


def lstm_layer(
    x: Tensor, h: Tensor, c: Tensor, kept: Tensor, weights: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer: x (T, B, D) -> y (T, B, D), and the h and c (B, D) after it, which carry no gradient.

    h, c: (B, D), constants. kept: (T, B, 1), 0 where an episode begins and 1 elsewhere, of x's dtype. weights: those of
    the inputs (4 D, D) and of h (4 D, D), and the bias (4 D,), with gates in the order o, i, f, g.
    """
    y, c = LSTMLayer.apply(x, h, c, kept, *weights)
    return y, y[-1].detach(), c


class LSTMLayer(torch.autograd.Function):
    """c_t = f c_{t-1} + i g and h_t = o tanh(c_t), with the gradient written out.

    Shapes are those of `lstm_layer`: x (T, B, D) -> y (T, B, D) and the last c (B, D); gradients have the shapes of
    what they are gradients of. The factors by which the gradients of c_t and h_t become those of the gates' inputs are
    computed for all steps at once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        kept: Tensor,
        input_weight: Tensor,
        hidden_weight: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        steps, batch, width = x.shape
        gates = torch.addmm(bias, x.flatten(0, 1), input_weight.t()).view(steps, batch, -1)
        cells, squashed, y = (x.new_empty(steps, batch, width) for _ in range(3))
        begins = (kept == 0).flatten(1).any(dim=1).tolist()
        first_h, first_c = h, c
        for t, gate in enumerate(gates.unbind()):
            if begins[t]:
                h, c = h * kept[t], c * kept[t]
            gate.addmm_(h, hidden_weight.t())
            o, i, f = gate[:, : 3 * width].sigmoid_().chunk(3, dim=1)
            c = torch.mul(f, c, out=cells[t]).addcmul_(i, gate[:, 3 * width :].tanh_())
            h = torch.mul(o, torch.tanh(c, out=squashed[t]), out=y[t])
        ctx.save_for_backward(x, first_h, first_c, kept, input_weight, hidden_weight, gates, cells, squashed, y)
        ctx.begins = begins
        last = c.clone()
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_grad: Tensor, last_grad: Tensor) -> tuple[Tensor | None, ...]:
        x, first_h, first_c, kept, input_weight, hidden_weight, gates, cells, squashed, y = ctx.saved_tensors
        steps, batch, width = x.shape
        o, i, f, g = gates.view(steps, batch, 4, width).unbind(dim=2)
        before = torch.cat([first_c[None], cells[:-1]]).mul_(kept)
        slopes = torch.empty_like(gates).view(steps, batch, 4, width)
        for slot, factor, gate in ((0, squashed, o), (1, g, i), (2, before, f)):
            aten.sigmoid_backward.grad_input(factor, gate, grad_input=slopes[:, :, slot])
        aten.tanh_backward.grad_input(i, g, grad_input=slopes[:, :, 3])
        through = aten.tanh_backward(o, squashed)  # of c_t by h_t
        gates_grad = torch.empty_like(slopes)
        h_grad, c_grad = torch.zeros_like(first_h), torch.zeros_like(first_c)
        for t in reversed(range(steps)):
            h_grad = h_grad + y_grad[t]
            c_grad.addcmul_(h_grad, through[t])
            torch.mul(h_grad, slopes[t, :, 0], out=gates_grad[t, :, 0])
            torch.mul(c_grad[:, None], slopes[t, :, 1:], out=gates_grad[t, :, 1:])
            h_grad = torch.mm(gates_grad[t].flatten(1), hidden_weight)
            c_grad.mul_(f[t])
            if ctx.begins[t]:
                h_grad.mul_(kept[t])
                c_grad.mul_(kept[t])
        flat = gates_grad.view(steps * batch, -1)
        before = torch.cat([first_h[None], y[:-1]]).mul_(kept)
        return (
            (flat @ input_weight).view_as(x),
            None,
            None,
            None,
            flat.t() @ x.flatten(0, 1),
            flat.t() @ before.flatten(0, 1),
            flat.sum(dim=0),
        )
