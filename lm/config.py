"""The typed configuration of a language-modelling experiment: sections data, core, model, train, run."""

from __future__ import annotations

import itertools
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
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]


@dataclass(frozen=True, config=STRICT)
class SplitConfig:
    """How one file is cut, in this order, into splits in proportion to these parts: fractions, or bytes."""

    train: Positive = 0.9
    validation: Positive = 0.1
    test: NonNegative = 0.0


@dataclass(frozen=True, config=STRICT)
class WordCounts:
    """The number of words of each split; null is as many as are counted in it."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which text, and what its tokens are; `lm/documents.py` lists the layouts."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    """One file or a folder of files without splits, cut by `split`; or a folder with splits."""
    tokens: Literal["bytes", "characters", "words", "subwords"] = "bytes"
    split: SplitConfig = field(default_factory=SplitConfig)
    cache: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Folder of the prepared token files; null is reverie/corpora in the user's cache folder."""
    vocabulary_size: Size | None = None
    """Of words: the most there may be, null is no bound. Of sub-words: 257 or more, null is 8192."""
    min_count: Count = 1
    """How often a word must occur in the train split to be in the vocabulary; else it is <unk>."""
    words: WordCounts = field(default_factory=WordCounts)
    """The published numbers of words of the splits, where perplexity is to be counted with them."""
    origin: str = ""
    """How to get the text, for the message where it is missing."""

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        size, problems = self.vocabulary_size, []
        if size is not None and self.tokens not in ("words", "subwords"):
            problems.append(f"data.vocabulary_size: is for words and subwords, data.tokens is {self.tokens!r}")
        elif size is not None and self.tokens == "words" and size < 3:
            problems.append(f"data.vocabulary_size: expected 3 or more, for <unk>, <eos> and a word, got {size}")
        elif size is not None and self.tokens == "subwords" and size < 257:
            problems.append(f"data.vocabulary_size: expected 257 or more, the bytes and a sub-word, got {size}")
        if self.min_count > 1 and self.tokens != "words":
            problems.append(f"data.min_count: is for words, data.tokens is {self.tokens!r}")
        return problems


@dataclass(frozen=True, config=STRICT)
class TaskConfig:
    """A synthetic task in place of a text; `lm/tasks.py` says what each is."""

    task: Literal["copy", "reverse", "sorting", "duplication"]
    length: Size = 512
    """Symbols of a question."""
    symbols: Annotated[int, Field(ge=2, le=2**15)] | None = None
    """Different symbols; null is what the task's authors take."""
    train_sequences: Count = 8000
    validation_sequences: Count = 800
    test_sequences: Count = 800
    seed: Seed = 1
    """Of the questions."""

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        sequences = self.train_sequences + self.validation_sequences + self.test_sequences
        problems = []
        if sequences * (2 * self.length + (self.symbols or 0)) > 2**31:
            problems.append(f"data.length: {sequences} sequences of {self.length} symbols are more than memory holds")
        if self.task == "sorting" and self.length * (self.symbols or 1) > 2**27:
            problems.append(f"data.symbols: {self.symbols} in {self.length} are too many to draw and to count")
        return problems


@dataclass(frozen=True, config=STRICT)
class CoreConfig:
    """Which memory core, by its name in `memory_cores.names()`, its width and its own options."""

    name: str
    d_model: Size = 128
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class AdaptiveConfig:
    """Bands of tokens, the commonest first (Grave et al., 1609.04309; Baevski & Auli, 1809.10853)."""

    cutoffs: Annotated[list[Size], Field(min_length=1, max_length=16)]
    """The first token of each band after the first, ascending."""
    factor: Annotated[int, Field(ge=1, le=64)] = 4
    """By which the width shrinks from band to band."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """What stands around the core."""

    tied: bool = True
    """Whether the softmax shares the embedding's matrices (Press & Wolf, 1608.05859)."""
    adaptive: AdaptiveConfig | None = None
    """Narrower embeddings for rarer tokens, in the softmax and the inputs; null gives all tokens the core's width."""
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
    device: Device = "cpu"
    """Where the model is trained, evaluated and generates: cpu, cuda, or cuda:N for one of several."""
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
    """One runnable experiment, on a text or on a task."""

    data: DataConfig | TaskConfig
    core: CoreConfig
    train: TrainConfig
    run: RunConfig
    model: ModelConfig = field(default_factory=ModelConfig)

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        problems = self.data.problems()
        rate, total = self.train.learning_rate, self.train.total_steps
        if isinstance(rate, ScheduleConfig) and rate.warmup_steps >= total:
            problems.append(
                f"train.learning_rate.warmup_steps: {rate.warmup_steps} is not below train.total_steps = {total}; "
                "both count tokens"
            )
        adaptive = self.model.adaptive
        if adaptive is not None and any(a >= b for a, b in itertools.pairwise(adaptive.cutoffs)):
            problems.append(f"model.adaptive.cutoffs: expected ascending numbers, got {adaptive.cutoffs}")
        if adaptive is not None and self.core.d_model // adaptive.factor ** len(adaptive.cutoffs) < 1:
            problems.append(
                f"model.adaptive.factor: the last band would have no width: core.d_model = {self.core.d_model} over "
                f"{adaptive.factor} ** {len(adaptive.cutoffs)}"
            )
        return problems


@dataclass(frozen=True, config=STRICT)
class TextExperimentConfig(ExperimentConfig):
    """An experiment on a text."""

    data: DataConfig


@dataclass(frozen=True, config=STRICT)
class TaskExperimentConfig(ExperimentConfig):
    """An experiment on a synthetic task."""

    data: TaskConfig
