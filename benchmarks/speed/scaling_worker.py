"""One cell of `benchmarks.speed.scaling`: prints CPU seconds and peak MiB of a call of one model, as JSON.

It runs as a file, also under an interpreter that has a peer and not this project.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

D, HEADS, D_FF = 256, 4, 1024
Call = Callable[[Tensor], Tensor]


def ours(model: str, length: int, layers: int, memory: int) -> tuple[nn.Module, Call]:
    """A core of this project, run from its initial state."""
    import memory_cores

    root = 2 ** round(math.log2(memory) / 2)
    name, _, variant = model.partition(" ")
    options: dict[str, dict[str, Any]] = {
        "sparse strided": {"stride": root, "combination": "interleaved"},
        "sparse fixed": {"stride": root, "pattern": "fixed", "combination": "interleaved", "summary_length": 8},
        "routing": {"local_heads": 2, "local_window": root, "num_clusters": root, "window": root},
        "reformer": {"num_hashes": 4, "num_buckets": max(2, memory // 64), "window": 64},
    }
    chosen = options[model if name == "sparse" else name]
    core = memory_cores.build(
        name,
        d_model=D,
        num_layers=layers,
        num_heads=HEADS,
        d_ff=D_FF,
        block="pre",
        memory_length=memory,
        reversible=variant == "reversible",
        **chosen,
    )

    def call(x: Tensor) -> Tensor:
        return core(x, core.initial_state(len(x))).y

    return core, call


class DenseBlock(nn.Module):
    """A plain pre-norm block with torch's fused causal attention and rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.qkv, self.output = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.mlp = nn.Sequential(nn.Linear(D, D_FF), nn.ReLU(), nn.Linear(D_FF, D))

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        def heads(part: Tensor) -> Tensor:
            return part.view(*part.shape[:2], HEADS, D // HEADS).transpose(1, 2)

        def turn(part: Tensor) -> Tensor:
            first, second = part.chunk(2, dim=-1)
            return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)

        query, key, value = map(heads, self.qkv(self.norms[0](x)).chunk(3, dim=-1))
        context = functional.scaled_dot_product_attention(turn(query), turn(key), value, is_causal=True)
        x = x + self.output(context.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


def dense(length: int, layers: int) -> tuple[nn.Module, Call]:
    """A Transformer that attends to the whole call."""
    blocks = nn.ModuleList(DenseBlock() for _ in range(layers))
    width = D // HEADS
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)

    def call(x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x, angles.cos(), angles.sin())
        return x

    return blocks, call


def peer(model: str, length: int, layers: int) -> tuple[nn.Module, Call]:
    """A published implementation, causal, at the nearest sizes that it takes."""
    if model == "routing-transformer":
        from routing_transformer import RoutingTransformer

        window = 2 ** round(math.log2(length) / 2)
        module = RoutingTransformer(
            dim=D, depth=layers, heads=HEADS, max_seq_len=length, causal=True, window_size=window, n_local_attn_heads=2
        )
        return module, lambda x: module(x)[0]
    from reformer_pytorch import Reformer

    module = Reformer(dim=D, depth=layers, heads=HEADS, bucket_size=64, n_hashes=4, causal=True)
    return module, module


def peak_mebibytes() -> float:
    """The peak of this process's resident memory since it was last reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    model, *numbers = sys.argv[1:]
    length, threads, calls, layers, memory = map(int, numbers)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if model == "dense":
        module, call = dense(length, layers)
    elif model in ("routing-transformer", "reformer-pytorch"):
        module, call = peer(model, length, layers)
    else:
        module, call = ours(model, length, layers, memory)
    x = torch.randn(1, length, D)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        call(x).square().mean().backward()

    Path("/proc/self/clear_refs").write_text("5")
    resting = peak_mebibytes()
    step()
    used = peak_mebibytes() - resting
    times = []
    for _ in range(calls):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    print(json.dumps([min(times), used]))


if __name__ == "__main__":
    main()
