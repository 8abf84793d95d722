"""Memory cores inside RLlib: a stateful RLModule for RLlib's own PPO, APPO and IMPALA (new API stack).

    spec = memory_spec("transformer_xl", core_options={"memory_length": 32}, max_seq_len=32)
    config = PPOConfig().environment("envs:TMaze-v0").rl_module(rl_module_spec=spec).callbacks(SequenceStates)

RLlib keeps the STATE_OUT of every step and sends it to the learner, which reads it only where a sequence starts. Here
the memory stays on the env runner, in one stream over its environments, and STATE_OUT is a `Place`: which step of
which row of the stream. The callback `SequenceStates` puts the state itself only into the places a sequence can start
from, one in `max_seq_len` steps and the last of each sample.

Of the three algorithms PPO values the end of a sample by what may follow. IMPALA and APPO of Ray 2.60 run V-trace over
the artificial step that carries this value, where it cancels out: to them the end of a sample is the end of an episode.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
    TorchMultiCategorical,
)
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

import memory_cores
from agents.encoders import Network, ObservationEncoder
from envs import leaves
from memory_cores import MemoryCore, State, Stream

PLACE = "place"
"""The only entry of RLlib's state."""
PHASE = "memory_phase"
"""Column of the phase at which each step was taken, for cores with a period."""

_stream_ids = itertools.count()


class Place:
    """Where one row of a stream stood after a step; holds that row's state only where a sequence may start.

    A plain object, which RLlib passes on as it is, in arrays of dtype object.
    """

    __slots__ = ("phase", "row", "state", "step", "stream")

    def __init__(self, stream: int, step: int, row: int, phase: int, state: dict[str, NDArray[Any]] | None) -> None:
        self.stream, self.step, self.row, self.phase, self.state = stream, step, row, phase, state

    @property
    def is_start(self) -> bool:
        """Whether nothing has been seen yet."""
        return self.step == 0


START = Place(stream=-1, step=0, row=0, phase=0, state=None)


