"""The typed configuration of a language-modelling experiment: sections data, core, model, train, run."""

from __future__ import annotations

import itertools
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from training.config import (
    STRICT,
    AccumulationConfig,
    BaseTrainConfig,
    CoreConfig,
    Count,
    NonNegative,
    Positive,
    Probability,
    RunConfig,
    Seed,
    Size,
    TokenScheduleConfig,
)

PathName = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]

RENAMED = {
    "train.total_steps": "train.total_tokens",
    "train.learning_rate.warmup_steps": "train.learning_rate.warmup_tokens",
    "train.update_period": "train.accumulate",
    "train.accumulate.switch_step": "train.accumulate.switch_tokens",
    "model.tied": "model.tie_embeddings",
}
"""Keys that were called otherwise before, with their names now, for the error that a configuration with one gets."""


@dataclass(frozen=True, config=STRICT)
class SplitConfig:
    """How data without splits is cut into them, in this order and in proportion to these numbers."""

    train: Positive = 0.9
    """Part of the data that is learned from."""
    validation: Positive = 0.1
    """Part of the data that is scored during training."""
    test: NonNegative = 0.0
    """Part of the data that is left for a last evaluation; 0 makes no such split."""


@dataclass(frozen=True, config=STRICT)
class WordCounts:
    """The published number of words of each split, by which perplexity per word is counted."""

    train: Count | None = None
    """Words of the train split; null counts them."""
    validation: Count | None = None
    """Words of the validation split; null counts them."""
    test: Count | None = None
    """Words of the test split; null counts them."""


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which text, and what its tokens are."""

    path: PathName
    """One file or a folder of files without splits, cut by `split`; or a folder with splits. `lm/documents.py` lists
    the layouts."""
    tokens: Literal["bytes", "characters", "words", "subwords"] = "bytes"
    """What a token is; sub-words are byte-pair encodings learned from the train split."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How a file or folder without splits is cut."""
    cache: PathName | None = None
    """Folder of the prepared token files; null is reverie/corpora in the user's cache folder."""
    vocabulary_size: Size | None = None
    """Largest number of different words, where null sets no bound; or the number of sub-words, where null is 8192."""
    min_count: Count = 1
    """Occurrences in the train split that a word needs to be in the vocabulary; others become <unk>."""
    words: WordCounts = field(default_factory=WordCounts)
    """Published numbers of words, for perplexities that compare with published ones."""
    origin: str = ""
    """How to get the text; part of the error message where it is missing."""

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
    """A synthetic task in place of a text."""

    task: Literal["copy", "reverse", "sorting", "duplication"]
    """Which task: what is to be written after a question; `lm/tasks.py` says what each is."""
    length: Size = 512
    """Symbols of a question; more ask for a longer memory."""
    symbols: Annotated[int, Field(ge=2, le=2**15)] | None = None
    """Different symbols; null is what the task's authors take."""
    train_sequences: Count = 8000
    """Questions, with their answers, that are learned from."""
    validation_sequences: Count = 800
    """Questions that are scored during training."""
    test_sequences: Count = 800
    """Questions that are left for a last evaluation."""
    seed: Seed = 1
    """Seed of the questions; `train.seed` is another, so that runs differ on equal questions."""

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
class AdaptiveConfig:
    """Bands of tokens, the commonest first (Grave et al., 1609.04309; Baevski & Auli, 1809.10853)."""

    cutoffs: Annotated[list[Size], Field(min_length=1, max_length=16)]
    """The first token of each band after the first, ascending; tokens are numbered from the commonest on."""
    factor: Annotated[int, Field(ge=1, le=64)] = 4
    """Factor by which the width shrinks from band to band (Baevski & Auli take 4)."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The embedding before the core and the softmax after it."""

    tie_embeddings: bool = True
    """Whether the softmax shares the embedding's matrices (Press & Wolf, 1608.05859): fewer parameters, and mostly
    better."""
    adaptive: AdaptiveConfig | None = None
    """Narrower embeddings for rarer tokens, in the softmax and the inputs, for large vocabularies; null gives all
    tokens the core's width."""
    dropout: Probability = 0.0
    """Probability with which entries of the embeddings and of the core's outputs are dropped; more where the model
    overfits."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig(BaseTrainConfig):
    """Truncated backpropagation through time, how long, from which seed, and how often to write."""

    total_tokens: Count
    """Tokens (samples, of audio) of the whole run, over all rows of the batch."""
    batch_size: Size = 16
    """Rows B of a batch: the lanes of the text that are read side by side."""
    segment_length: Size = 64
    """Steps T of one row in one backward pass; a multiple of the core's period. Memory reaches further back, gradients
    do not."""
    accumulate: Size | AccumulationConfig = 1
    """Segments whose gradients are averaged into one update; a larger batch without more room."""
    learning_rate: NonNegative | TokenScheduleConfig = 1e-3
    """Step size of AdamW; the first number to lower where training is unstable."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW (Loshchilov & Hutter, 1711.05101), on matrices alone; more where the model overfits."""
    max_grad_norm: Positive = 1.0
    """Norm to which the gradient of an update is clipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast, faster on accelerators: weights, optimizer and loss stay in float32."""
    ema_decay: Probability | None = None
    """Decay of an exponential moving average of the weights, an update, that evaluation uses; null evaluates the
    weights themselves. 0.999 or so helps where the learning rate stays high."""
    evaluation_interval: Count = 500
    """Updates between two evaluations on the validation split."""
    evaluation_tokens: Count | None = None
    """Tokens of the validation split that those evaluations take, from its beginning; null is all."""

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        rate = self.learning_rate
        if isinstance(rate, TokenScheduleConfig) and rate.warmup_tokens >= self.total_tokens:
            return [
                f"train.learning_rate.warmup_tokens: {rate.warmup_tokens} is not below "
                f"train.total_tokens = {self.total_tokens}"
            ]
        return []


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One runnable experiment, on a text or on a task."""

    data: DataConfig | TaskConfig
    """The text or the task that is learned."""
    core: CoreConfig
    """The memory core of the model."""
    train: TrainConfig
    """How to train, for how long, and how often to write."""
    run: RunConfig
    """The folder that the run writes to."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The embedding before the core and the softmax after it."""

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        problems = [*self.data.problems(), *self.train.problems()]
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
