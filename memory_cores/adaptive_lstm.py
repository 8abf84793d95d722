"""LSTM layers that take as many steps as each input needs: adaptive computation time (Graves, 1603.08983)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from memory_cores.adaptive_computation import Pondering, accumulate
from memory_cores.core import State, Stream
from memory_cores.validation import check_state, check_step

if TYPE_CHECKING:
    from memory_cores.lstm import LSTM

COMPACT_BELOW = 0.5
"""Once fewer than this share of the rows at hand still run, these alone are computed further."""


class Pondered(NamedTuple):
    """What one input came to."""

    hidden: list[Tensor]
    """For each layer h (B, D)."""
    cells: list[Tensor]
    """For each layer c (B, D)."""
    steps: Tensor
    """(B,) int64, N."""
    remainder: Tensor
    """(B,), R."""


class AdaptiveCell:
    """The weights of an adaptive `LSTM` core, arranged for the steps that one input is given.

    All layers together are the state-transition of the paper (section 2, equation 2): each step runs the whole
    stack, the halting unit reads the top layer, and the states h and c of every layer are weighed alike. The input of
    the first layer is [x, 1] in the first step of an input and [x, 0] in the others.
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

    def ponder(self, gates: Tensor, hidden: list[Tensor], cells: list[Tensor]) -> Pondered:
        """One input of gates (B, 4 D), from the states that the last input came to, each (B, D) a layer."""
        core = self.core
        pondering = Pondering(gates.shape[:1], gates, max_steps=core.max_ponder_steps, epsilon=core.halting_epsilon)
        results = [torch.zeros_like(state) for state in (*hidden, *cells)]
        rows: Tensor | None = None
        """The rows at hand, all if None."""
        running = gates.shape[0]
        while running:
            first = gates + self.flag if pondering.taken == 0 else gates
            hidden, cells = self.step(first, hidden, cells)
            probability = core.halting_unit(hidden[-1])
            if rows is not None:
                probability = pondering.used.new_zeros(pondering.used.shape).index_copy(0, rows, probability)
            weight = pondering.weigh(probability)
            for place, state in enumerate((*hidden, *cells)):
                if rows is None:
                    results[place] = accumulate(core.halting, results[place], state, weight)
                else:
                    taken_in = accumulate(core.halting, results[place][rows], state, weight[rows])
                    results[place] = results[place].index_copy(0, rows, taken_in)
            running = int(pondering.running.sum())
            if 0 < running < COMPACT_BELOW * gates.shape[0]:
                keep = pondering.running if rows is None else pondering.running[rows]
                keep = keep.nonzero().squeeze(1)
                rows = keep if rows is None else rows[keep]
                gates, hidden, cells = gates[keep], [h[keep] for h in hidden], [c[keep] for c in cells]
        layers = core.num_layers
        return Pondered(results[:layers], results[layers:], pondering.steps, pondering.remainder)

    def step(self, gates: Tensor, hidden: list[Tensor], cells: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """One step of all layers, gates (B, 4 D) being what the input adds to the first one's."""
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