def memory_spec(
    core: str = "transformer_xl",
    *,
    d_model: int = 64,
    core_options: dict[str, Any] | None = None,
    encoder: Network = "auto",
    encoder_width: int = 128,
    max_seq_len: int = 32,
    state_every_step: bool = False,
) -> RLModuleSpec:
    """The RLModule of a core from `memory_cores.names()` for `AlgorithmConfig.rl_module(rl_module_spec=...)`.

    max_seq_len: steps of a training sequence, through which gradients flow; memory reaches further back. Unless
    `state_every_step`, which sends the whole memory with each step and is needed for multi-agent environments alone,
    the algorithm's callbacks must include `SequenceStates`. Raises ValueError on a core or option that does not fit.
    """
    options = dict(core_options or {})
    memory_cores.build(core, d_model=d_model, **options)
    for name, value in (("encoder_width", encoder_width), ("max_seq_len", max_seq_len)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    return RLModuleSpec(
        module_class=MemoryModule,
        model_config={
            "core": core,
            "d_model": d_model,
            "core_options": options,
            "encoder": encoder,
            "encoder_width": encoder_width,
            "max_seq_len": max_seq_len,
            "state_every_step": state_every_step,
        },
    )


class PolicyNetwork(nn.Module):
    """Encoder -> memory core -> action parameters."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        num_parameters: int,
        core: MemoryCore,
        encoder: Network,
        encoder_width: int,
    ) -> None:
        super().__init__()
        self.leaves = leaves(observation_space)
        texts = [leaf.name for leaf in self.leaves if isinstance(leaf.space, gym.spaces.Text)]
        if texts:
            raise ValueError(f"{', '.join(texts)}: RLlib's batches hold no text; a wrapper makes numbers of it")
        self.encoder = ObservationEncoder(observation_space, encoder_width, encoder)
        self.core_input = nn.Linear(encoder_width, core.d_model)
        self.core = core
        self.actor_head = nn.Linear(core.d_model, num_parameters)
        nn.init.orthogonal_(self.actor_head.weight, gain=0.01)
        nn.init.zeros_(self.actor_head.bias)

    def embed(self, observation: Any) -> Tensor:
        """A nest of leaves (B, T, ...) as RLlib batches it -> core inputs (B, T, D)."""
        flat = {}
        for leaf in self.leaves:
            part = observation
            for key in leaf.path:
                part = part[key]
            rows, steps = part.shape[:2]
            if leaf.start is not None:  # padding is zero, also where the space counts from more
                part = (part - torch.as_tensor(leaf.start, device=part.device)).clamp(min=0)
            flat[leaf.name] = (part.long() if leaf.high is not None else part).flatten(0, 1)
        x: Tensor = self.core_input(self.encoder(flat))
        return x.view(rows, steps, -1)

    def remember(self, x: Tensor, places: Sequence[Place], phases: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Core outputs (B, T, D) and losses of sequences x (B, T, D) that start from `places` (B,).

        phases: (B,), the phase of the first step, where the core has a period. Rows of one phase go through the core
        together.
        """
        if phases is None:
            return self._remember_one_phase(x, places, 0)
        start = phases.tolist()
        phase_of = [int(first) if place.is_start else place.phase for place, first in zip(places, start, strict=True)]
        y = x.new_empty(x.shape)
        losses: dict[str, Tensor] = {}
        for phase in sorted(set(phase_of)):
            rows = [row for row, other in enumerate(phase_of) if other == phase]
            part, part_losses = self._remember_one_phase(x[rows], [places[row] for row in rows], phase)
            y[rows] = part.to(y.dtype)
            for name, loss in part_losses.items():
                losses[name] = losses.get(name, 0.0) + loss * (len(rows) / len(places))
        return y, losses

    def _remember_one_phase(self, x: Tensor, places: Sequence[Place], phase: int) -> tuple[Tensor, dict[str, Tensor]]:
        fresh = torch.tensor([place.is_start for place in places], device=x.device)
        reset = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        # A stream's episode may start at any phase: there, a reset in its first step forgets what led to the phase.
        reset[:, 0] = fresh & (phase > 0)
        output = self.core(x, stack_states(self.core, places, phase), reset)
        return output.y, output.losses


def stack_states(core: MemoryCore, places: Sequence[Place], phase: int) -> State:
    """The states at `places` as one batch on the core's device; a fresh state of that phase at a stream's start."""
    device = next(core.parameters()).device
    initial = core.initial_state(1)
    if phase:
        with torch.no_grad():
            initial = core(torch.zeros(1, phase, core.d_model, device=device), initial).state
    start = {name: tensor[0].cpu().numpy() for name, tensor in initial.items()}
    states = [start if place.is_start else place.state for place in places]
    kept = [state for state in states if state is not None]
    if len(kept) < len(states):
        raise ValueError(
            "a sequence starts where no state was kept: add agents.rllib.SequenceStates to the algorithm's callbacks, "
            "or build the module with state_every_step=True"
        )
    return {name: torch.from_numpy(np.stack([state[name] for state in kept])).to(device) for name in start}


def places_array(places: list[Place]) -> NDArray[Any]:
    """(B,) of dtype object."""
    array = np.empty(len(places), dtype=object)
    array[:] = places
    return array


class CoreLosses(torch.autograd.Function):
    """The identity on y that adds the core's scalar loss, with weight 1, to the backward pass."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, loss: Tensor) -> Tensor:
        ctx.loss_dtype, ctx.device = loss.dtype, loss.device
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones((), dtype=ctx.loss_dtype, device=ctx.device)


class RunnerStream:
    """The memory of an env runner: one stream over its environments, whose rows are named by places."""

    def __init__(self, network: PolicyNetwork) -> None:
        self.network = network
        self.core = network.core
        self.parameters = list(network.core.parameters())
        self.batch_size = self.phase = self.steps = 0
        self.id = -1
        self.versions: list[int] = []
        """Versions of the parameters, which torch counts up at every change."""
        self.state: State = {}
        """State of the stream after the last step, once asked for."""

    def step(self, x: Tensor, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """x (B, D), places (B,) as the last step left them -> y (B, D) and the phases (B,) of this step."""
        if not all(self.is_here(row, place) for row, place in enumerate(places)) or len(places) != self.batch_size:
            self.begin(places)
        versions = [parameter._version for parameter in self.parameters]
        if versions != self.versions:
            self.stream.refresh()
            self.versions = versions
        phase = self.phase
        y = self.stream.step(x, torch.tensor([place.is_start for place in places], device=x.device))
        self.state = {}
        self.steps += 1
        self.phase = (phase + 1) % self.core.period
        return y, torch.full((len(places),), phase)

    def is_here(self, row: int, place: Place) -> bool:
        """Whether the stream's row stands at the place, or the place is a start, which any row can make."""
        return place.is_start or (place.stream == self.id and place.step == self.steps and place.row == row)

    def begin(self, places: Sequence[Place]) -> None:
        """A stream that stands at `places`."""
        phases = {place.phase for place in places if not place.is_start}
        if len(phases) > 1:
            raise ValueError(f"memories at phases {sorted(phases)} of a period of {self.core.period} in one batch")
        phase = phases.pop() if phases else 0
        state = stack_states(self.core, places, phase)
        self.id = next(_stream_ids)
        self.steps = 1  # no place of a stream is at step 0, which is a start
        self.phase = phase
        self.batch_size = len(places)
        self.stream: Stream = self.core.stream(self.batch_size)
        self.stream.load(state)
        self.versions = [parameter._version for parameter in self.parameters]

    def places(self, with_state: bool) -> list[Place]:
        """Where the rows stand now."""
        places = [Place(self.id, self.steps, row, self.phase, None) for row in range(self.batch_size)]
        if with_state:
            self.keep(places)
        return places

    def keep(self, places: Sequence[Place]) -> None:
        """Put the state into each of `places` at which the stream stands."""
        for place in places:
            if place.state is None and not place.is_start and self.is_here(place.row, place):
                if not self.state:
                    self.state = self.stream.state()
                place.state = {name: tensor[place.row].cpu().numpy().copy() for name, tensor in self.state.items()}


class MemoryModule(TorchRLModule, ValueFunctionAPI, TargetNetworkAPI, InferenceOnlyAPI):
    """A memory core with an observation encoder, a policy head and a value head; made by `memory_spec`.

    Observations: Box, Discrete, MultiDiscrete and Dict and Tuple of them; actions: Discrete, MultiDiscrete, Box. Last
    actions and rewards become inputs by RLlib's env-to-module connector `PrevActionsPrevRewards`.
    Padded steps stand at the ends of sequences, where a causal core keeps them from all others. The losses of a core,
    which RLlib's learners do not know, are trained with weight 1 beside theirs.
    To act without RLlib's env runner, start with STATE_IN {"place": np.array([START] * rows)} and pass on STATE_OUT.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    model_config: dict[str, Any]
    target_network: PolicyNetwork

    def setup(self) -> None:
        options = self.model_config
        self.action_dist_cls, num_parameters = action_distribution(self.action_space)
        core = memory_cores.build(options["core"], d_model=options["d_model"], **options["core_options"])
        self.network = PolicyNetwork(
            self.observation_space, num_parameters, core, options["encoder"], options["encoder_width"]
        )
        self.value_head = nn.Linear(core.d_model, 1)
        nn.init.zeros_(self.value_head.bias)
        self.runner_stream = RunnerStream(self.network)

    def get_initial_state(self) -> dict[str, Any]:
        return {PLACE: START}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """One step of every environment: leaves (B, 1, ...) and STATE_IN (B,)."""
        x = self.network.embed(batch[Columns.OBS])
        y, phases = self.runner_stream.step(x[:, 0], batch[Columns.STATE_IN][PLACE])
        places = self.runner_stream.places(with_state=self.model_config["state_every_step"])
        output = {
            Columns.ACTION_DIST_INPUTS: self.network.actor_head(y)[:, None],
            Columns.STATE_OUT: {PLACE: places_array(places)},
        }
        return output if self.network.core.period == 1 else output | {PHASE: phases[:, None]}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Sequences: leaves (B, T, ...) and STATE_IN (B,)."""
        if torch.is_grad_enabled():
            # RLlib's learners do not say when they updated the weights: before the next pass they have.
            self.network.core.after_update()
        y, losses = self._remember(self.network, batch)
        if losses and torch.is_grad_enabled():
            y = CoreLosses.apply(y, torch.stack(list(losses.values())).sum())
        return {Columns.ACTION_DIST_INPUTS: self.network.actor_head(y), Columns.EMBEDDINGS: y}

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """(B, T)"""
        y = self._remember(self.network, batch)[0] if embeddings is None else embeddings
        values: Tensor = self.value_head(y).squeeze(-1)
        return values

    def make_target_networks(self) -> None:
        self.target_network = make_target_network(self.network)  # type: ignore[assignment]

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.network, self.target_network)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        y, _ = self._remember(self.target_network, batch)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target_network.actor_head(y)}

    def get_non_inference_attributes(self) -> list[str]:
        return ["value_head", "target_network"]

    def _remember(self, network: PolicyNetwork, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        phases = batch[PHASE][:, 0] if network.core.period > 1 else None
        return network.remember(network.embed(batch[Columns.OBS]), batch[Columns.STATE_IN][PLACE], phases)


class SequenceStates(RLlibCallback):
    """Keeps the states from which the learner's sequences start; for single-agent environments."""

    def on_episode_step(  # type: ignore[override]
        self, *, episode: Any, rl_module: Any, **kwargs: Any
    ) -> None:
        if len(episode) % rl_module.model_config["max_seq_len"] == 0:
            rl_module.runner_stream.keep([episode.get_extra_model_outputs(Columns.STATE_OUT, -1)[PLACE]])

    def on_sample_end(  # type: ignore[override]
        self, *, env_runner: Any, samples: list[Any], **kwargs: Any
    ) -> None:
        lasts = [
            episode.get_extra_model_outputs(Columns.STATE_OUT, -1)[PLACE]
            for episode in samples
            if not episode.is_done and Columns.STATE_OUT in episode.extra_model_outputs
        ]
        env_runner.module.runner_stream.keep(lasts)


def action_distribution(space: gym.Space[Any]) -> tuple[Any, int]:
    """RLlib's distribution over an action space and the number of its parameters; ValueError on any other space."""
    match space:
        case gym.spaces.Discrete():
            return TorchCategorical, TorchCategorical.required_input_dim(space)
        case gym.spaces.MultiDiscrete():
            sizes = [int(n) for n in space.nvec]
            family: Any = TorchMultiCategorical
            return family.get_partial_dist_cls(space=space, input_lens=sizes), sum(sizes)
        case gym.spaces.Box():
            return TorchDiagGaussian, TorchDiagGaussian.required_input_dim(space)
    raise ValueError(f"action space {space}: expected Discrete, MultiDiscrete or Box")
