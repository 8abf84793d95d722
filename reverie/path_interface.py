"""What the command line asks of a path: of agents, of models of text, of models of audio."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from audio.samples import AudioSamples
    from lm.comparison import DocumentScores
    from lm.loose_texts import Text
    from memory_cores import MemoryCore
    from reverie.checkpoint import Checkpoint
    from training.held_out import Check
    from training.trainer import Trainer

Config = TypeVar("Config")
Variants = Sequence[tuple[list[str], Config]]
"""Configurations of one run, each with the overrides that it came from."""


class Batch(NamedTuple):
    """The size of one backward pass, and the fields of the configuration that set it."""

    rows_field: str
    rows: int
    steps_field: str
    steps: int
    moments: int
    """Copies of the parameters that the optimiser keeps."""


class Curve(NamedTuple):
    """How a report draws a metric."""

    label: str
    """Of the vertical axis."""
    steps: str
    """What the horizontal axis counts."""
    is_held_out: bool = False
    """Measured on held-out data, and so drawn against seconds of training too."""
    is_share: bool = False
    """Between 0 and 1, drawn in per cent."""


class SamplingPlan(NamedTuple):
    """The audio samples of a run, and when they are generated."""

    interval: int
    """Updates between two sets of clips."""
    sample: Callable[[Check], AudioSamples]
    """Generates a set; must change nothing that the rest of the run depends on. Raises Stopped as the check does."""


class PathInterface(ABC, Generic[Config]):
    """One path of the program. Importing its module must not import torch; its methods import what they need."""

    name: ClassVar[str]
    """What the path trains, in the plural, for error messages."""
    schemas: tuple[type[Config], ...]
    """The configurations of the path."""
    fingerprint: ClassVar[str]
    """The value of `path` in the fingerprint of its checkpoints."""
    options: ClassVar[Mapping[str, frozenset[str]]]
    """For each command, the options that this path takes and not every path does."""
    curves: ClassVar[Mapping[str, Curve]]
    """What a report draws of a run, by metric."""

    @abstractmethod
    def subject(self, config: Config) -> str:
        """What the experiment trains on: an environment, a synthetic task or the path of a corpus."""

    @abstractmethod
    def batch(self, config: Config) -> Batch:
        """The size of one backward pass."""

    def imported_names(self, config: Config) -> list[tuple[str, str]]:
        """The fields, beside the core's name, that may name code as `module:Name`, and what they say.

        A field that gives arguments to the code of a module comes with `module:`.
        """
        return []

    @abstractmethod
    def make_trainer(
        self, config: Config, address: str | None = None, trained: Mapping[str, Any] | None = None
    ) -> tuple[Trainer, SamplingPlan | None]:
        """The trainer, and the sound it gives of itself.

        `address` is the Ray cluster for the actors of agents. `trained` is the fingerprint of the checkpoint that the
        trainer is to continue from: data is prepared in its vocabulary or under its gain.
        """

    @abstractmethod
    def identity(self, config: Config) -> Mapping[str, Any]:
        """What the configuration alone says of the weights: these entries are in a checkpoint's fingerprint too."""

    def check_content(self, checkpoint: Checkpoint) -> None:
        """Raise LookupError, TypeError or ValueError unless a checkpoint has what the other methods read of it."""
        from training.restoring import count_in

        if (step := count_in(checkpoint.state["trainer"], "step_count")) != checkpoint.step:
            raise ValueError(f"its state is of step {step}, its manifest of step {checkpoint.step}")

    @abstractmethod
    def evaluate(
        self, run: Path, checkpoint: Checkpoint, variants: Variants[Config], arguments: argparse.Namespace
    ) -> None:
        """Score a checkpoint of a run under each variant of its configuration, and print the results."""

    @abstractmethod
    def unit(self, run: Path, config: Config, checkpoint: Checkpoint) -> str:
        """The unit in which a run's documents are measured, with what else it depends on; equal units can be compared.

        Raises UserError where the path, or its data, has no documents.
        """

    @abstractmethod
    def document_scores(
        self, checkpoint: Checkpoint, config: Config, unit: str, split: str, texts: Sequence[Text] | None
    ) -> DocumentScores:
        """What each document of a split, or of models of text each of `texts`, costs a checkpoint."""

    @abstractmethod
    def generate(self, run: Path, checkpoint: Checkpoint, config: Config, arguments: argparse.Namespace) -> None:
        """Generate with a checkpoint of a run; raises UserError where the path cannot."""

    @abstractmethod
    def core_inputs(
        self, config: Config, checkpoint: Checkpoint, rows: int, steps_of: Callable[[MemoryCore], int]
    ) -> tuple[MemoryCore, Tensor, Tensor]:
        """The core of a checkpoint and the inputs x (B, T, D) and reset (B, T) that it gets in evaluation.

        B is at most `rows`, T = `steps_of(core)`.
        """
