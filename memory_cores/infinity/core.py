"""The infinity-former (Martins et al., 2109.00301): a Transformer-XL beside a continuous long-term memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from memory_cores.attention.base import AttentionOptions, MemoryTransformer
from memory_cores.attention.block import TransformerBlock
from memory_cores.attention.cached_block import CachedBlock
from memory_cores.attention.schedule import push
from memory_cores.attention.stream import TransformerXLStream
from memory_cores.core import CoreOutput, State
from memory_cores.infinity.attention import Density, LongTermAttention, LongTermRecall
from memory_cores.infinity.schedule import LongTermSchedule, Turns
from memory_cores.infinity.signal import MAX_BASIS, MAX_CONDITION, MAX_OPERATOR, ContinuousSignal, SignalOperators
from memory_cores.infinity.sticky import BINS, StickySampler, uniforms
from memory_cores.options import at_least, positive
from memory_cores.validation import check_call


def condition_problems(ridge: float, condition: float) -> list[str]:
    """The problem of a regression that cannot be solved accurately in float64."""
    if condition <= MAX_CONDITION:
        return []
    return [
        f"ridge is {ridge}, expected a larger number: the condition number of the regression is {condition:.1e}, "
        f"above {MAX_CONDITION:.0e}"
    ]


@dataclass(frozen=True, kw_only=True)
class InfinityOptions(AttentionOptions):
    """The options of `Infinity`, by the paper and its authors' code."""

    num_layers: int = 2
    """Stacked blocks, each with a short-term and a long-term memory of its own."""
    granularity: int = 16
    """Steps that enter the long-term memory at a time; the segment length is the paper's schedule. Unroll and segment
    lengths must be multiples of it."""
    num_basis: int = 128
    """Gaussian basis functions J of the signal (N of the paper), half of them at each width; an even number. More of
    them hold finer detail at more cost. The authors' sorting task takes 512."""
    narrow_width: float = 0.01
    """Standard deviation of the narrower half of the basis functions, of a signal on [0, 1]; from the authors' code."""
    wide_width: float = 0.05
    """Standard deviation of the wider half. It should be at least about the distance between centres, 2 / num_basis:
    narrower functions leave gaps."""
    tau: float = 0.75
    """Share of [0, 1] into which the old signal is squeezed at each refit; the authors' code has 0.75 for sorting, 0.5
    for GPT-2. A higher share keeps more of the old and leaves less room for the new; 0.9 holds a single cue longer."""
    ridge: float = 1.0
    """Penalty of the ridge regression; the authors' code has 1 for sorting, 0.5 for GPT-2. A lower one fits more
    closely, until the regression is ill-conditioned."""
    num_samples: int = 512
    """Points P at which the old signal is sampled at a refit (M of the authors' code, 512 there)."""
    sticky: bool = False
    """Whether the old signal is sampled most densely where the queries since the last refit attended most, so
    that what is used is kept. Helps in long streams of which only a small part matters."""
    mask: bool = False
    """Whether the steps that enter the long-term memory pass a learned gate; an option of the authors' code."""
    kl_weight: float = 1e-6
    """Weight of the loss that keeps the attention densities near N(mu0, sigma0^2); 0 for none. The authors'
    code has 1e-6."""
    sigma0: float = 0.05
    """Standard deviation of that density. A larger one lets queries attend more widely."""
    mu0: float | None = None
    """Mean of that density, from 0, the oldest, to 1, the newest; null leaves the mean free, as the authors' code
    does."""

    def problems(self, d_model: int) -> list[str]:
        problems = super().problems(d_model) + at_least(1, num_layers=self.num_layers)
        problems += at_least(1, granularity=self.granularity)
        of_signal = self.signal_problems()
        if not of_signal:
            of_signal = condition_problems(self.ridge, self.signal().condition)
        return problems + of_signal + self.divergence_problems()

    def signal(self) -> ContinuousSignal:
        """The signal that the options describe."""
        return ContinuousSignal(
            num_basis=self.num_basis,
            block_length=self.granularity,
            tau=self.tau,
            ridge=self.ridge,
            narrow_width=self.narrow_width,
            wide_width=self.wide_width,
            num_samples=self.num_samples,
        )

    def signal_problems(self) -> list[str]:
        """The problems of the options that say how a signal is fitted."""
        problems = at_least(1, granularity=self.granularity, num_samples=self.num_samples)
        if at_least(2, num_basis=self.num_basis) or self.num_basis % 2 or self.num_basis > MAX_BASIS:
            problems.append(f"num_basis is {self.num_basis!r}, expected an even integer from 2 to {MAX_BASIS}")
        elif not problems and self.num_basis * (self.granularity + self.num_samples) > MAX_OPERATOR:
            most = MAX_OPERATOR // self.num_basis
            problems.append(
                f"granularity is {self.granularity}, expected at most {most} in sum with num_samples, "
                f"{self.num_samples}, for num_basis {self.num_basis}"
            )
        widths = positive(narrow_width=self.narrow_width, wide_width=self.wide_width)
        problems += widths
        if not widths and not 1e-4 <= self.narrow_width < self.wide_width <= 1:
            problems.append(
                f"narrow_width is {self.narrow_width}, expected it below wide_width, {self.wide_width}, "
                "and both from 0.0001 to 1"
            )
        if positive(tau=self.tau) or not self.tau < 1:
            problems.append(f"tau is {self.tau!r}, expected a number above 0 and below 1")
        return problems + positive(ridge=self.ridge)

    def divergence_problems(self) -> list[str]:
        """The problems of the options of the loss."""
        problems = positive(sigma0=self.sigma0)
        if self.kl_weight != 0:
            problems += positive(kl_weight=self.kl_weight)
        if self.mu0 is not None and (not isinstance(self.mu0, int | float) or not 0 <= self.mu0 <= 1):
            problems.append(f"mu0 is {self.mu0!r}, expected a number from 0 to 1 or None")
        return problems


