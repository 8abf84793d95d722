"""A text read as lanes: the B rows of a batch of truncated backpropagation through time (BPTT), segment by segment.

The train split is a ring of N tokens. Lane b begins at token b N / B and reads on, past the end of the ring into its
beginning, so the memory carried from segment to segment is always that of the text before. A lane is reset where
a document begins, and at the beginning of the run: the first token of a document is predicted from an empty memory.
Where only a part of each document is to be predicted, lanes begin at different places of documents of equal length, so
that every segment has something to predict in some of them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm.corpus import Split
from lm.model import IGNORED
from training.errors import InputError


class Segment(NamedTuple):
    """T steps of B lanes."""

    inputs: Tensor
    """(B, T) int64, the token before each target; where reset is set, of no meaning."""
    targets: Tensor
    """(B, T) int64, the tokens to predict; IGNORED where there is nothing to predict."""
    reset: Tensor
    """(B, T) bool, True where a document begins."""

    def to(self, device: torch.device) -> Segment:
        """The same on a device."""
        return Segment(*(tensor.to(device) for tensor in self))


class Lanes:
    """Reads a split as lanes; `position`, the steps each lane has read, is its whole state.

    >>> split = Split("train", np.arange(12, dtype=np.uint8), np.array([0, 8]), 12, 0, "")
    >>> lanes = Lanes(split, batch_size=2, segment_length=4)
    >>> segment = lanes.next()
    >>> segment.targets
    tensor([[0, 1, 2, 3],
            [6, 7, 8, 9]])
    >>> segment.reset
    tensor([[ True, False, False, False],
            [ True, False,  True, False]])
    """

    def __init__(self, split: Split, batch_size: int, segment_length: int) -> None:
        """Raises InputError where the split has less than one segment a lane."""
        self.split = split
        self.segment_length = segment_length
        self.position = 0
        count = len(split.tokens)
        if count < batch_size * segment_length:
            raise InputError(
                f"the {split.name} split has {count:,} tokens, expected at least one segment a lane: "
                f"train.batch_size * train.segment_length = {batch_size * segment_length:,}"
            )
        self.offsets = np.arange(batch_size, dtype=np.int64) * count // batch_size
        if split.scored is not None:
            length = count // len(split.starts)
            # A core's period divides both lengths, so every lane still begins at phase 0.
            step = math.gcd(length, segment_length)
            within = np.arange(batch_size, dtype=np.int64) * length // batch_size
            self.offsets = self.offsets // length * length + within // step * step

    @property
    def epochs(self) -> float:
        """Times that the text has been read."""
        return self.position * len(self.offsets) / len(self.split.tokens)

    def next(self) -> Segment:
        """The next segment of every lane."""
        steps = self.position + np.arange(self.segment_length, dtype=np.int64)
        places = (self.offsets[:, None] + steps) % len(self.split.tokens)  # (B, T)
        reset = begins_document(self.split.starts, places) | (steps == 0)
        self.position += self.segment_length
        inputs, targets = inputs_and_targets(self.split, places)
        return Segment(inputs, targets, torch.from_numpy(reset))


def inputs_and_targets(split: Split, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The tokens before places (B, T) and those at them, IGNORED where they are not to be predicted."""
    inputs, targets = (as_int64(split.tokens[index]) for index in (places - 1, places))
    if split.scored is not None:
        targets.masked_fill_(~torch.from_numpy(split.scored[places]), IGNORED)
    return inputs, targets


def as_int64(tokens: NDArray[Any]) -> Tensor:
    """A copy of tokens (...) as torch indexes with them."""
    return torch.from_numpy(np.array(tokens, dtype=np.int64))


def begins_document(starts: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the places are among the ascending starts."""
    nearest = np.searchsorted(starts, places, side="right") - 1
    return np.asarray(starts[nearest] == places)
