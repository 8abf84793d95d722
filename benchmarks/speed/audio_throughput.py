"""Samples a second of a WaveNet: training beside r9y9/wavenet_vocoder, and generation.

    python -m benchmarks.speed.audio_throughput [--peer FOLDER] [--batch-size 1] [--steps 2048] [--rounds 20]

10 layers of 64 channels (residual, gated and skip), kernel 2, a softmax over 256 codes, float32, one thread. Rates are
per second of the process's CPU time, which a busy machine changes least; each round runs every model once,
so that all meet the same machine, and the median and the best round are printed.

The peer is not among the dependencies. FOLDER is a checkout of it, which is imported from there and needs
torch and numpy alone:

    git clone https://github.com/r9y9/wavenet_vocoder .peers/wavenet_vocoder

Training is one forward and backward pass with the cross-entropy of every sample, from codes (ours) or one-hot
codes made beforehand (the peer's input). Generation draws at temperature 1, from a full receptive field: naive
runs the whole receptive field anew for each sample; streamed steps the core in its stream, with the rest in torch;
compiled is the one loop of `audio.wavenet_generation`.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import memory_cores
from audio.wavenet import WaveNet
from audio.wavenet_generation import Ends, generate_codes
from benchmarks.command_line import make_parser
from memory_cores import State

CHANNELS, LAYERS, CODES = 64, 10, 256


class CodeModel(nn.Module):
    """The core between an embedding and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        core = memory_cores.build("wavenet", d_model=CHANNELS, layers_per_block=LAYERS)
        assert isinstance(core, WaveNet)
        self.core = core
        self.embedding = nn.Embedding(CODES, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.softmax = nn.Linear(CHANNELS, CODES)

    def forward(self, codes: Tensor, state: State) -> tuple[Tensor, State]:
        """codes (B, T) -> logits (B, T, V), and the state after them."""
        output = self.core(self.embedding(codes), state)
        return self.softmax(self.norm(output.y)), output.state


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def ours(inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """A training step of this package on inputs and targets (B, T)."""
    model = CodeModel()
    state = model.core.initial_state(len(inputs))

    def step() -> None:
        model.zero_grad()
        logits, _ = model(inputs, state)
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()

    return step


def peer(folder: Path, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """The same of r9y9/wavenet_vocoder."""
    if not (folder / "wavenet_vocoder/wavenet.py").is_file():
        raise SystemExit(f"error: --peer: {folder} is no checkout of github.com/r9y9/wavenet_vocoder; see --help")
    sys.path.insert(0, str(folder))
    warnings.filterwarnings("ignore", module="torch.nn.utils.weight_norm")
    from wavenet_vocoder.wavenet import WaveNet as Peer

    model = Peer(
        out_channels=CODES,
        layers=LAYERS,
        stacks=1,
        residual_channels=CHANNELS,
        gate_channels=2 * CHANNELS,
        skip_out_channels=CHANNELS,
        kernel_size=2,
        dropout=0.0,
    )
    one_hot = F.one_hot(inputs, CODES).float().transpose(1, 2).contiguous()

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(one_hot), targets).backward()

    return step


def training(folder: Path | None, batch_size: int, steps: int, rounds: int) -> None:
    """Print training rates, and their ratio round by round."""
    codes = torch.randint(CODES, (batch_size, steps + 1))
    inputs, targets = codes[:, :-1].contiguous(), codes[:, 1:].contiguous()
    models = {"ours": ours(inputs, targets)}
    if folder is not None:
        models["r9y9/wavenet_vocoder"] = peer(folder, inputs, targets)
    for step in models.values():
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, step in models.items():
            seconds[name].append(cpu_seconds(step))
    print(f"training, batch {batch_size} x {steps} samples, {rounds} rounds: samples / s, median (best)")
    for name, times in seconds.items():
        rate = inputs.numel() / statistics.median(times)
        print(f"  {name:24} {rate:10,.0f} ({inputs.numel() / min(times):,.0f})")
    if folder is not None:
        ratios = sorted(theirs / own for own, theirs in zip(*seconds.values(), strict=True))
        middle = statistics.median(ratios)
        print(f"  {'ratio of the two':24} {middle:10.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, round by round)")


@torch.no_grad()
def generation(streams: int, rounds: int) -> None:
    """Print generation rates of so many streams, all of them together."""
    model = CodeModel().eval()
    core = model.core
    context = torch.randint(CODES, (streams, core.receptive_field))
    initial = core.initial_state(streams)
    logits, state = model(context, initial)
    logits = logits[:, -1]
    stream = core.stream(streams)
    stream.load(state)
    ends = Ends(model.embedding.weight, model.norm, model.softmax)

    def draw(logits: Tensor) -> Tensor:
        return torch.multinomial(logits.softmax(-1), 1)

    def naive(count: int) -> None:
        window = context
        for _ in range(count):
            window = torch.cat([window[:, 1:], draw(model(window, initial)[0][:, -1])], dim=1)

    def streamed(count: int) -> None:
        drawn = draw(logits)
        for _ in range(count):
            y = stream.step(model.embedding(drawn[:, 0]))
            drawn = draw(model.softmax(model.norm(y)))

    def compiled(count: int) -> None:
        generate_codes(core, ends, state, logits, count)

    ways: dict[str, tuple[Callable[[int], None], int]] = {
        "naive": (naive, max(1, 20 // streams)),
        "streamed": (streamed, 200),
        "compiled": (compiled, 1000),
    }
    for way, count in ways.values():
        way(min(count, 2))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, count) in ways.items():
            seconds[name].append(cpu_seconds(lambda way=way, count=count: way(count)) / count / streams)  # type: ignore[misc]
    print(f"generation, {streams} stream(s) of a receptive field of {core.receptive_field}: samples / s, median (best)")
    for name, times in seconds.items():
        print(f"  {name:24} {1 / statistics.median(times):10,.0f} ({1 / min(times):,.0f})")


def main() -> None:
    parser = make_parser(__doc__, rounds=20)
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="a checkout of r9y9/wavenet_vocoder")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2048, help="samples of a row in one training step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {LAYERS} layers x {CHANNELS} channels, float32, one thread, CPU time")
    training(arguments.peer, arguments.batch_size, arguments.steps, arguments.rounds)
    for streams in (1, 32):
        generation(streams, max(1, arguments.rounds // 4))


if __name__ == "__main__":
    main()
