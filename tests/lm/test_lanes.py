"""Lanes: every lane reads the ring of text in order, and begins anew where a document does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.corpus import Split
from lm.lanes import Lanes
from training.errors import InputError


def numbered(lengths: list[int]) -> Split:
    """Documents whose tokens are their places."""
    starts = np.cumsum([0, *lengths[:-1]])
    return Split("train", np.arange(sum(lengths), dtype=np.uint16), starts, 0, 0, "")


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    batch_size=st.integers(1, 4),
    segment_length=st.integers(1, 9),
    segments=st.integers(1, 20),
)
def test_a_lane_is_the_text_from_its_place_on(
    lengths: list[int], batch_size: int, segment_length: int, segments: int
) -> None:
    split = numbered(lengths)
    count = len(split.tokens)
    if count < batch_size * segment_length:
        with pytest.raises(InputError, match="at least one segment a lane"):
            Lanes(split, batch_size, segment_length)
        return
    lanes = Lanes(split, batch_size, segment_length)
    parts = [lanes.next() for _ in range(segments)]
    inputs, targets, reset = (torch.cat([part[i] for part in parts], dim=1) for i in range(3))
    for lane in range(batch_size):
        expected = [(lane * count // batch_size + t) % count for t in range(segments * segment_length)]
        assert targets[lane].tolist() == expected
        assert reset[lane].tolist() == [t == 0 or place in split.starts for t, place in enumerate(expected)]
        assert inputs[lane, 1:].tolist() == expected[:-1]
    assert lanes.epochs == pytest.approx(targets.numel() / count)


def test_lanes_go_on_from_a_position() -> None:
    first, second = (Lanes(numbered([7, 12, 5]), 2, 5) for _ in range(2))
    for _ in range(4):
        first.next()
    second.position = first.position
    for a, b in zip(first.next(), second.next(), strict=True):
        assert torch.equal(a, b)
