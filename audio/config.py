"""The typed configuration of a next-sample experiment: the sections of `lm.config`, with clips as data."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lm.config import PathName, SplitConfig, TrainConfig
from training.config import STRICT, CoreConfig, Count, Positive, Probability, RunConfig

RENAMED = {"train.listening": "train.audio_samples"}
"""Keys that were called otherwise before, beside those of `lm.config.RENAMED`, with their names now."""

Word = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^._/\p{Cc}][^/\p{Cc}]*$")]
Gain = Annotated[float, Field(ge=1e-6, le=1e6)]
Duration = Annotated[float, Field(gt=0, le=3600)]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Which clips, and how they become codes."""

    path: PathName
    """Folder of the clips."""
    layout: Literal["folder", "ljspeech", "librispeech", "speechcommands"]
    """How the clips lie under `path`; see `audio.layouts`."""
    sample_rate: Annotated[int, Field(ge=1_000, le=768_000)]
    """Rate of the model in samples a second; a clip of another rate is refused, unless `resample`. A lower rate makes
    memory reach further in seconds, and loses high frequencies."""
    quantiser: Literal["mu_law_256", "logistic_16"] = "mu_law_256"
    """256 mu-law codes under a softmax (WaveNet, 1609.03499, section 2.2), or 65,536 linear levels under a mixture of
    logistics (Salimans et al., 1701.05517)."""
    gain: Gain | Literal["peak"] = "peak"
    """Factor on every sample of every split; `peak` brings the largest sample of the train split to 1."""
    resample: bool = False
    """Whether clips of another rate are resampled to `sample_rate`, rather than refused."""
    clip_seconds: Duration | None = None
    """Seconds from which on a recording is cut into clips of equal length, none longer; null keeps it whole."""
    trim_db: Positive | None = None
    """Decibels below a clip's loudest frame under which its beginning and its end are cut; null cuts nothing."""
    words: tuple[Word, ...] = ()
    """Words of the layout speechcommands that are used; empty is all."""
    formats: tuple[Literal["wav", "flac", "ogg"], ...] = ("wav", "flac")
    """Formats of the files that are read, by their ending."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How the clips are shared out, evenly over their order, where the layout itself names no held-out clips."""
    split_by: Literal["clip", "speaker"] = "clip"
    """What is shared out: single clips, or all clips of a speaker together, so that held-out voices are new ones. Their
    path tells the speaker: SPEAKER/NAME, SPEAKER_NAME or SPEAKER-NAME, and Speech Commands' WORD/SPEAKER_nohash_NUMBER.
    """
    strict: bool = False
    """Whether a clip that cannot be used is an error; otherwise it is skipped and named with its reason."""
    download: bool = False
    """Whether training may let torchaudio download a missing data set that it knows."""
    cache: PathName | None = None
    """Folder of the prepared code files; null is reverie/corpora in the user's cache folder."""
    origin: str = ""
    """How to get the clips; part of the error message where they are missing."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """The layers before the core and after it."""

    tie_embeddings: bool = True
    """Whether the softmax of mu_law_256 shares the embedding's matrix (Press & Wolf, 1608.05859)."""
    dropout: Probability = 0.0
    """Probability with which entries of the core's inputs and outputs are dropped; more where the model overfits."""
    mixtures: Annotated[int, Field(ge=1, le=1000)] = 10
    """Logistics in the mixture of logistic_16 (Salimans et al., 1701.05517, section 2.1)."""


@dataclass(frozen=True, config=STRICT)
class AudioSamplesConfig:
    """Clips that the model generates while it trains: continuations of real clips, and clips from nothing."""

    interval: Count
    """Updates between two sets of clips."""
    seconds: Duration = 1.0
    """Seconds that the model generates in each clip."""
    prompt_seconds: Duration = 0.25
    """Seconds of a real clip before its continuation."""
    clips: Annotated[int, Field(ge=1, le=64)] = 2
    """Continuations in a set, and as many clips from nothing."""


@dataclass(frozen=True, config=STRICT)
class AudioTrainConfig(TrainConfig):
    """Training as on text, where a token is a sample, and the clips generated meanwhile."""

    audio_samples: AudioSamplesConfig | None = None
    """Clips generated during training, written to the run folder and to TensorBoard; null generates none."""


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One runnable experiment."""

    data: DataConfig
    """The clips that are learned."""
    core: CoreConfig
    """The memory core of the model."""
    train: AudioTrainConfig
    """How to train, for how long, and how often to write."""
    run: RunConfig
    """The folder that the run writes to."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The layers before the core and after it."""

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        problems = self.train.problems()
        if self.data.words and self.data.layout != "speechcommands":
            problems.append(f"data.words: is for the layout speechcommands alone, data.layout is {self.data.layout}")
        if not self.data.formats:
            problems.append("data.formats: expected at least one of wav, flac, ogg, got an empty list")
        return problems
