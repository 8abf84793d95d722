"""The infinity-former written as plain loops over steps, heads, basis functions and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memory_cores.infinity.core import Infinity
from tests.memory_cores.plain_compressive import PlainLayer

MASK = 2**64 - 1


@dataclass(frozen=True)
class PlainFit:
    """How signals are fitted, each basis function, point and sample for itself."""

    num_basis: int
    granularity: int
    narrow_width: float = 0.01
    wide_width: float = 0.05
    tau: float = 0.75
    ridge: float = 1.0
    num_samples: int = 16

    def psi(self, t: float) -> list[float]:
        """The basis functions at t."""
        pairs = self.num_basis // 2
        return [
            math.exp(-0.5 * ((t - c / max(pairs - 1, 1)) / width) ** 2) / (width * math.sqrt(2 * math.pi))
            for width in (self.narrow_width, self.wide_width)
            for c in range(pairs)
        ]

    def at(self, coefficients: Tensor, t: float) -> Tensor:
        """The signal (D,) of coefficients (N, D) at t."""
        return sum(value * row for value, row in zip(self.psi(t), coefficients, strict=True))

    def regress(self, points: list[float], values: Tensor) -> Tensor:
        """The coefficients that fit values (P, D) at the points, and zero at as many points outside [0, 1]."""
        count = len(points)
        outside = [(i + 0.5) / count for i in range(count // 2)]
        everywhere = [-p for p in outside] + points + [1 + p for p in outside]
        design = values.new_tensor([self.psi(p) for p in everywhere])
        zeros = values.new_zeros(count // 2, values.shape[1])
        normal = design.T @ design + self.ridge * torch.eye(self.num_basis, dtype=values.dtype)
        return torch.linalg.solve(normal, design.T @ torch.cat([zeros, values, zeros]))

    def first(self, block: Tensor) -> Tensor:
        """The coefficients of the first block (g, D) of a memory."""
        return self.regress([(j + 0.5) / len(block) for j in range(len(block))], block)

    def extend(self, old: Tensor, block: Tensor, points: list[float]) -> Tensor:
        """The coefficients of an old signal, sampled at `points`, with a block behind it."""
        samples = torch.stack([self.at(old, p) for p in points])
        places = [self.tau * (i + 1) / len(points) for i in range(len(points))]
        places += [self.tau + (1 - self.tau) * (j + 1) / len(block) for j in range(len(block))]
        return self.regress(places, torch.cat([samples, block]))


@dataclass
class PlainMemory:
    """The long-term memory of one layer of one stream."""

    core: Infinity
    index: int
    fit: PlainFit
    key: int = 0
    coefficients: Tensor | None = None
    refits: int = 0
    attention: list[float] = field(default_factory=lambda: [0.0] * 128)
    densities: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """The mean and variance of every query of every head since it was last emptied."""

    def clear(self) -> None:
        self.coefficients, self.refits, self.attention = None, 0, [0.0] * 128

    def read(self, query_input: Tensor) -> Tensor:
        """What a query made of query_input (D,) adds to its layer's attention."""
        if self.coefficients is None:
            return torch.zeros_like(query_input)
        weights: Any = self.core.long_term[self.index]
        old, width = self.coefficients, self.core.head_width
        contexts = []
        for head in range(self.core.d_model // width):
            rows = slice(head * width, (head + 1) * width)
            query = self.core.blocks[self.index].attention.qkv.weight[rows] @ query_input
            keys = [weights.key.weight[rows] @ row for row in old]
            values = [weights.value.weight[rows] @ row for row in old]
            scores = torch.stack([query @ key for key in keys]) / math.sqrt(width)
            mean = 1 / (1 + torch.exp(-(weights.density.weight[0] @ scores)))
            variance = torch.log(1 + torch.exp(weights.density.weight[1] @ scores)).clamp(min=1e-6)
            self.densities.append((mean, variance))
            self.count(mean.item(), variance.item())
            context = 0
            for j in range(self.fit.num_basis):
                pairs = self.fit.num_basis // 2
                breadth = variance + (self.fit.narrow_width if j < pairs else self.fit.wide_width) ** 2
                distance = mean - (j % pairs) / max(pairs - 1, 1)
                expected = torch.exp(-(distance**2) / (2 * breadth)) / torch.sqrt(2 * math.pi * breadth)
                context = context + expected * values[j]
            contexts.append(context)
        return weights.output.weight @ torch.cat(contexts)

    def count(self, mean: float, variance: float) -> None:
        def below(t: float) -> float:
            return 0.5 * (1 + math.erf((t - mean) / math.sqrt(2 * variance)))

        self.attention = [a + below((i + 1) / 128) - below(i / 128) for i, a in enumerate(self.attention)]

    def sticky_points(self) -> list[float]:
        """Samples of the histogram, uniform within its bins."""
        total, points = sum(self.attention), []
        for k in range(self.fit.num_samples):
            left = plain_uniform(self.key, self.refits, self.index, k) * total
            bin = 0
            while bin < 127 and left >= self.attention[bin]:
                left -= self.attention[bin]
                bin += 1
            points.append((bin + min(left / self.attention[bin], 1.0)) / 128)
        return sorted(points)

    def take(self, block: list[Tensor | None]) -> None:
        """Let the g steps of a block enter; None stands for those of an earlier episode."""
        layer: Any = PlainLayer(self.core, self.index)
        zeros = torch.zeros(self.core.d_model, dtype=torch.float64)
        steps = [zeros if step is None else layer.read(step.detach()) for step in block]
        mask = self.core.long_term[self.index].mask
        if mask is not None:
            padded = [zeros, *steps, zeros]
            gates = [
                torch.sigmoid(mask.bias + sum(mask.weight[:, :, k] @ padded[i + k] for k in range(3)))
                for i in range(len(steps))
            ]
            steps = [gate * step for gate, step in zip(gates, steps, strict=True)]
        if self.coefficients is None:
            self.coefficients = self.fit.first(torch.stack(steps))
            return
        count = self.fit.num_samples
        points = self.sticky_points() if self.core.sticky else [(i + 1) / count for i in range(count)]
        self.coefficients = self.fit.extend(self.coefficients.detach(), torch.stack(steps), points)
        self.refits += 1
        self.attention = [0.0] * 128

    def divergence(self, sigma0: float, mu0: float | None) -> Tensor:
        """The mean of the regulariser over the densities."""
        terms = []
        for mean, variance in self.densities:
            ratio = variance / sigma0**2
            shift = 0 if mu0 is None else (mean - mu0) ** 2 / sigma0**2
            terms.append((ratio - torch.log(ratio) - 1 + shift) / 2)
        return torch.stack(terms).mean()


class PlainInfinityLayer(PlainLayer):
    """A layer whose attention has the long-term memory beside it."""

    def __init__(self, core: Infinity, index: int, fit: PlainFit, key: int = 0) -> None:
        super().__init__(core, index)
        self.memory = PlainMemory(core, index, fit, key)

    def attend(self, t: int, x: Tensor, keys: Any) -> tuple[Tensor, Tensor]:
        attended, weights = super().attend(t, x, keys)
        return attended + self.memory.read(self.read(x)), weights


def plain_uniform(key: int, refits: int, layer: int, k: int) -> float:
    """splitmix64 of the words, one after another."""

    def scramble(word: int) -> int:
        word = (word + 0x9E3779B97F4A7C15) & MASK
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
        return word ^ (word >> 31)

    word = scramble(key & MASK)
    for part in (refits, layer, k):
        word = scramble((word + part) & MASK)
    return (word >> 11) / 2**53


def plain_segments(core: Infinity, fit: PlainFit, segments: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Segments (n_s, D) of one stream as the authors' code runs them: their outputs and regularisers.

    Once the short-term memory has no room for a segment, its oldest one enters the long-term memory.
    """
    n_s, n_m = fit.granularity, core.schedule.memory_length
    layers = [PlainInfinityLayer(core, i, fit) for i in range(core.num_layers)]
    memories: list[list[tuple[int, Tensor]]] = [[] for _ in layers]
    outputs, losses = [], []
    for number, h in enumerate(segments):
        now, loss = number * n_s, h.new_zeros(())
        for i, layer in enumerate(layers):
            if len(memories[i]) > n_m:
                layer.memory.take([step for _, step in memories[i][:n_s]])
                memories[i] = memories[i][n_s:]
            layer.memory.densities = []
            own = [(now + k, h[k]) for k in range(n_s)]
            after = torch.stack([layer.step(now + k, h[k], memories[i] + own[: k + 1])[0] for k in range(n_s)])
            if layer.memory.densities:
                loss = loss + layer.memory.divergence(core.sigma0, core.mu0)
            memories[i] += [(t, x.detach()) for t, x in own]
            h = after
        outputs.append(h)
        losses.append(core.kl_weight * loss)
    return outputs, losses


def plain_stream(core: Infinity, fit: PlainFit, x: Tensor, reset: Tensor, key: int = 0) -> Tensor:
    """One stream x (T, D) with reset (T,) from its beginning, by the memory schedule."""
    n_m, g = core.schedule.memory_length, core.schedule.granularity
    for i in range(core.num_layers):
        layer, outputs, episode = PlainInfinityLayer(core, i, fit, key), [], 0
        for t in range(len(x)):
            first = t - n_m - g
            if first >= 0 and first % g == 0 and first + g > episode:
                layer.memory.take([x[s] if s >= episode else None for s in range(first, first + g)])
            if reset[t]:
                episode = t
                layer.memory.clear()
            begin = max(0, g * math.floor((t - n_m) / g), episode)
            outputs.append(layer.step(t, x[t], [(s, x[s]) for s in range(begin, t + 1)])[0])
        x = torch.stack(outputs)
    return x
