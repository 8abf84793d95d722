"""Models of audio on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from audio.config import ExperimentConfig
from reverie.path_interface import Batch, Curve, PathInterface, SamplingPlan, Variants
from reverie.text_path import TRAINING_LOSS, segment_batch

if TYPE_CHECKING:
    from torch import Tensor

    from lm.comparison import DocumentScores
    from lm.loose_texts import Text
    from memory_cores import MemoryCore
    from reverie.checkpoint import Checkpoint
    from training.trainer import Trainer


class AudioPath(PathInterface[ExperimentConfig]):
    """Next-sample models of clips."""

    name = "models of audio"
    schemas = (ExperimentConfig,)
    fingerprint = "audio"
    options: ClassVar = {
        "train": frozenset({"changed_data"}),
        "evaluate": frozenset({"overrides", "split", "by_position"}),
        "generate": frozenset({"seconds", "streams", "output"}),
    }
    curves: ClassVar = {
        "loss/next_token": TRAINING_LOSS,
        "validation/bits_per_sample": Curve("validation loss (bits per sample)", "samples", is_held_out=True),
    }

    def subject(self, config: ExperimentConfig) -> str:
        return config.data.path

    def batch(self, config: ExperimentConfig) -> Batch:
        return segment_batch(config.train)

    def identity(self, config: ExperimentConfig) -> Mapping[str, Any]:
        from audio.trainer import identity

        return identity(config)

    def make_trainer(
        self, config: ExperimentConfig, address: str | None = None, trained: Mapping[str, Any] | None = None
    ) -> tuple[Trainer, SamplingPlan | None]:
        from audio.corpus import prepare
        from audio.datasets import download_if_missing
        from audio.evaluation import corpus_as_trained
        from audio.samples import AudioSampler
        from audio.trainer import make_trainer

        download_if_missing(config.data)
        if trained is not None and config.data.gain == "peak":
            corpus = corpus_as_trained(config, trained["quantiser"])
        else:
            corpus = prepare(config.data)
        trainer = make_trainer(config, corpus)
        samples = config.train.audio_samples
        if samples is None:
            return trainer, None
        sampler = AudioSampler(config, samples, corpus)
        return trainer, SamplingPlan(samples.interval, lambda check: sampler.sample(trainer, check))

    def check_content(self, checkpoint: Checkpoint) -> None:
        from training.averaging import evaluation_weights

        super().check_content(checkpoint)
        evaluation_weights(checkpoint.weights, checkpoint.state["trainer"])
        quantiser = checkpoint.fingerprint["quantiser"]
        _ = quantiser["name"], quantiser["rate"], quantiser["gain"], checkpoint.fingerprint["data"]["sha256"]

    def evaluate(
        self, run: Path, checkpoint: Checkpoint, variants: Variants[ExperimentConfig], arguments: argparse.Namespace
    ) -> None:
        from reverie.audio_evaluation import evaluate

        split = arguments.split or "validation"
        evaluate(run, checkpoint, variants, split, arguments.by_position, arguments.json)

    def unit(self, run: Path, config: ExperimentConfig, checkpoint: Checkpoint) -> str:
        from audio.evaluation import UNIT

        trained = checkpoint.fingerprint["quantiser"]
        return f"{UNIT} ({trained['name']} at {trained['rate']:,} samples a second, gain {trained['gain']})"

    def document_scores(
        self,
        checkpoint: Checkpoint,
        config: ExperimentConfig,
        unit: str,
        split: str,
        texts: Sequence[Text] | None,
    ) -> DocumentScores:
        from reverie.audio_evaluation import document_scores

        return document_scores(config, checkpoint, unit, split)

    def generate(
        self, run: Path, checkpoint: Checkpoint, config: ExperimentConfig, arguments: argparse.Namespace
    ) -> None:
        from lm.model import Sampling
        from reverie.audio_generation import generate

        prompt = Path(arguments.prompt) if arguments.prompt else None
        seconds, streams = arguments.seconds or 5.0, arguments.streams or 1
        sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
        where, seed = arguments.output, arguments.seed
        generate(run, checkpoint, config, prompt, seconds, streams, where, sampling, seed, arguments.json)

    def core_inputs(
        self, config: ExperimentConfig, checkpoint: Checkpoint, rows: int, steps_of: Callable[[MemoryCore], int]
    ) -> tuple[MemoryCore, Tensor, Tensor]:
        from lm.core_inputs import core_inputs
        from reverie.audio_evaluation import model_and_validation

        model, split = model_and_validation(config, checkpoint)
        return model.core, *core_inputs(model, split, rows, steps_of(model.core))
