"""Parity with and without adaptive computation time (Graves, 1603.08983, section 3.1).

    python -m benchmarks.learning.parity [--halting graves] [--bits 16] [--steps N] [--ponder-cost TAU ...]
        [--figure PNG]

An input is one vector of --bits entries, of which a random 1 to --bits are +1 or -1 and the rest 0; the target is
whether the number of +1s is odd. The network is a linear map, the `lstm` core, run for a sequence of that one step
from the initial state, and a linear map to one logit. With --halting none the core takes one step an input, and
the network is a feed-forward one with a single hidden layer. Each batch is drawn anew; the error is of inputs never
seen, all of them drawn after training from a seed of their own. --figure draws ponder against difficulty, the
number of entries that are not 0.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import memory_cores
from benchmarks.command_line import make_parser
from memory_cores import CoreOutput
from memory_cores.lstm.core import LSTM, AdaptiveCell

TEST_BATCHES = 160


class ParityNetwork(nn.Module):
    """A linear map, a core, and a linear map to the logit of an odd number of +1s."""

    def __init__(self, bits: int, width: int, **core_options: object) -> None:
        super().__init__()
        self.encoder = nn.Linear(bits, width)
        nn.init.normal_(self.encoder.weight)  # as embeddings start, so that gates are not linear at first
        self.core = memory_cores.build("lstm", d_model=width, **core_options)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, CoreOutput]:
        """x (B, bits) -> logits (B,) and what the core gave."""
        output = self.core(self.encoder(x)[:, None], self.core.initial_state(len(x)))
        return self.head(output.y[:, 0]).squeeze(-1), output

    def ponder_steps(self, x: Tensor) -> Tensor:
        """x (B, bits) -> (B,), the steps that each input is given."""
        core = self.core
        assert isinstance(core, LSTM)
        if not core.adaptive:
            return torch.ones(len(x))
        cell = AdaptiveCell(core)
        start = [torch.zeros(len(x), core.d_model)]
        return cell.ponder(cell.project(self.encoder(x)), start, start).steps


def draw(batch: int, bits: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (B, bits), targets (B,) and difficulties (B,), the entries of each input that are not 0."""
    difficulty = torch.randint(1, bits + 1, (batch,), generator=generator)
    place = torch.rand(batch, bits, generator=generator).argsort(dim=1)
    sign = torch.randint(0, 2, (batch, bits), generator=generator) * 2.0 - 1.0
    x = sign * (place < difficulty[:, None])
    return x, (x == 1).sum(dim=1) % 2, difficulty


@torch.no_grad()
def evaluate(network: ParityNetwork, arguments: argparse.Namespace, batches: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whether wrong, the ponder steps and the difficulty, each (N,), of inputs never trained on."""
    generator = torch.Generator().manual_seed(10**6 + arguments.seed)
    wrong, steps, difficulties = [], [], []
    for _ in range(batches):
        x, target, difficulty = draw(arguments.batch, arguments.bits, generator)
        logit, _ = network(x)
        wrong.append((logit > 0) != target.bool())
        steps.append(network.ponder_steps(x).float())
        difficulties.append(difficulty)
    return torch.cat(wrong), torch.cat(steps), torch.cat(difficulties)


def train(network: ParityNetwork, arguments: argparse.Namespace) -> None:
    """Train for --steps batches, or until --stop-below or --minutes end it, and print the training error on the way."""
    generator = torch.Generator().manual_seed(arguments.seed)
    optimizer = torch.optim.Adam(network.parameters(), arguments.learning_rate, fused=True)
    start, cpu = time.time(), time.process_time()
    losses, errors, ponder = [], [], []
    for step in range(1, arguments.steps + 1):
        x, target, _ = draw(arguments.batch, arguments.bits, generator)
        logit, output = network(x)
        loss = functional.binary_cross_entropy_with_logits(logit, target.float())
        optimizer.zero_grad()
        sum(output.losses.values(), loss).backward()
        nn.utils.clip_grad_norm_(network.parameters(), arguments.clip)
        optimizer.step()
        losses.append(loss.item())
        errors.append(((logit > 0) != target.bool()).float().mean().item())
        ponder.append(output.metrics["ponder_steps"].item() if output.metrics else 1.0)
        if step % arguments.report_every == 0 or step == arguments.steps:
            recent = slice(-arguments.report_every, None)
            means = [sum(values[recent]) / len(values[recent]) for values in (losses, errors, ponder)]
            row = "  ".join(f"{mean:8.4f}" for mean in means)
            print(f"{step:9}  {time.time() - start:9.0f}  {time.process_time() - cpu:7.0f}  {row}", flush=True)
            if means[1] < arguments.stop_below or time.time() - start > 60 * arguments.minutes:
                return


def draw_figure(path: Path, curves: dict[str, list[float]]) -> None:
    """Mean ponder against difficulty as a PNG, a line for each label."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for label, mean_steps in curves.items():
        axes.plot(range(1, len(mean_steps) + 1), mean_steps, marker="o", label=label)
    axes.set(xlabel="difficulty: entries that are not 0", ylabel="ponder: mean steps N", title="Parity", ylim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def trained_and_scored(arguments: argparse.Namespace, ponder_cost: float) -> tuple[float, list[float]]:
    """Train a network and print how it does; its error, and the mean ponder at each difficulty."""
    torch.manual_seed(arguments.seed)
    network = ParityNetwork(
        arguments.bits,
        arguments.width,
        halting=arguments.halting,
        max_ponder_steps=arguments.max_ponder_steps,
        ponder_cost=ponder_cost,
        halting_bias=arguments.halting_bias,
    )
    print(f"\nponder cost {ponder_cost:g}\n    steps    seconds  CPU sec      loss     error    ponder")
    train(network, arguments)

    wrong, steps, difficulty = evaluate(network, arguments, TEST_BATCHES)
    error = wrong.float().mean().item()
    print(f"\n{len(wrong)} inputs never seen: error {100 * error:.2f} %, mean ponder {steps.mean():.2f}")
    print("difficulty     error %  mean ponder")
    mean_steps = []
    for level in range(1, arguments.bits + 1):
        of_level = difficulty == level
        mean_steps.append(steps[of_level].mean().item())
        print(f"{level:10}  {100 * wrong[of_level].float().mean():10.2f}  {mean_steps[-1]:11.2f}", flush=True)
    return error, mean_steps


def main() -> None:
    parser = make_parser(__doc__, threads=1, seed=1)
    parser.add_argument("--halting", choices=("graves", "tensor2tensor", "none"), default="graves")
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--minutes", type=float, default=20.0, help="training ends after this time at the latest")
    parser.add_argument("--stop-below", type=float, default=0.005, help="training ends once the error is lower")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    parser.add_argument("--ponder-cost", type=float, nargs="+", default=[1e-3], help="a network is trained for each")
    parser.add_argument("--max-ponder-steps", type=int, default=20)
    parser.add_argument("--halting-bias", type=float, default=-1.0)
    parser.add_argument("--report-every", type=int, default=500)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s); {vars(arguments)}")
    curves: dict[str, list[float]] = {}
    for ponder_cost in arguments.ponder_cost:
        error, mean_steps = trained_and_scored(arguments, ponder_cost)
        curves[f"ponder cost {ponder_cost:g}, error {100 * error:.1f} %"] = mean_steps
    if arguments.figure:
        draw_figure(arguments.figure, curves)


if __name__ == "__main__":
    main()
