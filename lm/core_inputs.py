"""Records the inputs of a trained language model's memory core on a split."""

from __future__ import annotations

import torch
from torch import Tensor

from lm.corpus import Split
from lm.lanes import Lanes
from lm.model import LanguageModel


@torch.no_grad()
def core_inputs(model: LanguageModel, split: Split, rows: int, steps: int) -> tuple[Tensor, Tensor]:
    """The inputs x (B, T, D) and reset (B, T) of the core over T = steps tokens of up to `rows` lanes of a split.

    Raises InputError where the split is shorter than one lane.
    """
    lanes = Lanes(split, max(1, min(rows, len(split.tokens) // steps)), steps)
    segment = lanes.next()
    return model.eval().front_end(segment.inputs, segment.reset), segment.reset
