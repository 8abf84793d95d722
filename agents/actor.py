"""The actor: steps a vector of environments with a stream of the policy and returns unrolls."""

from __future__ import annotations

import random
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import envs
from agents.config import ExperimentConfig
from agents.policy import Policy, make_policy
from agents.unroll import Unroll
from envs import Entry, EnvVector

Weights = dict[str, np.ndarray]


def copy_weights(policy: Policy) -> Weights:
    """A copy of the policy's parameters and buffers by name, as numpy arrays for Ray's object store."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in policy.state_dict().items()}


def overwrite_weights(policy: Policy, weights: Weights) -> None:
    """Overwrite the policy's parameters and buffers in place, on the CPU; `weights` may be read-only."""
    for name, tensor in policy.state_dict().items():
        np.copyto(tensor.numpy(), weights[name])


class Acting:
    """The policy stepped over entries, with its memory and its own random numbers."""

    version = -1
    core_state: dict[str, np.ndarray]
    """State of the core at the last `begin`."""

    def __init__(self, policy: Policy, batch_size: int, seed: int, greedy: bool = False) -> None:
        self.policy = policy
        self.stream = policy.core.stream(batch_size)
        self.generator = torch.Generator().manual_seed(seed)
        self.greedy = greedy

    def begin(self, weights: Weights, version: int) -> None:
        """Start an unroll, with these weights."""
        if version != self.version:
            overwrite_weights(self.policy, weights)
            self.stream.refresh()
            self.version = version
        self.core_state = {name: tensor.numpy() for name, tensor in self.stream.state().items()}

    @torch.inference_mode()
    def act(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B, ...) on the entries of B rows, and their log-probabilities (B,)."""
        observation = {name: torch.from_numpy(leaf) for name, leaf in entry.observation.items()}
        x = self.policy.embed(observation, torch.from_numpy(entry.last_action), torch.from_numpy(entry.last_reward))
        y = self.stream.step(x, torch.from_numpy(entry.reset))
        parameters = self.policy.action_parameters(y, observation)
        distribution = self.policy.distribution
        if self.greedy:
            action = distribution.mode(parameters)
            return action.numpy(), distribution.log_prob(parameters, action).numpy()
        action, log_probs = distribution.sample_with_log_prob(parameters, self.generator)
        return action.numpy(), log_probs.numpy()


class ActsOnEntries(Protocol):
    """Chooses an actor's actions: `Acting` here, or `agents.inference.RemoteActing`."""

    version: int
    core_state: dict[str, np.ndarray]

    def begin(self, weights: Weights, version: int) -> None:
        """Start an unroll."""

    def act(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """Actions (B, ...) and their log-probabilities (B,)."""


def first_row(config: ExperimentConfig, index: int, incarnation: int, past_rows: int) -> int:
    """The number, over the whole run, of an actor's first environment; it decides the seeds of the episodes.

    Each incarnation has numbers of its own, above the `past_rows` that were given out before the number of actors or
    of their environments was changed.
    """
    agent = config.agent
    return past_rows + (incarnation * max(agent.num_actors, 1) + index) * agent.envs_per_actor


def acting_seed(config: ExperimentConfig, index: int, incarnation: int) -> int:
    """The seed of an actor's actions."""
    return int(np.random.SeedSequence([config.train.seed, index, incarnation]).generate_state(1)[0])


def seed_global_generators(seed: int) -> None:
    """Seed Python's and numpy's global random numbers, which some environments draw from besides their own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


class Actor:
    """A vector of environments and a copy of the policy; a process on Ray, or called directly (`num_actors: 0`)."""

    def __init__(
        self,
        config: ExperimentConfig,
        index: int,
        incarnation: int = 0,
        past_rows: int = 0,
        acting: ActsOnEntries | None = None,
    ) -> None:
        """`index` and `incarnation` make the actor's seeds its own: a restarted actor plays new episodes.

        `past_rows` is as in `first_row`.
        """
        self.index = index
        self.incarnation = incarnation
        self.unroll_length = config.agent.unroll_length
        seed_global_generators(acting_seed(config, index, incarnation))
        rows = config.agent.envs_per_actor
        self.envs = EnvVector(
            lambda: envs.make(config.env.id, config.env.kwargs),
            rows,
            seed=config.train.seed,
            first_row=first_row(config, index, incarnation, past_rows),
            max_faults=config.agent.max_env_faults,
            lenient=config.env.lenient,
        )
        if acting is None:
            policy = make_policy(config, self.envs.observation_space, self.envs.action_space)
            acting = Acting(policy.eval(), rows, acting_seed(config, index, incarnation))
        self.acting = acting

    def unroll(self, weights: Weights, version: int) -> Unroll:
        """Act for `unroll_length` steps with the given weights."""
        self.acting.begin(weights, version)
        entries, steps, transitions = [self.envs.entry], [], []
        for _ in range(self.unroll_length):
            action, log_probs = self.acting.act(self.envs.entry)
            transitions.append(self.envs.step(action))
            steps.append((action, log_probs))
            entries.append(self.envs.entry)

        def over_time(arrays: list[np.ndarray]) -> np.ndarray:
            return np.stack(arrays, axis=1)

        return Unroll(
            observation={
                name: over_time([entry.observation[name] for entry in entries]) for name in self.envs.entry.observation
            },
            reset=over_time([entry.reset for entry in entries]),
            last_action=over_time([entry.last_action for entry in entries]),
            last_reward=over_time([entry.last_reward for entry in entries]),
            action=over_time([action for action, _ in steps]),
            behaviour_log_probs=over_time([log_probs for _, log_probs in steps]),
            reward=over_time([transition.reward for transition in transitions]),
            terminated=over_time([transition.terminated for transition in transitions]),
            valid=over_time([transition.valid for transition in transitions]),
            core_state=self.acting.core_state,
            version=self.acting.version,
            actor=self.index,
            incarnation=self.incarnation,
            episodes=self.envs.pop_episodes(),
            faults=self.envs.pop_faults(),
            retired_envs=self.envs.num_retired,
            forgiven=self.envs.pop_forgiven(),
        )

    def state(self) -> dict[str, Any]:
        """Everything that the next unroll depends on besides the weights: plain data and tensors."""
        assert isinstance(self.acting, Acting)
        return {
            "envs": self.envs.state(),
            "core": self.acting.stream.state(),
            "generator": self.acting.generator.get_state(),
        }

    def load(self, state: dict[str, Any]) -> list[str]:
        """Continue from `state()`; returns a warning for each environment that could not be brought back exactly."""
        assert isinstance(self.acting, Acting)
        core_state: dict[str, Tensor] = state["core"]
        self.acting.stream.load(core_state)
        self.acting.generator.set_state(state["generator"])
        rows = self.envs.load(state["envs"])
        self.acting.version = -1
        return [
            f"environment row {row} did not replay to its saved observation: it starts a new episode" for row in rows
        ]

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()
