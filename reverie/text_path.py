"""Models of text, and of synthetic tasks, on the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lm.config import ExperimentConfig, TaskConfig, TaskExperimentConfig, TextExperimentConfig, TrainConfig
from reverie.path_interface import Batch, Curve, PathInterface, SamplingPlan, Variants

if TYPE_CHECKING:
    from torch import Tensor

    from lm.comparison import DocumentScores
    from lm.loose_texts import Text
    from memory_cores import MemoryCore
    from reverie.checkpoint import Checkpoint
    from training.trainer import Trainer

TRAINING_LOSS = Curve("training loss (nats per token)", "tokens")


class TextPath(PathInterface[ExperimentConfig]):
    """Next-token models of a text or of a synthetic task."""

    name = "models of text"
    schemas = (TextExperimentConfig, TaskExperimentConfig)
    fingerprint = "lm"
    options: ClassVar = {
        "train": frozenset({"changed_data"}),
        "evaluate": frozenset({"overrides", "split", "text", "by_frequency", "by_position", "per_token"}),
        "compare": frozenset({"text"}),
        "generate": frozenset({"tokens", "prompt_file"}),
    }
    curves: ClassVar = {
        "loss/next_token": TRAINING_LOSS,
        "validation/nats_per_token": Curve("validation loss (nats per token)", "tokens", is_held_out=True),
    }

    def subject(self, config: ExperimentConfig) -> str:
        return config.data.task if isinstance(config.data, TaskConfig) else config.data.path

    def batch(self, config: ExperimentConfig) -> Batch:
        return segment_batch(config.train)

    def identity(self, config: ExperimentConfig) -> Mapping[str, Any]:
        from lm.trainer import identity

        return identity(config)

    def make_trainer(
        self, config: ExperimentConfig, address: str | None = None, trained: Mapping[str, Any] | None = None
    ) -> tuple[Trainer, SamplingPlan | None]:
        from lm.trainer import make_trainer

        return make_trainer(config, trained), None

    def check_content(self, checkpoint: Checkpoint) -> None:
        from lm.vocabularies import vocabulary_from
        from training.averaging import evaluation_weights

        super().check_content(checkpoint)
        vocabulary_from(checkpoint.fingerprint["vocabulary"])
        evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
        _ = checkpoint.fingerprint["data"]["sha256"]

    def evaluate(
        self, run: Path, checkpoint: Checkpoint, variants: Variants[ExperimentConfig], arguments: argparse.Namespace
    ) -> None:
        from reverie.text_evaluation import Wanted, evaluate
        from reverie.texts import read_texts

        wanted = Wanted(
            split=arguments.split or "validation",
            texts=read_texts(arguments.text) if arguments.text else None,
            by_frequency=arguments.by_frequency,
            by_position=arguments.by_position,
            per_token=arguments.per_token,
        )
        evaluate(run, checkpoint, variants, wanted, arguments.json)

    def unit(self, run: Path, config: ExperimentConfig, checkpoint: Checkpoint) -> str:
        from reverie.text_evaluation import unit

        return unit(run, config, checkpoint)

    def document_scores(
        self,
        checkpoint: Checkpoint,
        config: ExperimentConfig,
        unit: str,
        split: str,
        texts: Sequence[Text] | None,
    ) -> DocumentScores:
        from reverie.text_evaluation import document_scores

        return document_scores(config, checkpoint, unit, split, texts)

    def generate(
        self, run: Path, checkpoint: Checkpoint, config: ExperimentConfig, arguments: argparse.Namespace
    ) -> None:
        from lm.loose_texts import Text
        from lm.model import Sampling
        from reverie.text_generation import generate
        from reverie.texts import read_texts

        sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
        tokens = arguments.tokens or 500
        prompt = Text("--prompt", os.fsencode(arguments.prompt))  # as it was typed, also where that is not UTF-8
        if arguments.prompt_file is not None:
            (prompt,) = read_texts([arguments.prompt_file])
        generate(run, checkpoint, config, prompt, tokens, sampling, arguments.seed, arguments.json)

    def core_inputs(
        self, config: ExperimentConfig, checkpoint: Checkpoint, rows: int, steps_of: Callable[[MemoryCore], int]
    ) -> tuple[MemoryCore, Tensor, Tensor]:
        from lm.core_inputs import core_inputs
        from reverie.text_evaluation import model_and_validation

        model, split = model_and_validation(config, checkpoint)
        return model.core, *core_inputs(model, split, rows, steps_of(model.core))


def segment_batch(train: TrainConfig) -> Batch:
    """The size of one backward pass of a next-token model."""
    return Batch("train.batch_size", train.batch_size, "train.segment_length", train.segment_length, moments=2)
