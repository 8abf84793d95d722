"""nanoGPT's CPU recipe on tiny Shakespeare, as a plain Transformer without memory: the yardstick of
configs/text/tinyshakespeare_*.yaml.

    python -m benchmarks.learning.nanogpt_cpu TEXT [--full-context] [--steps N] [--seed N] [--threads N]

Characters, the first 90 % to train on; 4 layers, width 128, 4 heads, context 64, batch 12, 2,000 updates of AdamW
(betas 0.9 and 0.99, weight decay 0.1 on matrices, gradients clipped at 1), learning rate 1e-3 to 1e-4 by a cosine after
100 updates of warm-up, no dropout, no biases, tied softmax. It prints the validation loss in nats a character

    - of 20 batches of random windows, as nanoGPT estimates it;
    - of the whole split in adjacent windows of 64, where a character is predicted from 0 to 63 before it;
    - of the whole split with the context of each character as long as it may be, 64: one window a character.

Training time excludes all evaluation. The figures are of one seed.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.command_line import make_parser

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
WARMUP, HIGH, LOW = 100, 1e-3, 1e-4


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each on normed inputs with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH, bias=False)
        self.norm_feedforward = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.mix = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        batch, steps, _ = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, steps, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm_feedforward(x))))


class Transformer(nn.Module):
    """GPT-2 in small: learned positions, pre-norm blocks, tied softmax."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(characters, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("mix.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        return self.norm(self.blocks(x)) @ self.tokens.weight.T


def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and targets (N, CONTEXT) of windows that begin at `starts` (N,)."""
    places = starts[:, None] + torch.arange(CONTEXT)
    return text[places], text[places + 1]


def rate(step: int, steps: int) -> float:
    """The learning rate of an update."""
    if step < WARMUP:
        return HIGH * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / max(steps - WARMUP, 1)
    return LOW + 0.5 * (1 + math.cos(math.pi * progress)) * (HIGH - LOW)


def train(model: Transformer, text: Tensor, steps: int, generator: torch.Generator) -> None:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=HIGH, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        inputs, targets = windows(text, torch.randint(len(text) - CONTEXT, (BATCH,), generator=generator))
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def loss_of(model: Transformer, text: Tensor, starts: Tensor, first: int = 0) -> float:
    """Mean nats of the characters of windows, from the `first` of each window on."""
    total, count = 0.0, 0
    for part in starts.split(256):
        inputs, targets = windows(text, part)
        logits, targets = model(inputs)[:, first:].flatten(0, 1), targets[:, first:].flatten()
        total += float(F.cross_entropy(logits, targets, reduction="sum"))
        count += len(targets)
    return total / count


def main() -> None:
    parser = make_parser(__doc__, threads=1, seed=1337)
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--full-context", action="store_true", help="print the third loss too, which takes minutes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    characters = arguments.text.read_text()
    _, codes = np.unique(np.array(list(characters)), return_inverse=True)
    text = torch.from_numpy(codes.astype(np.int64))
    cut = int(0.9 * len(text))
    training, validation = text[:cut], text[cut:]
    generator = torch.Generator().manual_seed(arguments.seed)
    model = Transformer(int(text.max()) + 1)
    wall, cpu = time.perf_counter(), time.process_time()
    train(model, training, arguments.steps, generator)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = arguments.steps * BATCH * CONTEXT
    print(f"{tokens:,} training tokens in {wall:.1f} s, {cpu:.1f} s of CPU")
    crops = torch.randint(len(validation) - CONTEXT, (20 * BATCH,), generator=generator)
    print(f"random windows            {loss_of(model, validation, crops):.4f}")
    adjacent = torch.arange(0, len(validation) - CONTEXT, CONTEXT)
    print(f"whole split, adjacent     {loss_of(model, validation, adjacent):.4f}")
    if arguments.full_context:
        everywhere = torch.arange(len(validation) - CONTEXT)
        print(f"whole split, full context {loss_of(model, validation, everywhere, CONTEXT - 1):.4f}")


if __name__ == "__main__":
    main()