class Infinity(MemoryTransformer):
    """infinity-former: Transformer-XL whose old memories enter a continuous signal of fixed size; gated by default.

    Each layer's long-term memory is a signal x(t) = B^T psi(t) on [0, 1], from which each query q reads (section 3):

        z = E[psi(t)]^T B W_v,   t ~ N(sigmoid(w_mu . B W_k q), softplus(w_sigma . B W_k q))

    and adds the result, projected, to the output of attention; a memory that holds nothing adds exactly 0. psi are
    `num_basis` Gaussians with evenly spaced centres, half of them of `narrow_width` and half of `wide_width`. Letters
    are the paper's. An independent plain loop is tests/memory_cores/plain_infinity.py.

    Steps that leave the memory of `memory_length` steps, `granularity` at a time (the paper's segment length), enter
    the signal. At each such turn the old signal, sampled at `num_samples` points, is squeezed into [0, tau], the new
    steps are put behind it, and both are fitted anew by ridge regression with the penalty `ridge`. The signal is that
    of the layer's inputs as its attention reads them, normalised unless the block is post-norm. With `sticky` memories
    the old signal is sampled most densely where the queries since the last turn attended most. With `mask` the new
    steps pass a learned gate.

    `losses["kl"]` is `kl_weight` times the divergence of the densities from N(mu0, sigma0^2), averaged over the queries
    and heads that found a memory and summed over layers; without `mu0` the divergence of their variances alone.

    If an episode begins within the steps that enter, only its own steps do; the signal is fitted to 0 in the place of
    the others, as it is outside [0, 1]. The steps that enter and the old signal are constants to the gradient: the loss
    trains the weights that read the long-term memory, and the mask and norm through the newest turn of a call, as in
    the authors' code.

    State: memory (B, L, C, D), the last C = memory_length + granularity inputs of each layer, newest last, zeros where
    unused; coefficients (B, L, J, D) of the signals that the last step attended to, J = num_basis, zeros where it found
    nothing; age (B,) int64, steps of the episode, at most C + 1; phase (B,) int64, steps seen modulo granularity. With
    sticky memories also histogram (B, L, 128), the attention paid to equal parts of the signal since the last turn, and
    generator (B, 2) int64, a key, at first 0, and a counter. A row's random numbers follow from these, so rows with
    equal keys draw equal numbers. The parameters depend neither on memory_length nor on granularity, so both may differ
    between training and evaluation.

    Metrics, over the queries that found a memory: the mean position and mean standard deviation of the densities, their
    kl before it is weighted, and long_term_share, the norm of what the memory added divided by the sum of that norm and
    that of attention's output.

    >>> import memory_cores
    >>> core = memory_cores.build("infinity", d_model=8, memory_length=2, granularity=2, num_basis=8, wide_width=0.2)
    >>> x, stream = torch.randn(2, 9, 8), core.stream(batch_size=2)
    >>> y = core(x, core.initial_state(batch_size=2)).y
    >>> stepped = torch.stack([stream.step(x[:, t]) for t in range(9)], dim=1)
    >>> torch.allclose(y, stepped, atol=1e-4)
    True
    """

    Options = InfinityOptions
    schedule: LongTermSchedule

    def __init__(self, d_model: int, options: InfinityOptions) -> None:
        num_layers, num_heads, num_basis = options.num_layers, options.num_heads, options.num_basis
        schedule = LongTermSchedule(options.memory_length, options.granularity)
        super().__init__(d_model, options, schedule, lambda: options.blocks(d_model, num_layers))
        self.num_basis = num_basis
        self.sticky = options.sticky
        self.kl_weight = options.kl_weight
        self.sigma0 = options.sigma0
        self.mu0 = options.mu0
        self.signal = options.signal()
        self.long_term = nn.ModuleList(
            LongTermAttention(d_model, num_heads, num_basis, mask=options.mask) for _ in range(num_layers)
        )

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        layers = self.num_layers
        shapes: dict[str, tuple[int, ...]] = {
            "memory": (layers, self.schedule.capacity, self.d_model),
            "coefficients": (layers, self.num_basis, self.d_model),
        }
        if self.sticky:
            shapes["histogram"] = (layers, BINS)
        state = self.empty_state(batch_size, device, **shapes)
        if self.sticky:
            state["generator"] = torch.zeros(batch_size, 2, dtype=torch.int64, device=state["age"].device)
        return state

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        output, _ = self.recall(x, state, reset)
        return output

    def recall(self, x: Tensor, state: State, reset: Tensor | None = None) -> tuple[CoreOutput, list[LongTermRecall]]:
        """`forward` with x (B, T, D) and reset (B, T), and what each layer's queries read of its long-term memory."""
        check_call(self, x, state, reset)
        state = {name: tensor.detach() for name, tensor in state.items()}
        memory, age = state["memory"], state["age"]
        window = self.schedule.window(age, state["phase"], reset, steps=x.shape[1])
        key, refits = generator_of(state)
        turns = self.schedule.turns(age, refits, window)
        positions = self.call_positions(window, like=memory)
        operators = self.signal.operators(memory.dtype)
        x = x.to(memory.dtype)  # under autocast the input may come in half precision; the residual stream never is
        inputs, recalls = [], []
        for layer, block in enumerate(self.blocks):
            inputs.append(x.detach())
            attention = cast(LongTermAttention, self.long_term[layer])
            leaving = turns.blocks_of(torch.cat([memory[:, layer], inputs[-1]], dim=1))
            recall = LongTermRecall(
                attention,
                operators,
                turns,
                blocks=attention.apply_mask(cast(TransformerBlock, block).normalise_memory(leaving), turns.kept),
                coefficients=state["coefficients"][:, layer],
                sticky=sampler_of(state, layer),
                uniforms=self.uniforms(key[:, None], turns.refits, layer),
            )
            x = block(x, memory[:, layer], window.views, positions, None, recall)
            recalls.append(recall)

        after = {
            "memory": push(memory, inputs, window.age),
            "coefficients": stack_layers([recall.coefficients for recall in recalls], turns),
        }
        if self.sticky:
            histograms = [recall.sticky.histogram for recall in recalls if recall.sticky is not None]
            after["histogram"] = stack_layers(histograms, turns)
            after["generator"] = torch.stack([key, turns.refits_after], dim=1)
        kl = torch.stack([self.divergence(recall.density, turns.holds) for recall in recalls])
        metrics = {**recall_metrics(recalls, turns.holds), "kl": kl.detach().mean()}
        state = {**after, "age": window.age, "phase": window.phase}
        return CoreOutput(self.normalise_output(x), state, {"kl": self.kl_weight * kl.sum()}, metrics), recalls

    def uniforms(self, key: Tensor, refits: Tensor, layer: int) -> Tensor:
        """(..., P) in [0, 1) for a layer's refits with keys and counters (...); (..., 0) if memories are not sticky."""
        return uniforms(key, refits, layer, self.signal.num_samples if self.sticky else 0)

    def divergence(self, density: Density, holds: Tensor) -> Tensor:
        """Mean KL(N(mean, variance) || N(mu0, sigma0^2)) where holds (B, T), without the means' term if mu0 is None."""
        ratio = density.variance / self.sigma0**2
        kl = 0.5 * (ratio - ratio.log() - 1)
        if self.mu0 is not None:
            kl = kl + 0.5 * (density.mean - self.mu0).square() / self.sigma0**2
        return mean_where(holds, kl)

    def stream(self, batch_size: int) -> InfinityStream:
        return InfinityStream(self, batch_size)


