"""The typed configuration of a next-sample experiment: the sections of `lm.config`, with clips as data."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lm.config import (
    STRICT,
    CoreConfig,
    Count,
    Positive,
    Probability,
    RunConfig,
    ScheduleConfig,
    SplitConfig,
    TrainConfig,
)

Text = Annotated[str, Field(min_length=1, max_length=4096)]
Word = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which clips, and how they become codes."""

    path: Text
    layout: Literal["folder", "ljspeech", "librispeech", "speechcommands"]
    """How the clips lie under `path`; see `audio.layouts`."""
    sample_rate: Annotated[int, Field(ge=1_000, le=768_000)]
    """Samples a second of the model. A clip of another rate is refused, unless `resample`."""
    quantiser: Literal["mu_law_256", "logistic_16"] = "mu_law_256"
    """256 mu-law codes under a softmax, or 65,536 linear levels under a mixture of logistics."""
    gain: Positive | Literal["peak"] = "peak"
    """Every sample of every split is multiplied by this ONE number; `peak` brings the largest of train to 1."""
    resample: bool = False
    trim_db: Positive | None = None
    """Cut what is this many decibels below a clip's loudest frame from its beginning and end; null cuts nothing."""
    words: tuple[Word, ...] = ()
    """Of the layout speechcommands: these words alone; empty is all."""
    formats: tuple[Literal["wav", "flac", "ogg"], ...] = ("wav", "flac")
    split: SplitConfig = field(default_factory=SplitConfig)
    """Shares of the clips, spread evenly over their order, where the layout itself names no held-out clips."""
    strict: bool = False
    """Whether a clip that cannot be used is an error; else it is skipped, with its reason."""
    download: bool = False
    """Whether torchaudio may fetch a data set of its own that is missing."""
    cache: Text | None = None
    """Folder of the prepared code files; null is reverie/corpora in the user's cache folder."""
    origin: str = ""
    """How to get the clips, for the message where they are missing."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """What stands around the core."""

    tied: bool = True
    """Of mu_law_256: whether the softmax shares the embedding's matrix."""
    dropout: Probability = 0.0
    """Of the core's inputs and outputs."""
    mixtures: Annotated[int, Field(ge=1, le=1000)] = 10
    """Of logistic_16: the logistics in a mixture."""


@dataclass(frozen=True, config=STRICT)
class ListeningConfig:
    """Sound written while training: continuations of real clips, and free samples."""

    interval: Count
    """Updates between two."""
    seconds: Positive = 1.0
    """Written by the model in each clip."""
    prompt_seconds: Positive = 0.25
    """Of a real clip that a continuation goes on from."""
    clips: Annotated[int, Field(ge=1, le=64)] = 2
    """Continuations, and as many free samples."""


@dataclass(frozen=True, config=STRICT)
class AudioTrainConfig(TrainConfig):
    """Training as of text, a token being a sample, and what is heard on the way."""

    listening: ListeningConfig | None = None
    """Null writes nothing."""


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One runnable experiment."""

    data: DataConfig
    core: CoreConfig
    train: AudioTrainConfig
    run: RunConfig
    model: ModelConfig = field(default_factory=ModelConfig)

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        problems = []
        rate, total = self.train.learning_rate, self.train.total_steps
        if isinstance(rate, ScheduleConfig) and rate.warmup_steps >= total:
            problems.append(
                f"train.learning_rate.warmup_steps: {rate.warmup_steps} is not below train.total_steps = {total}; "
                "both count samples"
            )
        if self.data.words and self.data.layout != "speechcommands":
            problems.append(f"data.words: is for the layout speechcommands alone, data.layout is {self.data.layout}")
        if not self.data.formats:
            problems.append("data.formats: expected at least one of wav, flac, ogg, got an empty list")
        return problems
