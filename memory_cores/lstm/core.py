"""The LSTM (Hochreiter & Schmidhuber, 1997, with the forget gate of Gers et al., 2000) as a memory core."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from memory_cores.core import CoreOutput, MemoryCore, State, Stream
from memory_cores.layers.halting import (
    Halting,
    HaltingOptions,
    HaltingProgress,
    HaltingUnit,
    accumulate,
    output_with_ponder_loss,
)
from memory_cores.lstm.layer import lstm_layer
from memory_cores.options import at_least
from memory_cores.validation import check_call, check_state, check_step

STEPS_WORTH_A_CALL = 8
"""Where episodes are shorter than this on average, one call of torch.nn.LSTM for each costs more than it saves."""


@dataclass(frozen=True, kw_only=True)
class LSTMOptions(HaltingOptions):
    """The options of `LSTM`."""

    num_layers: int = 1
    """Stacked layers; cost grows in proportion. One or two are enough for most agents."""
    max_dependency: int | None = None
    """Gate biases start so as to suit dependencies of up to this many steps (chrono initialisation; Tallec & Ollivier,
    1804.11188, equation 16); null starts the forget gates with a bias of 1. Set it near the longest delay of the
    task."""
    halting: Halting = "none"
    """Adaptive computation time of the whole stack (Graves, 1603.08983): graves, tensor2tensor, or none, which runs the
    stack once for each step. With none the other options of halting and pondering have no effect."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model) + at_least(1, num_layers=self.num_layers)
        return problems + (at_least(2, max_dependency=self.max_dependency) if self.max_dependency is not None else [])