def stack_layers(layers: list[Tensor], turns: Turns) -> Tensor:
    """L tensors (B, ...) of long-term memories as one (B, L, ...), zeros where the last step found nothing."""
    state = torch.stack([layer.detach() for layer in layers], dim=1)
    return state.masked_fill_(~turns.holds[:, -1].view(-1, *[1] * (state.dim() - 1)), 0.0)


def mean_where(holds: Tensor, values: Tensor) -> Tensor:
    """The mean of values (B, H, T) over the steps where holds (B, T), 0 if there are none."""
    chosen = values.masked_fill(~holds[:, None], 0.0)
    return chosen.sum() / (holds.sum() * values.shape[1]).clamp(min=1)


def recall_metrics(recalls: list[LongTermRecall], holds: Tensor) -> dict[str, Tensor]:
    """The metrics of what the queries of all layers found at the steps where holds (B, T)."""
    mean = [mean_where(holds, recall.density.mean.detach()) for recall in recalls]
    deviation = [mean_where(holds, recall.density.variance.detach().sqrt()) for recall in recalls]
    found = torch.stack([recall.found for recall in recalls])
    attended = torch.stack([recall.attended for recall in recalls]) * holds
    return {
        "density_mean": torch.stack(mean).mean(),
        "density_deviation": torch.stack(deviation).mean(),
        "long_term_share": found.sum() / (found.sum() + attended.sum()).clamp(min=1e-12),
    }


