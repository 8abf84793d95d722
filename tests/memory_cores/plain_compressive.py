"""The Compressive Transformer written as plain loops over steps and heads: its algorithms and its memory schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memory_cores.compressive.core import Compressive
from memory_cores.transformer_xl import TransformerXL
from tests.memory_cores.test_transformer_xl import plain_norm, plain_residual, plain_rotation


@dataclass
class PlainLayer:
    """One layer as the paper writes it, one query at a time."""

    core: Compressive | TransformerXL
    index: int
    received: dict[int, Tensor] = field(default_factory=dict)
    """For most_used: the attention that the step at a time received from later segments."""

    @property
    def block(self) -> Any:
        return self.core.blocks[self.index]

    def read(self, h: Tensor) -> Tensor:
        return h if self.block.kind == "post" else plain_norm(self.block.attention_norm, h)

    def attend(self, t: int, x: Tensor, keys: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        """The attention of step x at time t to layer inputs at given times, and its mean weights (K,)."""
        w_q, w_k, w_v = self.block.attention.qkv.weight.chunk(3)
        width = self.core.head_width
        outputs, weights = [], []
        for head in range(2):
            rows = slice(head * width, (head + 1) * width)
            query = w_q[rows] @ self.read(x)
            scores = []
            for time, h in keys:
                key = w_k[rows] @ self.read(h)
                if self.core.positions == "none":
                    scores.append(query @ key)
                elif self.core.positions == "relative":
                    angles = [(t - time) / 10000 ** (2 * k / 8) for k in range(4)]
                    r = key.new_tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
                    distance = self.block.attention.position.weight[rows] @ r
                    u, v = self.core.content_bias[head, 0], self.core.position_bias[head, 0]
                    scores.append((query + u) @ key + (query + v) @ distance)
                else:
                    scores.append(plain_rotation(query, t) @ plain_rotation(key, time))
            share = torch.stack(scores).div(math.sqrt(width)).softmax(dim=0)
            weights.append(share)
            outputs.append(sum(s * (w_v[rows] @ self.read(h)) for s, (_, h) in zip(share, keys, strict=True)))
        return self.block.attention.output.weight @ torch.cat(outputs), sum(weights).detach() / 2

    def step(self, t: int, x: Tensor, keys: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        """The layer's output for step x at time t, and the weights of its attention."""
        block = self.block

        def mlp(h: Tensor) -> Tensor:
            hidden = torch.relu(block.mlp.hidden.weight @ h + block.mlp.hidden.bias)
            return block.mlp.output.weight @ hidden + block.mlp.output.bias

        attended, weights = self.attend(t, x, keys)
        if block.kind == "post":
            h = plain_norm(block.attention_norm, x + attended)
            return plain_norm(block.mlp_norm, h + mlp(h)), weights
        h = plain_residual(block, "attention_gate", x, attended)
        return plain_residual(block, "mlp_gate", h, mlp(plain_norm(block.mlp_norm, h))), weights

    def compress(self, first: int, old: Sequence[Tensor | None]) -> list[Tensor | None]:
        """f_c of a block whose first step came at time `first`; None stands for steps of an earlier episode."""
        core = self.core
        assert isinstance(core, Compressive)
        c, steps = core.schedule.compression_rate, range(len(old))
        slots = len(old) // c
        if core.compression == "most_used":
            kept = [i for i in steps if old[i] is not None]
            count = math.ceil(len(kept) / c)
            best = sorted(sorted(kept, key=lambda i: -self.received[first + i].item())[:count])
            return [None] * (slots - count) + [old[i] for i in best]
        made: list[Tensor | None] = []
        for j in range(slots):
            own = [i for i in steps if (i % slots if core.compression == "dilated_conv" else i // c) == j]
            kept = [i for i in own if old[i] is not None]
            if all(old[i] is None for i in steps[j * c : (j + 1) * c]):
                made.append(None)
            elif core.compression == "max":
                made.append(torch.stack([old[i] for i in kept]).max(dim=0).values)
            elif core.compression == "mean":
                made.append(sum(old[i] for i in kept) / len(kept))
            else:
                conv = core.compressors[self.index].conv
                kernel = conv.weight.chunk(c, dim=1)
                made.append(conv.bias + sum(kernel[own.index(i)] @ old[i] for i in kept))
        return made

    def content_attention(self, h: Tensor, memory: Sequence[Tensor]) -> Tensor:
        """attn(h, m) of algorithm 2 with constant weights."""
        w_q, w_k, w_v = self.block.attention.qkv.weight.detach().chunk(3)
        norm = self.block.attention_norm

        def read(m: Tensor) -> Tensor:
            if self.block.kind == "post":
                return m
            centred = m - m.mean()
            scaled = centred / (centred.square().mean() + norm.eps).sqrt()
            return scaled * norm.weight.detach() + norm.bias.detach()

        outputs = []
        for rows in (slice(0, 4), slice(4, 8)):
            scores = torch.stack([(w_q[rows] @ read(h)) @ (w_k[rows] @ read(m)) for m in memory]) / math.sqrt(4)
            share = scores.softmax(dim=0)
            outputs.append(sum(s * (w_v[rows] @ read(m)) for s, m in zip(share, memory, strict=True)))
        return torch.cat(outputs)

    def losses(
        self, queries: Sequence[Tensor], old: Sequence[Tensor | None], slots: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """The losses of one compression, one a query (attention reconstruction) or a step (auto-encoding)."""
        if self.core.compression_loss == "attention_reconstruction":
            kept, made = ([h for h in hs if h is not None] for hs in (old, slots))
            pairs = [(self.content_attention(h, kept), self.content_attention(h, made)) for h in queries]
        else:
            c, decoder = self.core.schedule.compression_rate, self.core.decoders[self.index]
            decoded = [None if slot is None else (decoder.weight @ slot + decoder.bias).chunk(c) for slot in slots]
            pairs = []
            for i, step in enumerate(old):
                dilated = self.core.compression == "dilated_conv"
                j, k = (i % len(slots), i // len(slots)) if dilated else (i // c, i % c)
                if step is not None and decoded[j] is not None:
                    pairs.append((step, decoded[j][k]))
        return [(a - b).square().sum().sqrt() for a, b in pairs]


def plain_segments(core: Compressive, segments: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Algorithms 1 and 2 on segments (n_s, D) of one stream: their outputs and losses.

    Instead of the paper's zeros an empty memory holds nothing.
    """
    n_s, n_m, n_cm = core.schedule.granularity, core.schedule.memory_length, core.schedule.compressed_length
    c = core.schedule.compression_rate
    layers = [PlainLayer(core, i) for i in range(core.num_layers)]
    memory: list[list[tuple[int, Tensor]]] = [[] for _ in layers]
    compressed: list[list[tuple[int, Tensor]]] = [[] for _ in layers]
    outputs, losses = [], []
    for number, h in enumerate(segments):
        now = number * n_s
        loss = h.new_zeros(())
        for i, layer in enumerate(layers):
            m, cm = memory[i], compressed[i]
            own = [(now + k, h[k]) for k in range(n_s)]
            after = torch.stack([layer.step(now + k, h[k], cm + m + own[: k + 1])[0] for k in range(n_s)])
            if len(m) == n_m:
                times, old = [t for t, _ in m[:n_s]], [step for _, step in m[:n_s]]
                new = layer.compress(times[0], old)
                loss = loss + torch.stack(layer.losses([x.detach() for x in h], old, new)).mean()
                cm = cm + [(times[0] + (j + 1) * c - 1, slot.detach()) for j, slot in enumerate(new)]
            memory[i] = (m + [(t, x.detach()) for t, x in own])[-n_m:]
            compressed[i] = cm[-n_cm:]
            h = after
        outputs.append(h)
        losses.append(loss)
    return outputs, losses


def plain_stream(core: Compressive, x: Tensor, reset: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """One stream x (T, D) with reset (T,) from its beginning, by the memory schedule; each layer's losses."""
    n_m, g, c = core.schedule.memory_length, core.schedule.granularity, core.schedule.compression_rate
    episodes, losses = [0], []
    for t in range(1, len(x)):
        episodes.append(t if reset[t] else episodes[-1])
    for i in range(core.num_layers):
        layer, slots, outputs = PlainLayer(core, i), {}, []
        layer.received = dict.fromkeys(range(len(x)), torch.zeros((), dtype=x.dtype))
        losses.append([])
        for t in range(len(x) + 1):
            first = t - n_m - g
            if first >= 0 and first % g == 0:
                episode = episodes[first + g - 1]
                old = [x[s] if s >= episode else None for s in range(first, first + g)]
                new = layer.compress(first, old)
                slots.update({first // c + j: slot for j, slot in enumerate(new) if slot is not None})
                if core.compression_loss in ("attention_reconstruction", "auto_encoding"):
                    queries = [x[s] for s in range(t - g, t) if episodes[s] == episode]
                    losses[-1] += layer.losses(queries, old, new)
            if t == len(x):
                break
            boundary = max(0, g * math.floor((t - n_m) / g))
            seen = [j for j in slots if (j + 1) * c <= boundary][-core.schedule.compressed_length :]
            keys = [((j + 1) * c - 1, slots[j]) for j in seen if (j + 1) * c > episodes[t]]
            own = range(max(boundary, episodes[t]), t + 1)
            y, weights = layer.step(t, x[t], keys + [(s, x[s]) for s in own])
            outputs.append(y)
            for s, weight in zip(own, weights[len(keys) :], strict=True):
                if s // g < t // g:
                    layer.received[s] = layer.received[s] + weight
        x = torch.stack(outputs)
    return x, losses
