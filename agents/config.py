"""The typed configuration of a reinforcement-learning experiment: sections env, core, agent, train, run."""

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
Fraction = Annotated[float, Field(ge=0, le=1)]
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$")]


@dataclass(frozen=True, config=STRICT)
class EnvConfig:
    """Which environment: a Gymnasium id (`module:Name-v0` imports the module first) and its keyword arguments, among
    them "wrappers" as `envs.make` takes them."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class CoreConfig:
    """Which memory core, by its name in `memory_cores.names()`, its width and its own options."""

    name: str
    d_model: Size = 128
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class ScheduleConfig:
    """A value that moves from `initial` to `final` over the run, after `warmup_steps` environment steps from zero."""

    initial: NonNegative
    final: NonNegative = 0.0
    shape: Literal["linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0, le=10**12)] = 0


@dataclass(frozen=True, config=STRICT)
class AgentConfig:
    """Actors, learner and loss of IMPALA (Espeholt et al., 1802.01561)."""

    num_actors: Annotated[int, Field(ge=0, le=10_000)] = 2
    """Actor processes; 0 runs the same code in this process, without Ray and bitwise repeatable."""
    min_actors: Annotated[int, Field(ge=1, le=10_000)] = 1
    """The run goes on without actors that were given up, as long as this many are left."""
    num_learners: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes on the learner's machine that share each batch."""
    inference: Literal["actor", "learner"] = "actor"
    """Where the policy acts: in each actor, or in one process for all, to which actors send entries."""
    envs_per_actor: Size = 16
    unroll_length: Size = 64
    """Environment steps in one unroll of one environment."""
    batch_size: Size = 32
    """Unrolls in one learner update; a multiple of envs_per_actor, for each learner."""
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 2
    """Unroll requests outstanding at one actor."""
    max_policy_lag: Annotated[int, Field(ge=0, le=10**6)] = 100
    """Unrolls whose first weights are more than this many updates old are dropped and counted."""
    unroll_deadline: Positive = 120.0
    """Seconds after which an actor that has not returned its unroll is replaced; one of several learners that does not
    answer for as long ends the run."""
    start_deadline: Positive = 120.0
    """Seconds that a process has to start and to build its environments, beyond its first deadline."""
    max_actor_restarts: Annotated[int, Field(ge=0, le=10**6)] = 5
    """Consecutive restarts without an unroll between them, after which an actor is given up."""
    restart_backoff: Positive = 1.0
    """Seconds before the second of such restarts; doubled at each further one, up to 60."""
    max_env_faults: Annotated[int, Field(ge=1, le=10**6)] = 5
    """Faults of one environment without a finished episode between them, after which it is retired."""

    encoder: Literal["auto", "mlp", "shallow", "deep"] = "auto"
    """How images are encoded: IMPALA's shallow or deep network, flat vectors, or what suits their size."""
    encoder_width: Size = 128
    normalize_observations: bool = False
    """To mean 0 and variance 1 over all that was learned from; where most inputs hardly ever change, the few that do
    are lost to a network without it."""
    discount: Fraction = 0.99
    rho_bar: Positive = 1.0
    c_bar: Positive = 1.0
    trace_decay: Fraction = 1.0
    value_cost: NonNegative = 0.5
    entropy_cost: NonNegative | ScheduleConfig = 0.01
    reward_scale: Positive = 1.0
    reward_clip: Positive | None = None
    """Bound on the absolute scaled reward the learner sees."""

    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: NonNegative | ScheduleConfig = 5e-4
    optimizer_eps: Positive = 1e-8
    rmsprop_decay: Fraction = 0.99
    max_grad_norm: Positive = 1.0


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """How long to train, from which seed, and how often to write."""

    total_steps: Count
    """Environment steps of the whole run."""
    seed: Seed = 1
    device: Device = "cpu"
    """Of the learner: cpu, cuda, or cuda:N for one of several. Actors act on the CPU."""
    num_threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of torch in the learner; part of what makes a resume exact."""
    log_interval: Count = 10
    """Learner updates between two rows of metrics."""
    checkpoint_interval: Count = 200
    """Learner updates between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2, le=10_000)] = 3


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """Where the run folder is: `root/name`."""

    name: str
    root: str = "runs"


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One runnable experiment."""

    env: EnvConfig
    core: CoreConfig
    agent: AgentConfig
    train: TrainConfig
    run: RunConfig

    def problems(self) -> list[str]:
        """What is wrong across fields, each message naming the path of the field."""
        found = []
        if self.agent.batch_size % self.agent.envs_per_actor:
            found.append(
                f"agent.batch_size: {self.agent.batch_size} is not a multiple of "
                f"agent.envs_per_actor = {self.agent.envs_per_actor}"
            )
        elif self.agent.batch_size // self.agent.envs_per_actor % self.agent.num_learners:
            found.append(
                f"agent.batch_size: {self.agent.batch_size} is not a multiple of agent.envs_per_actor x "
                f"agent.num_learners = {self.agent.envs_per_actor * self.agent.num_learners}"
            )
        if self.agent.min_actors > max(self.agent.num_actors, 1):
            found.append(
                f"agent.min_actors: {self.agent.min_actors} is above agent.num_actors = {self.agent.num_actors}"
            )
        if self.agent.inference == "learner" and not self.agent.num_actors:
            found.append('agent.inference: "learner" needs actor processes, but agent.num_actors is 0')
        if self.agent.num_learners > 1 and self.train.device != "cpu":
            found.append(
                f"train.device: {self.train.device} is for a single learner, agent.num_learners is "
                f"{self.agent.num_learners}"
            )
        if self.agent.c_bar > self.agent.rho_bar:
            found.append(f"agent.c_bar: {self.agent.c_bar} is above agent.rho_bar = {self.agent.rho_bar}")
        return found