class InfinityStream(TransformerXLStream):
    """Steps an `Infinity` core; its long-term memories are refitted once every `granularity` steps."""

    core: Infinity
    blocks: list[CachedBlock[Any]]
    long_term: list[LongTermCache]
    holds: Tensor
    """(B,) bool, True where the long-term memory holds anything of the last step's episode."""
    key: Tensor
    refits: Tensor
    """Both (B,), the key and the counter of the random numbers of sticky memories."""

    def forget(self, reset: Tensor) -> None:
        super().forget(reset)
        self.hold(self.holds & ~reset)

    def prepare(self) -> None:
        super().prepare()
        if self.core.schedule.refits_before(self.phase):
            self.turn()

    def turn(self) -> None:
        """Let the block that leaves the memory before the next step enter the long-term memories."""
        schedule = self.core.schedule
        end = self.place - schedule.memory_length
        first = end - schedule.granularity
        continued = self.episode_place < first
        places = torch.arange(first, end, device=continued.device)
        kept = (places >= self.episode_place[:, None])[:, None]  # (B, 1, G)
        for layer, (block, long_term) in enumerate(zip(self.blocks, self.long_term, strict=True)):
            leaving = block.block.normalise_memory(self.inputs[layer, :, None, first:end])
            entering = long_term.attention.apply_mask(leaving, kept)[:, 0]
            long_term.refit(entering, continued, self.core.uniforms(self.key, self.refits, layer))
        self.refits = torch.where(continued, self.refits + 1, 0)
        self.hold(self.episode_place < end)

    def hold(self, holds: Tensor) -> None:
        """Let only the rows where holds (B,) read their long-term memories."""
        self.holds = holds
        asleep, empty = not holds.any(), None if holds.all() else ~holds[:, None]
        for long_term in self.long_term:
            long_term.asleep, long_term.empty = asleep, empty

    @torch.inference_mode(False)
    @torch.no_grad()
    def state(self) -> State:
        state = super().state()
        coefficients = torch.stack([long_term.coefficients for long_term in self.long_term], dim=1)
        state["coefficients"] = coefficients.masked_fill_(~self.holds[:, None, None, None], 0.0)
        if self.core.sticky:
            histograms = [cast(StickySampler, long_term.sticky).histogram for long_term in self.long_term]
            state["histogram"] = torch.stack(histograms, dim=1).masked_fill_(~self.holds[:, None, None], 0.0)
            state["generator"] = torch.stack([self.key, self.refits.masked_fill(~self.holds, 0)], dim=1)
        return state

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, state: State) -> None:
        super().load(state)
        self.key, self.refits = (tensor.clone() for tensor in generator_of(state))
        with torch.autocast(self.key.device.type, enabled=False):
            self.long_term = [LongTermCache(self.core, layer, state) for layer in range(self.core.num_layers)]
        for block, long_term in zip(self.blocks, self.long_term, strict=True):
            block.hook = long_term
        self.hold(self.core.schedule.finds_memory(state["age"], self.phase))


