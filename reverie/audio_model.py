"""Training, evaluating and generating with models of sound."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import audio.config
from audio import waveform
from audio.corpus import prepare
from audio.evaluation import Evaluation, corpus_as_trained
from audio.evaluation import evaluate as score
from audio.generation import generate as write
from audio.generation import read_prompt
from audio.model import make_model
from audio.quantiser import QUANTISERS
from audio.samples import AudioSampler
from audio.trainer import make_trainer as make_audio_trainer
from lm.corpus import Split
from lm.model import LanguageModel, Sampling
from lm.trainer import NextTokenTrainer
from reverie.checkpoint import Checkpoint
from reverie.config import load_experiment
from reverie.language_model import AS_TRAINED, combinations, print_table
from reverie.run_folder import CONFIG, newest_checkpoint
from reverie.train import SamplingPlan
from training.averaging import evaluation_weights
from training.device import require_device
from training.errors import UserError
from training.weights import load_weights


class Trained(NamedTuple):
    """What a run has learned."""

    step: int
    quantiser: dict[str, Any]
    """Its name, rate and gain."""
    weights: dict[str, Tensor]


def make_trainer(config: audio.config.ExperimentConfig) -> tuple[NextTokenTrainer, SamplingPlan | None]:
    """The trainer of an experiment, and the plan of its audio samples."""
    corpus = prepare(config.data)
    trainer = make_audio_trainer(config, corpus)
    samples = config.train.audio_samples
    if samples is None:
        return trainer, None
    sampler = AudioSampler(config, samples, corpus)
    return trainer, SamplingPlan(samples.interval, lambda: sampler.sample(trainer))


def model_and_validation(config: audio.config.ExperimentConfig, found: Checkpoint) -> tuple[LanguageModel, Split]:
    """The model of a checkpoint, and the validation split as it was trained for."""
    corpus = corpus_as_trained(config, found.fingerprint["quantiser"])
    model = make_model(corpus.quantiser, config.core, config.model)
    load_weights(model, evaluation_weights(found.weights, found.state["trainer"]))
    return model, corpus.splits["validation"]


def evaluate(run: Path, overrides: Sequence[str], split: str | None, as_json: bool) -> int:
    """Score a split with the newest checkpoint of a run, once for each combination of overrides, and print a table."""
    # All configurations are checked before the first, perhaps long, evaluation.
    variants = [(words, _experiment(run, words)) for words in combinations(overrides)]
    trained = _trained(run)
    torch.set_num_threads(variants[0][1].train.num_threads)
    rows: list[list[str]] = []
    for words, config in variants:
        result = score(config, trained.quantiser, trained.weights, split or "validation")
        if as_json:
            print(
                json.dumps({"run": str(run), "step": trained.step, "overrides": words, **_figures(result)}), flush=True
            )
            continue
        if not rows:
            print(
                f"{run} at step {trained.step:,}, {result.split} split: {result.samples:,} samples in "
                f"{result.clips:,} clips, {result.samples / result.rate:,.1f} s\n"
                f"  {result.quantiser} at {result.rate:,} samples a second, gain {result.gain:.6g}"
            )
        unigram, bigram = result.baselines
        rows.append(
            [" ".join(words) or AS_TRAINED, f"{result.bits_per_sample:.4f}", f"{result.nats_per_sample:.4f}",
             f"{unigram:.4f}", "-" if bigram is None else f"{bigram:.4f}"]
        )  # fmt: skip
    if not as_json:
        header = ["memory and data", "bits/sample", "nats/sample", "unigram baseline", "bigram baseline (bits/sample)"]
        print_table([header, *rows])
    return 0


def generate(
    run: Path,
    overrides: Sequence[str],
    prompt: Path | None,
    seconds: float,
    streams: int,
    output: Path,
    sampling: Sampling,
    seed: int,
    as_json: bool,
) -> int:
    """Write WAV files of what the newest checkpoint of a run makes after a prompt, and print how fast and how likely.

    A file holds the prompt and what was written after it. With `as_json`, one JSON object is printed instead.
    """
    config = _experiment(run, overrides)
    trained = _trained(run)
    if trained.quantiser["name"] == "logistic_16" and (sampling.top_k is not None or sampling.top_p < 1):
        raise UserError(f"{run}: --top-k, --top-p: for models of codes only; this one has a density")
    quantiser = QUANTISERS[trained.quantiser["name"]]
    rate, gain = int(trained.quantiser["rate"]), float(trained.quantiser["gain"])
    torch.set_num_threads(config.train.num_threads)
    model = make_model(quantiser, config.core, config.model).to(config.train.device)
    load_weights(model, trained.weights)
    start = torch.zeros(0, dtype=torch.int64) if prompt is None else read_prompt(prompt, quantiser, rate, gain)
    num_samples = max(round(seconds * rate), 1)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {output}: {error.strerror or error}") from error
    began = time.monotonic()
    written = write(model, start.expand(streams, -1), num_samples, sampling, torch.Generator().manual_seed(seed))
    elapsed = time.monotonic() - began
    bits, paths = written.bits_per_sample.tolist(), []
    for index, codes in enumerate(written.codes):
        paths.append(output / f"stream-{index:04d}.wav")
        try:
            waveform.write(paths[-1], quantiser.decode(torch.cat([start, codes]).numpy()) / gain, rate)
        except (OSError, RuntimeError) as error:
            raise UserError(f"--output: {paths[-1]}: cannot be written: {error}") from error
    total = written.codes.numel()
    speed = {"samples": total, "seconds": elapsed, "samples_per_second": total / elapsed}
    if as_json:
        files = [
            {"path": str(path), "bits_per_sample": cost, "log_likelihood": -nats}
            for path, cost, nats in zip(paths, bits, written.nats.tolist(), strict=True)
        ]
        print(json.dumps({"run": str(run), "step": trained.step, **speed, "files": files}))
        return 0
    for path, cost, nats in zip(paths, bits, written.nats.tolist(), strict=True):
        print(f"{path}  {num_samples / rate:.2f} s  {cost:.4f} bits/sample  log-likelihood {-nats:.1f} nats")
    print(
        f"{total:,} samples in {elapsed:.1f} s: {total / elapsed:,.0f} samples/s "
        f"({total / elapsed / rate:.3g} times real time), mean {sum(bits) / len(bits):.4f} bits/sample",
        file=sys.stderr,
    )
    return 0


def _experiment(run: Path, overrides: Sequence[str]) -> audio.config.ExperimentConfig:
    config = load_experiment(run / CONFIG, overrides)
    if not isinstance(config, audio.config.ExperimentConfig):
        raise UserError(f"{run}: is not a model of audio")
    require_device(config.train.device)
    return config


def _trained(run: Path) -> Trained:
    found = newest_checkpoint(run)
    if found.fingerprint.get("path") != "audio":
        raise UserError(f"{found.path}: is not the checkpoint of a model of audio")
    weights = evaluation_weights(found.weights, found.state["trainer"])
    return Trained(found.step, dict(found.fingerprint["quantiser"]), weights)


def _figures(result: Evaluation) -> Mapping[str, Any]:
    figures = dataclasses.asdict(result) | {
        "nats_per_sample": result.nats_per_sample,
        "bits_per_sample": result.bits_per_sample,
    }
    figures["baselines"] = result.baselines._asdict()
    return figures