class LSTM(MemoryCore):
    """LSTM layers, optionally with adaptive computation time (ACT).

        i, f, o = sigmoid(W [x_t, h_{t-1}] + b),  g = tanh(...),  c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)

    Calls with few resets run torch.nn.LSTM between them, those with many run `lstm_layer`. Input weights start from
    N(0, 1 / D), so that unit inputs open some gates and close others; recurrent weights start orthogonal.

    State: h and c, each (B, L, D).

    With `halting`, each input is given as many steps of the whole stack as it needs, up to `max_ponder_steps`, and a
    loss "ponder" is returned. The first layer then has one more input, which is 1 in the first step of an input. An
    independent plain loop is tests/memory_cores/plain_act.py. Metrics: the mean number of steps, and the fraction of
    inputs that halt at each step.

    >>> import memory_cores
    >>> core = memory_cores.build("lstm", d_model=8)
    >>> x, stream = torch.randn(2, 5, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(5)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-5)
    True
    """

    Options = LSTMOptions

    def __init__(self, d_model: int, options: LSTMOptions) -> None:
        super().__init__(d_model, options)
        num_layers, max_dependency = options.num_layers, options.max_dependency
        self.num_layers = num_layers
        self.halting = options.halting
        self.adaptive = options.halting != "none"
        self.max_ponder_steps = options.max_ponder_steps
        self.ponder_cost = options.ponder_cost
        self.halting_epsilon = options.halting_epsilon
        self.lstm = nn.LSTM(d_model + self.adaptive, d_model, num_layers, batch_first=True)
        if self.adaptive:
            self.halting_unit = HaltingUnit(d_model, options.halting_bias)
        for layer in range(num_layers):
            nn.init.normal_(getattr(self.lstm, f"weight_ih_l{layer}"), std=d_model**-0.5)
            for gate in getattr(self.lstm, f"weight_hh_l{layer}").detach().chunk(4):
                nn.init.orthogonal_(gate)
            input_bias, hidden_bias = gate_biases(self.lstm, layer)
            with torch.no_grad():
                hidden_bias[:2].zero_()
                if max_dependency is None:
                    input_bias[1].fill_(1.0)
                else:
                    input_bias[1].uniform_(1, max_dependency - 1).log_()
                    input_bias[0] = -input_bias[1]

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        weight = next(self.parameters())
        shape = (batch_size, self.num_layers, self.d_model)
        device = weight.device if device is None else device
        return {name: torch.zeros(shape, dtype=weight.dtype, device=device) for name in ("h", "c")}

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        check_call(self, x, state, reset)
        x = x.to(state["h"].dtype)
        if self.adaptive:
            return self.ponder(x, state, reset)
        before = tuple(state[name].detach().transpose(0, 1).contiguous() for name in ("h", "c"))  # each (L, B, D)
        begins = [] if reset is None else reset.any(dim=0).nonzero().flatten().tolist()
        if reset is None or len(begins) * STEPS_WORTH_A_CALL <= x.shape[1]:
            with half_precision_where_supported(x.device.type):
                y, h, c = self.run_between_resets(x, before, reset, begins)
        else:
            with torch.autocast(x.device.type, enabled=False):
                y, h, c = self.run_with_resets(x, before, reset)
        h, c = (tensor.detach().transpose(0, 1).to(x.dtype).contiguous() for tensor in (h, c))
        return CoreOutput(y, {"h": h, "c": c}, {}, {})

    def run_between_resets(
        self, x: Tensor, before: tuple[Tensor, ...], reset: Tensor | None, begins: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All layers over x (B, T, D) from the h and c (L, B, D) before it, cut at the steps where episodes begin."""
        h, c = before
        outputs = []
        for start, stop in itertools.pairwise(sorted({0, *begins, x.shape[1]})):
            if reset is not None and start in begins:
                h, c = (states.masked_fill(reset[:, start, None], 0.0) for states in (h, c))
            y, (h, c) = self.lstm(x[:, start:stop], (h, c))
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), h, c

    def run_with_resets(self, x: Tensor, before: tuple[Tensor, ...], reset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All layers over x (B, T, D) with reset (B, T), from the h and c (L, B, D), in the parameters' dtype."""
        kept = (~reset).t().to(x.dtype)[..., None]  # (T, B, 1)
        y = x.transpose(0, 1).contiguous()
        h, c = (list(states) for states in before)
        for layer in range(self.num_layers):
            y, h[layer], c[layer] = lstm_layer(y, h[layer], c[layer], kept, layer_weights(self.lstm, layer))
        return y.transpose(0, 1), torch.stack(h), torch.stack(c)

    def ponder(self, x: Tensor, state: State, reset: Tensor | None) -> CoreOutput:
        """`forward` with adaptive computation time, x (B, T, D) and reset (B, T)."""
        cell = AdaptiveCell(self)
        hidden, cells = (list(state[name].detach().unbind(dim=1)) for name in ("h", "c"))
        outputs, steps, remainders = [], [], []
        for t, gates in enumerate(cell.project(x).to(x.dtype).unbind(dim=1)):
            if reset is not None:
                hidden, cells = ([s.masked_fill(reset[:, t, None], 0.0) for s in states] for states in (hidden, cells))
            hidden, cells, taken, remainder = cell.ponder(gates, hidden, cells)
            outputs.append(hidden[-1])
            steps.append(taken)
            remainders.append(remainder)
        return output_with_ponder_loss(
            torch.stack(outputs, dim=1),
            {name: torch.stack(states, dim=1).detach() for name, states in (("h", hidden), ("c", cells))},
            torch.stack(steps),
            torch.stack(remainders),
            ponder_cost=self.ponder_cost,
            max_steps=self.max_ponder_steps,
        )

    def stream(self, batch_size: int) -> LSTMStream | AdaptiveLSTMStream:
        return AdaptiveLSTMStream(self, batch_size) if self.adaptive else LSTMStream(self, batch_size)


def half_precision_where_supported(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Autocast unchanged, but switched off on a CPU without AVX-512, where torch has no LSTM in half precision."""
    if device_type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability():
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


def gate_biases(lstm: nn.LSTM, layer: int) -> tuple[Tensor, Tensor]:
    """The input and hidden biases of a layer as views (4, D), with one row for each of the gates i, f, g, o."""
    return getattr(lstm, f"bias_ih_l{layer}").view(4, -1), getattr(lstm, f"bias_hh_l{layer}").view(4, -1)


def layer_weights(lstm: nn.LSTM, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's weights of its inputs and of h, each (4 D, D), and its bias (4 D,); gates are in the order o, i, f,
    g."""
    weights = [getattr(lstm, f"weight_{kind}_l{layer}").unflatten(0, (4, -1)) for kind in ("ih", "hh")]
    input_weight, hidden_weight, input_bias, hidden_bias = (
        torch.cat([gates[3:], gates[:3]]).flatten(0, 1) for gates in (*weights, *gate_biases(lstm, layer))
    )
    return input_weight, hidden_weight, input_bias + hidden_bias


class LSTMStream(Stream):
    """Steps an `LSTM` core with one fused product [x, h] W for each layer.

    Gates are in the order o, i, f, g, so that one sigmoid serves three of them. Steps run in the parameters' dtype,
    also under autocast.
    """

    def __init__(self, core: LSTM, batch_size: int) -> None:
        self.core = core
        self.batch_size = batch_size
        self.load(core.initial_state(batch_size))

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        check_step(self.core, self.batch_size, x, reset)
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.step(x.to(self.inputs.dtype), reset)
        width = self.core.d_model
        if reset is not None and reset.any():
            self.cells.masked_fill_(reset[:, None], 0.0)
            self.inputs[:, :, width:].masked_fill_(reset[:, None], 0.0)
        for xh, c, weight, bias in zip(self.inputs, self.cells, self.weights, self.biases, strict=True):
            xh[:, :width] = x
            gates = torch.addmm(bias, xh, weight)
            o, i, f = gates[:, : 3 * width].sigmoid_().chunk(3, dim=1)
            c.mul_(f).addcmul_(i, gates[:, 3 * width :].tanh_())
            x = c.tanh().mul_(o)
            xh[:, width:] = x
        return x

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        h = self.inputs[:, :, self.core.d_model :].transpose(0, 1)
        c = self.cells.transpose(0, 1)
        return {name: t.clone(memory_format=torch.contiguous_format) for name, t in (("h", h), ("c", c))}

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        check_state(self.core, state, self.batch_size)
        h = state["h"].detach().transpose(0, 1)  # (L, B, D)
        self.cells = state["c"].detach().transpose(0, 1).clone(memory_format=torch.contiguous_format)
        self.inputs = torch.cat([torch.zeros_like(h), h], dim=-1)  # (L, B, 2 D): the rows [x, h]
        self.weights, self.biases = [], []
        for layer in range(self.core.num_layers):
            input_weight, hidden_weight, bias = layer_weights(self.core.lstm, layer)
            self.weights.append(torch.cat([input_weight, hidden_weight], dim=1).t().contiguous())  # (2 D, 4 D)
            self.biases.append(bias)


COMPACT_BELOW = 0.5
"""Once less than this share of the rows that are being computed still runs, only the running ones are kept."""


class AdaptiveResult(NamedTuple):
    """The result of one input."""

    hidden: list[Tensor]
    """The h (B, D) of each layer."""
    cells: list[Tensor]
    """The c (B, D) of each layer."""
    steps: Tensor
    """(B,) int64, the steps that each row took; N of the paper."""
    remainder: Tensor
    """(B,), the remainder of each row; R of the paper."""


class AdaptiveCell:
    """The weights of an adaptive `LSTM` core, arranged for several steps for each input.

    All layers together are the state-transition of the paper (section 2, equation 2): each step runs the whole stack,
    the halting unit reads the top layer, and one weight applies to the states h and c of every layer. The input of the
    first layer is [x, 1] in the first step of an input and [x, 0] in the others.
    """

    def __init__(self, core: LSTM) -> None:
        self.core = core
        lstm, width = core.lstm, core.d_model
        input_weight = cast(Tensor, lstm.weight_ih_l0)
        self.recurrent = [getattr(lstm, f"weight_hh_l{layer}").t() for layer in range(core.num_layers)]
        self.upward = [getattr(lstm, f"weight_ih_l{layer}").t() for layer in range(1, core.num_layers)]
        self.biases = [
            getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}") for layer in range(core.num_layers)
        ]
        self.input = input_weight[:, :width].t()  # (D, 4 D)
        self.flag = input_weight[:, width]  # (4 D,)

    def project(self, x: Tensor) -> Tensor:
        """What x (..., D) adds to the gates (..., 4 D) of the first layer in every step."""
        gates: Tensor = x @ self.input + self.biases[0]
        return gates

    def ponder(self, gates: Tensor, hidden: list[Tensor], cells: list[Tensor]) -> AdaptiveResult:
        """Process one input, given as gates (B, 4 D), from each layer's h and c (B, D) after the last input."""
        core = self.core
        progress = HaltingProgress(
            gates.shape[:1], gates, max_steps=core.max_ponder_steps, epsilon=core.halting_epsilon
        )
        results = [torch.zeros_like(state) for state in (*hidden, *cells)]
        rows: Tensor | None = None
        """The rows that are still computed, all if None."""
        running = gates.shape[0]
        while running:
            first = gates + self.flag if progress.taken == 0 else gates
            hidden, cells = self.step(first, hidden, cells)
            probability = core.halting_unit(hidden[-1])
            if rows is not None:
                probability = progress.used.new_zeros(progress.used.shape).index_copy(0, rows, probability)
            weight = progress.weigh(probability)
            for place, state in enumerate((*hidden, *cells)):
                if rows is None:
                    results[place] = accumulate(core.halting, results[place], state, weight)
                else:
                    taken_in = accumulate(core.halting, results[place][rows], state, weight[rows])
                    results[place] = results[place].index_copy(0, rows, taken_in)
            running = int(progress.running.sum())
            if 0 < running < COMPACT_BELOW * gates.shape[0]:
                keep = progress.running if rows is None else progress.running[rows]
                keep = keep.nonzero().squeeze(1)
                rows = keep if rows is None else rows[keep]
                gates, hidden, cells = gates[keep], [h[keep] for h in hidden], [c[keep] for c in cells]
        layers = core.num_layers
        return AdaptiveResult(results[:layers], results[layers:], progress.steps, progress.remainder)

    def step(self, gates: Tensor, hidden: list[Tensor], cells: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """One step of all layers with their h and c (B, D); the input adds gates (B, 4 D) to those of the first."""
        new_hidden: list[Tensor] = []
        new_cells: list[Tensor] = []
        for layer, (h, c) in enumerate(zip(hidden, cells, strict=True)):
            if layer:
                gates = torch.addmm(self.biases[layer], new_hidden[-1], self.upward[layer - 1])
            i, f, g, o = torch.addmm(gates, h, self.recurrent[layer]).chunk(4, dim=1)
            c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
            new_cells.append(c)
            new_hidden.append(o.sigmoid() * c.tanh())
        return new_hidden, new_cells


class AdaptiveLSTMStream(Stream):
    """Steps an `LSTM` core with adaptive computation time, in the parameters' dtype also under autocast."""

    def __init__(self, core: LSTM, batch_size: int) -> None:
        self.core = core
        self.batch_size = batch_size
        self.hidden: list[Tensor] = []
        self.cells: list[Tensor] = []
        self.load(core.initial_state(batch_size))

    @torch.no_grad()
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        check_step(self.core, self.batch_size, x, reset)
        with torch.autocast(x.device.type, enabled=False):
            if reset is not None and reset.any():
                for states in (self.hidden, self.cells):
                    states[:] = [s.masked_fill(reset[:, None], 0.0) for s in states]
            gates = self.cell.project(x.to(self.hidden[0].dtype))
            self.hidden, self.cells, _, _ = self.cell.ponder(gates, self.hidden, self.cells)
            return self.hidden[-1]

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        return {"h": torch.stack(self.hidden, dim=1), "c": torch.stack(self.cells, dim=1)}

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        check_state(self.core, state, self.batch_size)
        self.hidden = list(state["h"].detach().clone().unbind(dim=1))
        self.cells = list(state["c"].detach().clone().unbind(dim=1))
        self.cell = AdaptiveCell(self.core)
