"""The typed configuration of a reinforcement-learning experiment: sections env, core, agent, train, run."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from training.config import (
    STRICT,
    BaseTrainConfig,
    CoreConfig,
    Count,
    Fraction,
    NonNegative,
    Positive,
    RunConfig,
    Size,
    StepScheduleConfig,
)


@dataclass(frozen=True, config=STRICT)
class EnvConfig:
    """The environment that the agent acts in."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    """Gymnasium's id; `module:Name-v0` imports the module first, `module:function` calls what makes an environment.
    `reverie list envs` prints ours."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment; "wrappers" lists Gymnasium's wrappers, or `module:Wrapper` of one's own, as
    `envs.make` takes them."""

    lenient: bool = False
    """Whether a reward that is an array of one number counts as that number, and an observed float that leaves its Box
    by up to a tenth of the bound is clipped to it, both counted as `envs/forgiven`; otherwise they are faults."""

    def wrapper_names(self) -> list[str]:
        """The names of the wrappers, as far as they are well formed."""
        chosen = self.kwargs.get("wrappers", [])
        entries = chosen if isinstance(chosen, list) else [chosen]
        return [str(name) for entry in entries if isinstance(entry, dict) for name in entry]


@dataclass(frozen=True, config=STRICT)
class AgentConfig:
    """Actors, learner and loss of IMPALA (Espeholt et al., 1802.01561)."""

    num_actors: Annotated[int, Field(ge=0, le=10_000)] = 2
    """Actor processes; about one a core of the machine. 0 runs the same code in this process, without Ray and bitwise
    repeatable."""
    min_actors: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Actors below which the run ends, where others were given up."""
    num_learners: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes on the learner's machine that share each batch; more where the learner is what actors wait for."""
    inference: Literal["actor", "learner"] = "actor"
    """Where the policy acts: in each actor, or in one process for all, to which actors send their observations."""
    envs_per_actor: Size = 16
    """Environments that an actor steps together, as the rows of one batch, and that an evaluation does; more make
    better use of a processor."""
    unroll_length: Size = 64
    """Environment steps in one unroll of one environment, through which gradients flow; a multiple of the core's
    period. Longer unrolls teach longer dependencies and make weights older."""
    batch_size: Size = 32
    """Unrolls in one learner update; a multiple of envs_per_actor, for each learner."""
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 2
    """Unroll requests outstanding at one actor; 2 keep it busy while its last unroll is on its way."""
    max_policy_lag: Annotated[int, Field(ge=0, le=10**6)] = 100
    """Learner updates by which an unroll's first weights may be old; older unrolls are dropped and counted."""
    unroll_deadline: Positive = 120.0
    """Seconds after which an actor that has not returned its unroll is replaced, and one of several learners that does
    not answer ends the run; more for slow environments."""
    start_deadline: Positive = 120.0
    """Seconds that a process has to start and to build its environments, beyond its first deadline."""
    max_actor_restarts: Annotated[int, Field(ge=0, le=10**6)] = 5
    """Consecutive restarts without an unroll between them, after which an actor is given up."""
    restart_backoff: Positive = 1.0
    """Seconds before the second of such restarts; doubled at each further one, up to 60."""
    max_env_faults: Annotated[int, Field(ge=1, le=10**6)] = 5
    """Faults of one environment without a finished episode between them, after which it is retired."""

    encoder: Literal["auto", "mlp", "shallow", "deep"] | Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] = "auto"
    """How images are encoded, in colours, grey or stacked: IMPALA's shallow or deep network (its figure 3), as flat
    vectors (mlp), or what suits their size; or `module:Class` of an encoder of one's own, which
    `agents.encoders.Encoder` describes."""
    encoder_width: Size = 128
    """Features F that the encoder makes of an observation."""
    normalize_observations: bool = False
    """Whether inputs are brought to mean 0 and variance 1 over all that was learned from; helps when most inputs are
    nearly constant."""
    discount: Fraction = 0.99
    """Discount gamma of rewards; nearer to 1 for rewards that come late."""
    rho_bar: Positive = 1.0
    """Bound on the importance weights rho of V-trace's targets (section 4.1, eq. 1); a larger one takes the
    values nearer to those of the learning policy, at more variance."""
    c_bar: Positive = 1.0
    """Bound on the weights c that carry later temporal differences back (section 4.1, eq. 1); at most rho_bar. It
    changes the speed of learning, not what is learned."""
    trace_decay: Fraction = 1.0
    """Factor lambda on the weights c (section 4.1, remark 2); below 1 the targets vary less and are more biased."""
    value_cost: NonNegative = 0.5
    """Weight of the value loss, beside the policy loss."""
    entropy_cost: NonNegative | StepScheduleConfig = 0.01
    """Weight of the policy's entropy in nats (section 4.2); more explores more."""
    reward_scale: Positive = 1.0
    """Factor on rewards, as the learner and the policy see them; values near 1 learn best."""
    reward_clip: Positive | None = None
    """Bound on the absolute scaled reward that the learner and the policy see; null is none."""

    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam (Kingma & Ba, 1412.6980), or RMSProp without momentum, as in IMPALA's paper."""
    learning_rate: NonNegative | StepScheduleConfig = 5e-4
    """Step size of the optimizer; the first number to lower where training is unstable."""
    optimizer_eps: Positive = 1e-8
    """Epsilon in the optimizer's denominator; larger damps the steps of parameters with small gradients."""
    rmsprop_decay: Fraction = 0.99
    """Decay of RMSProp's mean of squared gradients, an update."""
    max_grad_norm: Positive = 1.0
    """Norm to which the gradient is clipped."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig(BaseTrainConfig):
    """How long to train, from which seed, and how often to write."""

    total_steps: Count
    """Environment steps of the whole run, over all environments."""
    evaluation_interval: Count | None = None
    """Updates between two evaluations, for curves and for the best checkpoint, on episodes that are never learned from;
    null makes none. They are played in the learner's process, which learns nothing meanwhile and ends if an environment
    ends it."""
    evaluation_episodes: Size = 20
    """Episodes of such an evaluation, the same each time; more tell checkpoints apart better. One without an end is
    cut after 100,000 steps."""


@dataclass(frozen=True, config=STRICT)
class ExperimentConfig:
    """One runnable experiment."""

    env: EnvConfig
    """The environment that the agent acts in."""
    core: CoreConfig
    """The memory core of the policy."""
    agent: AgentConfig
    """Actors, learner and loss."""
    train: TrainConfig
    """How long to train, from which seed, and how often to write."""
    run: RunConfig
    """The folder that the run writes to."""

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
        if self.agent.normalize_observations and ":" in self.agent.encoder:
            found.append(
                f"agent.normalize_observations: is for our encoders; {self.agent.encoder} is to normalise by itself"
            )
        if self.agent.c_bar > self.agent.rho_bar:
            found.append(f"agent.c_bar: {self.agent.c_bar} is above agent.rho_bar = {self.agent.rho_bar}")
        return found
