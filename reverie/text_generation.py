"""Generating text with the language model of a run."""

from __future__ import annotations

import codecs
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lm.config import ExperimentConfig
from lm.generation import GeneratedToken
from lm.generation import generate as generate_tokens
from lm.loose_texts import Text
from lm.model import Sampling
from lm.text_model import make_model
from lm.vocabularies import vocabulary_from
from lm.vocabulary import Vocabulary
from reverie.checkpoint import Checkpoint
from training.averaging import evaluation_weights
from training.device import require_device
from training.progress import ProgressLine
from training.weights import load_weights


def generate(
    run: Path,
    checkpoint: Checkpoint,
    config: ExperimentConfig,
    prompt: Text,
    num_tokens: int,
    sampling: Sampling,
    seed: int,
    as_json: bool,
) -> None:
    """Print the prompt and its continuation by the model of a checkpoint, token by token.

    The log-likelihood of the continuation follows on stderr. With `as_json`, one JSON object is printed instead of all.
    Raises UserError where the device is missing, InputError where the prompt has no tokens of the model.
    """
    require_device(config.train.device)
    vocabulary = vocabulary_from(checkpoint.fingerprint["vocabulary"])
    torch.set_num_threads(config.train.num_threads)
    model = make_model(vocabulary.size, config.core, config.model).to(config.train.device)
    load_weights(model, evaluation_weights(checkpoint.weights, checkpoint.state["trainer"]))
    tokens = vocabulary.encode(prompt.raw, prompt.name)
    start = torch.tensor(tokens.tolist(), dtype=torch.int64)
    generated: list[GeneratedToken] = []
    texts = _decode(_record(generate_tokens(model, start, num_tokens, sampling, seed), generated), vocabulary)
    if as_json:
        text = ""
        with ProgressLine(num_tokens, unit="tokens", what="generating") as line:
            for part in texts:
                text += part
                line.update(len(generated))
        given = prompt.raw.decode(errors="replace")
        row = {"run": str(run), "step": checkpoint.step, "prompt": given, "text": text}
        print(json.dumps(row | _likelihood(generated)))
        return
    print(vocabulary.decode(tokens).decode(errors="replace"), end="", flush=True)
    for text in texts:
        print(_replace_controls(text) if sys.stdout.isatty() else text, end="", flush=True)
    print()
    figures = _likelihood(generated)
    print(
        f"log-likelihood of the {len(generated)} tokens after the prompt: {figures['log_likelihood']:.2f} nats, "
        f"{figures['nats_per_token']:.4f} a token",
        file=sys.stderr,
    )


def _record(words: Iterable[GeneratedToken], generated: list[GeneratedToken]) -> Iterator[int]:
    """The tokens of words; each word is appended to `generated` as it passes."""
    for word in words:
        generated.append(word)
        yield word.token


def _likelihood(generated: Sequence[GeneratedToken]) -> dict[str, float]:
    total = math.fsum(word.log_probability for word in generated)
    return {"log_likelihood": total, "nats_per_token": -total / len(generated)}


def _decode(tokens: Iterator[int], vocabulary: Vocabulary) -> Iterator[str]:
    """The text of tokens, a character as soon as it is complete: its bytes may span several tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        yield decoder.decode(vocabulary.decode(np.array([token])))
    yield decoder.decode(b"", final=True)


def _replace_controls(text: str) -> str:
    """Text without control characters: a terminal could take the output of a model of bytes for commands."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
