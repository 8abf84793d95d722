"""The parts that every experiment's configuration is made of: bounded numbers, and the sections that paths share."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=10**12)]
CountOrZero = Annotated[int, Field(ge=0, le=10**12)]
Size = Annotated[int, Field(ge=1, le=2**20)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]


@dataclass(frozen=True, config=STRICT)
class CoreConfig:
    """The memory core of a policy or a model."""

    name: str
    """A name that `reverie list cores` prints."""
    d_model: Size = 128
    """Width D of the core's inputs and outputs; wider learns more, at a cost that grows with its square."""
    options: dict[str, Any] = field(default_factory=dict)
    """The core's own options; in YAML they stand beside `name`. `reverie list cores` prints them."""


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """The folder that a run writes to: `root/name`."""

    name: str
    """Name of the run's folder: 1 to 100 letters, digits, and . _ -; a run of its own needs a name of its own."""
    root: str = "runs"
    """Folder that holds the runs; relative to where the program is started."""


@dataclass(frozen=True, config=STRICT)
class ScheduleConfig:
    """A value that rises from zero to `initial` during a warm-up, then moves to `final` at the end of the run."""

    initial: NonNegative
    """The value after the warm-up, in the unit of the field that the schedule stands for."""
    final: NonNegative = 0.0
    """The value at the end of the run."""
    shape: Literal["linear", "cosine"] = "linear"
    """Path from `initial` to `final`: a straight line, or half a period of a cosine (Loshchilov & Hutter,
    1608.03983, eq. 5), which stays longer near both."""


@dataclass(frozen=True, config=STRICT)
class StepScheduleConfig(ScheduleConfig):
    """A schedule over the environment steps of a run."""

    warmup_steps: CountOrZero = 0
    """Environment steps of the warm-up; a warm-up helps where the first updates are too large."""


@dataclass(frozen=True, config=STRICT)
class TokenScheduleConfig(ScheduleConfig):
    """A schedule over the tokens of a run."""

    warmup_tokens: CountOrZero = 0
    """Tokens (samples, of audio) of the warm-up; deep attention cores that normalise last diverge without one."""


@dataclass(frozen=True, config=STRICT)
class AccumulationConfig:
    """Gradient accumulation that grows once (Rae et al., 1911.05507, section 5.5.1)."""

    final: Size
    """Segments in an update from `switch_tokens` on; the paper multiplies them by 4 late in training."""
    switch_tokens: Count
    """Tokens (samples, of audio) of the run before the switch; the paper switches at 60,000 updates."""
    initial: Size = 1
    """Segments in an update before the switch."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BaseTrainConfig:
    """The fields of section `train` that do not depend on what is learned."""

    seed: Seed = 1
    """Seed of the first weights and of everything that is drawn in training; other seeds show the spread of results."""
    device: Device = "cpu"
    """Where the model learns: cpu, cuda, or cuda:N for one of several. An agent's actors act on the CPU."""
    num_threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of torch in the process that learns; a resume is exact only with the same number."""
    log_interval: Count = 10
    """Updates between two rows of metrics."""
    checkpoint_interval: Count = 200
    """Updates between two checkpoints; a crash loses at most so many."""
    keep_checkpoints: Annotated[int, Field(ge=2, le=10_000)] = 3
    """Newest checkpoints that are kept; older ones are deleted, but for the best on held-out data."""