class LongTermCache:
    """One layer's long-term memory with its keys: the output hook of a cached block."""

    def __init__(self, core: Infinity, layer: int, state: State) -> None:
        self.attention = cast(LongTermAttention, core.long_term[layer])
        self.coefficients = state["coefficients"][:, layer].detach().clone()
        self.operators: SignalOperators = core.signal.operators(self.coefficients.dtype)
        self.keys = self.attention.keys(self.coefficients)
        self.sticky = sampler_of(state, layer)
        self.asleep = True
        """No row's memory holds anything."""
        self.empty: Tensor | None = None
        """(B, 1) bool, True where a row's memory holds nothing; None if all hold something."""

    def __call__(self, query: Tensor, attended: Tensor) -> Tensor:
        """attended (B, D), the attention's output, plus what the scaled queries (B, H, 1, W) find here."""
        if self.asleep:
            return attended
        density = self.attention.densities(query, self.keys, self.coefficients.dtype)
        if self.sticky is not None:
            self.sticky.observe(*density)
        found: Tensor = self.attention.output(self.attention.read(density, self.keys, self.operators.basis)[:, 0])
        if self.empty is not None:
            found = found.masked_fill(self.empty, 0.0)
        return attended.add_(found)

    def refit(self, block: Tensor, continued: Tensor, uniforms: Tensor) -> None:
        """Let block (B, G, D) enter the signal, as in `LongTermRecall`. continued: (B,). uniforms: (B, P)."""
        points = None if self.sticky is None else self.sticky.draw(uniforms)
        self.coefficients = self.operators.refit(self.coefficients, block, continued, points)
        self.keys = self.attention.keys(self.coefficients)


def generator_of(state: State) -> tuple[Tensor, Tensor]:
    """The key and the counter, each (B,), of the random numbers of sticky memories; zeros if not sticky."""
    if "generator" in state:
        return state["generator"][:, 0], state["generator"][:, 1]
    return torch.zeros_like(state["age"]), torch.zeros_like(state["age"])


def sampler_of(state: State, layer: int) -> StickySampler | None:
    """The sampler of one layer; None if memories are not sticky."""
    if "histogram" not in state:
        return None
    return StickySampler(state["histogram"][:, layer].detach().clone())
