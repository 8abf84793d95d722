"""Training: truncated backpropagation through time, with the core's memory carried from segment to segment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lm.answers import task_metrics
from lm.config import DataConfig, ExperimentConfig, TaskConfig, TrainConfig
from lm.corpus import Corpus, Split, prepare
from lm.evaluation import validation_metrics
from lm.lanes import Lanes, Segment
from lm.model import IGNORED, LanguageModel
from lm.tasks import symbols_of, task_corpus
from lm.text_model import make_model
from lm.vocabularies import vocabulary_from
from training.averaging import copy_parameters, update_average, use_average
from training.guard import UpdateGuard
from training.held_out import Check, HeldOut
from training.restoring import count_in, load_optimizer, require_shapes
from training.schedules import scheduled, segments_per_update
from training.weights import load_weights, weights_of

Validate = Callable[[LanguageModel, Check], dict[str, float]]
"""Scores a model on held-out data; metrics by TensorBoard tag."""
TEXT_SCORE = "validation/nats_per_token"
"""The metric by which the best checkpoint of a model of text is chosen."""


def make_trainer(config: ExperimentConfig, trained: Mapping[str, Any] | None = None) -> NextTokenTrainer:
    """The trainer of an experiment, in the vocabulary of the fingerprint `trained` of a checkpoint where there is one.

    Raises InputError for a corpus that cannot be read, is too short, or has characters that the vocabulary lacks.
    """
    train, data = config.train, config.data
    torch.set_num_threads(train.num_threads)
    torch.manual_seed(train.seed)
    validate: Validate
    if isinstance(data, TaskConfig):
        model = make_model(symbols_of(data) + 2, config.core, config.model)
        corpus = task_corpus(data, model.core.period)
        held_out = corpus.splits["validation"]
        validate = functools.partial(
            task_metrics, data=data, split=held_out, batch_size=train.batch_size, limit=train.evaluation_tokens
        )
    else:
        corpus = prepare(data) if trained is None else _prepare_as_trained(data, trained["vocabulary"])
        model = make_model(corpus.vocabulary.size, config.core, config.model)
        validate = functools.partial(validation_metrics, corpus=corpus, train=train)
    known = identity(config) | {"vocabulary": corpus.vocabulary.description(), "data": {"sha256": corpus.sha256}}
    return NextTokenTrainer(train, model, corpus.splits["train"], validate, TEXT_SCORE, known)


def identity(config: ExperimentConfig) -> dict[str, Any]:
    """What the configuration alone says of a model's weights: a checkpoint's fingerprint has it too."""
    data, adaptive = config.data, config.model.adaptive
    described = (
        {"task": dataclasses.asdict(data)}
        if isinstance(data, TaskConfig)
        else {"tokens": {"kind": data.tokens, "vocabulary_size": data.vocabulary_size, "min_count": data.min_count}}
    )
    return {
        "path": "lm",
        "core": {"name": config.core.name, "d_model": config.core.d_model, **config.core.options},
        "model": {"tie_embeddings": config.model.tie_embeddings, "adaptive": adaptive and dataclasses.asdict(adaptive)},
        **described,
    }


def _prepare_as_trained(data: DataConfig, description: Mapping[str, Any]) -> Corpus:
    """The corpus of a text in the vocabulary of a description, where that is of the same kind."""
    corpus = prepare(data)
    if corpus.vocabulary.description() == description or description["tokens"] != data.tokens:
        return corpus
    return prepare(data, vocabulary_from(description))


class NextTokenTrainer:
    """Trains one language model. `update` is one optimizer step; `state`, `weights` and `load` make a resume."""

    def __init__(
        self,
        config: TrainConfig,
        model: LanguageModel,
        split: Split,
        validate: Validate,
        score: str,
        identity: Mapping[str, Any],
    ) -> None:
        """A trainer of `model` on `split`; `identity` is JSON data that a checkpoint must agree with.

        Of the metrics that `validate` gives, `score` is the one that says how good a checkpoint is: lower is better.

        Raises InputError for a split that is too short.
        """
        self.config = config
        self.total_steps = config.total_tokens
        self.step_count = self.update_count = 0
        self.guard = UpdateGuard()
        self.lanes = Lanes(split, config.batch_size, config.segment_length)
        self.validate = validate
        basis = {"data": identity["data"], "tokens": config.evaluation_tokens}
        self.held_out = HeldOut(config.evaluation_interval, self.measure, score, higher_is_better=False, basis=basis)
        self.identity = dict(identity)
        self.model = model.to(config.device).train()
        self.core_state = model.core.initial_state(config.batch_size)
        self.optimizer = make_optimizer(model, config)
        self.average = None if config.ema_decay is None else copy_parameters(model)

    def update(self) -> dict[str, float]:
        """One optimizer step on the next segments of every lane; returns metrics by TensorBoard tag.

        An update whose loss or gradient is not finite changes neither weights nor memory; several in a row raise
        DivergenceError.
        """
        train = self.config
        rate = scheduled(train.learning_rate, self.step_count, self.total_steps)
        num_segments = segments_per_update(train.accumulate, self.step_count)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        self.optimizer.zero_grad(set_to_none=True)
        memory_before = self.core_state
        segments = [self.lanes.next() for _ in range(num_segments)]
        num_targets = sum(int((segment.targets != IGNORED).sum()) for segment in segments)
        sums: dict[str, Tensor] = {}
        for segment in segments:
            for tag, value in self._backward(segment.to(self.model.device), num_targets, num_segments).items():
                sums[tag] = sums[tag] + value if tag in sums else value
            self.step_count += segment.targets.numel()
        metrics = {tag: float(total) for tag, total in sums.items()}
        gradient_norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.max_grad_norm))
        self.update_count += 1
        if self.guard.allows(metrics["loss/total"], gradient_norm):
            self.optimizer.step()
            self.model.core.after_update()
            if self.average is not None and train.ema_decay is not None:
                update_average(self.average, self.model, train.ema_decay)
        else:
            self.core_state = memory_before
        if not num_targets:  # a 0 would be averaged with losses of targets
            del metrics["loss/total"], metrics["loss/next_token"]
        metrics |= {
            "learner/gradient_norm": gradient_norm,
            "learner/learning_rate": rate,
            "learner/accumulated_segments": float(num_segments),
            "learner/skipped_updates": self.guard.skipped,
            "data/epochs": self.lanes.epochs,
        }
        return metrics

    def measure(self, check: Check) -> dict[str, float]:
        """Metrics on held-out data, with the averaged weights where there are such; see `HeldOut.measure`."""
        with use_average(self.model, self.average):
            return self.validate(self.model, check)

    def _backward(self, segment: Segment, num_targets: int, num_segments: int) -> dict[str, Tensor]:
        """Add the gradient of one of the `num_segments` segments of an update, which have `num_targets` between them.

        Returns its part of the update's losses and metrics.
        """
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=bfloat16):
            output = self.model(segment.inputs, self.core_state, segment.reset)
            losses = self.model.head.losses(output.y, segment.targets)
        self.core_state = output.state
        next_token = losses.sum() / max(num_targets, 1)
        core_losses = {name: value / num_segments for name, value in output.losses.items()}
        core_loss = sum(core_losses.values(), torch.zeros_like(next_token))
        # Without a target only what the core's own losses reach has a gradient; AdamW leaves all else as it is.
        learned = core_loss + next_token if num_targets else core_loss
        if learned.requires_grad:
            torch.autograd.backward(learned)
        metrics = {"loss/total": core_loss + next_token, "loss/next_token": next_token}
        metrics |= {f"loss/core_{name}": value for name, value in core_losses.items()}
        metrics |= {f"core/{name}": value / num_segments for name, value in output.metrics.items()}
        return {tag: value.detach() for tag, value in metrics.items()}

    @property
    def skipped_in_a_row(self) -> int:
        """Updates skipped since the last one that was applied."""
        return self.guard.skipped_in_a_row

    def weights(self) -> dict[str, Tensor]:
        """The model's parameters and buffers."""
        return weights_of(self.model)

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be loaded here."""
        return {**self.identity, "train": {"batch_size": self.config.batch_size, "seed": self.config.seed}}

    def state(self) -> dict[str, Any]:
        """Everything besides the weights that the rest of the run depends on: plain data and tensors."""
        device = self.model.device
        return {
            "optimizer": self.optimizer.state_dict(),
            "core_state": dict(self.core_state),
            "position": self.lanes.position,
            "average": self.average,
            "step_count": self.step_count,
            "update_count": self.update_count,
            **self.guard.state(),
            "torch_generator": torch.get_rng_state(),
            "device_generator": None if device.type == "cpu" else torch.cuda.get_rng_state(device),
        }

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> list[str]:
        """Continue from `weights()` and `state()`; returns warnings about what could not be restored exactly."""
        load_weights(self.model, weights)
        load_optimizer(self.optimizer, state["optimizer"])
        device = self.model.device
        require_shapes(state["core_state"], self.core_state, "the memory")
        self.core_state = {name: tensor.to(device) for name, tensor in state["core_state"].items()}
        self.lanes.position = count_in(state, "position")
        self.step_count, self.update_count = (count_in(state, name) for name in ("step_count", "update_count"))
        self.guard.load(state)
        torch.set_rng_state(state["torch_generator"])
        warnings = []
        if (state["device_generator"] is None) != (device.type == "cpu"):
            warnings.append(f"train.device is now {self.config.device}: the resume is not exact")
        elif state["device_generator"] is not None:
            torch.cuda.set_rng_state(state["device_generator"], device)
        if state["average"] is None and self.average is not None:
            self.average = copy_parameters(self.model)
            warnings.append("train.ema_decay was null before: the moving average begins at this checkpoint's weights")
        elif state["average"] is not None and self.average is None:
            warnings.append("train.ema_decay is now null: the moving average of the weights is dropped")
        elif state["average"] is not None:
            require_shapes(state["average"], copy_parameters(self.model), "the average of the weights")
            self.average = {name: tensor.to(device) for name, tensor in state["average"].items()}
        return warnings

    def close(self) -> None:
        """There is nothing to release."""


def make_optimizer(model: LanguageModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 1711.05101) that decays matrices alone, not gains and biases."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0)
