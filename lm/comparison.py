"""Two models on the same documents: what one saves on each, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm.scored import Array, in_unit, ratio_interval
from training.errors import InputError


@dataclass(frozen=True)
class DocumentScores:
    """What each document of a split costs a model."""

    unit: str
    """bits per byte, nats per token or bits per sample, with what else must be equal for it to mean the same."""
    names: list[str]
    """(documents,), what a document is called."""
    contents: list[str]
    """(documents,), the SHA-256 of what was predicted."""
    nats: Array
    """(documents,)"""
    counts: Array
    """(documents,), bytes, tokens or samples."""


@dataclass(frozen=True)
class DocumentDifference:
    """One document under both models, in the comparison's unit."""

    name: str
    first: float
    second: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same documents; a difference is the first's figure less the second's."""

    unit: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    """95 % interval of the difference by a bootstrap over documents, each drawn with both its figures; None for a
    single document."""
    documents: list[DocumentDifference]

    @property
    def first_is_better(self) -> int:
        """The documents that cost the first model less."""
        return sum(document.difference < 0 for document in self.documents)


def compare(first: DocumentScores, second: DocumentScores, names: Sequence[str]) -> Comparison:
    """Compare the scores of two models in one unit; `names` are for error messages.

    Raises InputError where the scores are not of the same documents.
    """
    if first.contents != second.contents:
        raise InputError(
            f"{names[0]} is scored on {len(first.contents):,} documents, {names[1]} on {len(second.contents):,}, "
            "which are not the same (of models of text, --text FILE scores both on the same files)"
        )
    totals = in_unit(np.stack([first.nats, second.nats, first.nats - second.nats]), first.unit)
    one, other, difference = (totals.sum(1) / first.counts.sum()).tolist()
    each = (totals / first.counts).T.tolist()
    return Comparison(
        unit=first.unit,
        first=one,
        second=other,
        difference=difference,
        interval=ratio_interval(totals[2], first.counts),
        documents=[DocumentDifference(name, *figures) for name, figures in zip(first.names, each, strict=True)],
    )
