"""Generating sound with the model of audio of a run."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from audio import waveform
from audio.config import ExperimentConfig
from audio.generation import generate as generate_clips
from audio.generation import read_prompt
from audio.model import make_model
from audio.quantiser import QUANTISERS
from lm.model import Sampling
from reverie.checkpoint import Checkpoint
from training.averaging import evaluation_weights
from training.device import require_device
from training.errors import UserError
from training.files import make_folder
from training.weights import load_weights


def generate(
    run: Path,
    checkpoint: Checkpoint,
    config: ExperimentConfig,
    prompt: Path | None,
    seconds: float,
    streams: int,
    output: Path | None,
    sampling: Sampling,
    seed: int,
    as_json: bool,
) -> None:
    """Write continuations of a prompt by the model of a checkpoint to WAV files, and print their speed and likelihood.

    They lie in the folder `output`, or if that is None in `generated` of the run.
    Each of the `streams` files holds the prompt and `seconds` of sound after it. With `as_json`, one JSON object is
    printed instead. Raises UserError where the device is missing, a file cannot be written or the model cannot follow
    `sampling`, InputError for a prompt that cannot be used.
    """
    require_device(config.train.device)
    trained = checkpoint.fingerprint["quantiser"]
    if trained["name"] == "logistic_16" and (sampling.top_k is not None or sampling.top_p < 1):
        raise UserError(f"{run}: --top-k, --top-p: for models of codes only; this one has a density")
    quantiser = QUANTISERS[trained["name"]]
    rate, gain = int(trained["rate"]), float(trained["gain"])
    torch.set_num_threads(config.train.num_threads)
    model = make_model(quantiser, config.core, config.model).to(config.train.device)
    load_weights(model, evaluation_weights(checkpoint.weights, checkpoint.state["trainer"]))
    start = torch.zeros(0, dtype=torch.int64) if prompt is None else read_prompt(prompt, quantiser, rate, gain)
    num_samples = max(round(seconds * rate), 1)
    folder = run / "generated" if output is None else output
    try:
        if output is None:
            make_folder(folder)
        else:
            output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {folder}: {error.strerror or error}") from error
    began = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    generated = generate_clips(model, start.expand(streams, -1), num_samples, sampling, generator)
    elapsed = time.monotonic() - began
    paths = []
    for index, codes in enumerate(generated.codes):
        paths.append(folder / f"stream-{index:04d}.wav")
        try:
            waveform.write(paths[-1], quantiser.decode(torch.cat([start, codes]).numpy()) / gain, rate)
        except OSError as error:
            raise UserError(f"--output: {paths[-1]}: cannot be written: {error.strerror or error}") from error
    total, bits = generated.codes.numel(), generated.bits_per_sample.tolist()
    files = [
        {"path": str(path), "bits_per_sample": cost, "log_likelihood": -nats}
        for path, cost, nats in zip(paths, bits, generated.nats.tolist(), strict=True)
    ]
    if as_json:
        speed = {"samples": total, "seconds": elapsed, "samples_per_second": total / elapsed}
        print(json.dumps({"run": str(run), "step": checkpoint.step, **speed, "files": files}))
        return
    for file in files:
        print(
            f"{file['path']}  {num_samples / rate:.2f} s  {file['bits_per_sample']:.4f} bits/sample  "
            f"log-likelihood {file['log_likelihood']:.1f} nats"
        )
    print(
        f"{total:,} samples in {elapsed:.1f} s: {total / elapsed:,.0f} samples/s "
        f"({total / elapsed / rate:.3g} times real time), mean {sum(bits) / len(bits):.4f} bits/sample",
        file=sys.stderr,
    )
