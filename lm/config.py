"""The typed configuration of a language-modelling experiment: sections data, core, model, train, run."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=10**12)]
Size = Annotated[int, Field(ge=1, le=2**20)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class SplitConfig:
    """How one file is cut, in this order, into splits in proportion to these parts: fractions, or bytes."""

    train: Positive = 0.9
    validation: Positive = 0.1
    test: NonNegative = 0.0


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which text: one file, cut by `split`, or a folder with train/, validation/ and maybe test/ of .txt files."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    tokens: Literal["bytes", "characters"] = "bytes"
    split: SplitConfig = field(default_factory=SplitConfig)
    cache: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Folder of the prepared token files; null is reverie/corpora in the user's cache folder."""
    origin: str = ""
    """How to get the text, for the message where it is missing."""


@dataclass(frozen=True, config=STRICT)
class CoreConfig:
    """Which memory core, by its name in `memory_cores.names()`, its width and its own options."""

    name: str
    d_model: Size = 128
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """What stands around the core."""

    tied: bool = True
    """Whether the softmax shares the embedding's matrix (Press & Wolf, 1608.05859)."""
    dropout: Probability = 0.0
    """Of the embeddings and of the core's outputs."""


@dataclass(frozen=True, config=STRICT)
class ScheduleConfig:
    """A value that moves from `initial` to `final` over the run, after `warmup_steps` tokens from zero."""

    initial: NonNegative
    final: NonNegative = 0.0
    shape: Literal["linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0, le=10**12)] = 0


@dataclass(frozen=True, config=STRICT)
class UpdatePeriodConfig:
    """Segments an update that change once, after `switch_step` tokens (Rae et al., 1911.05507, sec. 5.5.1)."""

    final: Size
    switch_step: Count
    initial: Size = 1


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Truncated backpropagation through time, how long, from which seed, and how often to write."""

    total_steps: Count
    """Tokens of the whole run, over all lanes."""
    batch_size: Size = 16
    """Lanes: streams of text read side by side."""
    segment_length: Size = 64
    """Tokens of one lane in one backward pass; a multiple of the core's period."""
    update_period: Size | UpdatePeriodConfig = 1
    """Segments whose gradients are averaged into one update."""
    learning_rate: NonNegative | ScheduleConfig = 1e-3
    weight_decay: NonNegative = 0.0
    """Of AdamW, on matrices alone."""
    max_grad_norm: Positive = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast: weights, optimizer and loss stay in float32."""
    ema_decay: Probability | None = None
    """Evaluate an exponential moving average of the weights with this decay an update; null is the weights."""
    evaluation_interval: Count = 500
    """Updates between two evaluations on the validation split."""
    evaluation_tokens: Count | None = None
    """The tokens of the validation split that those take, from its beginning; null is all."""
    seed: Seed = 1
    num_threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of torch; part of what makes a resume exact."""
    log_interval: Count = 10
    """Updates between two rows of metrics."""
    checkpoint_interval: Count = 200
    """Updates between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2, le=10_000)] = 3


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Where the run folder is: `root/name`."""

    name: str
    root: str = "runs"


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One runnable experiment."""

    data: DataConfig
    core: CoreConfig
    train: TrainConfig
    run: RunConfig
    model: ModelConfig = field(default_factory=ModelConfig)

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        rate, total = self.train.learning_rate, self.train.total_steps
        if isinstance(rate, ScheduleConfig) and rate.warmup_steps >= total:
            return [
                f"train.learning_rate.warmup_steps: {rate.warmup_steps} is not below train.total_steps = {total}; "
                "both count tokens"
            ]
        return []
