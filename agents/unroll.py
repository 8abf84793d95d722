"""The data contract between actors and learner: unrolls of B environments over T steps.

An unroll has T + 1 entries; the last is the first of the next unroll, there to bootstrap from. An entry is what the
policy acts on: an observation, whether it starts an episode, and the action and reward that led to it. The first T
entries carry what the actor then did and got. An entry with `valid` False is no transition: it is the final observation
of an episode that a time limit cut, shown to the policy for its value alone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from agents.config import ExperimentConfig
from agents.policy import Policy
from envs import EpisodeStats, Fault, leaves
from memory_cores import State


@dataclass(frozen=True)
class Unroll:
    """An actor's return value: numpy arrays, which Ray moves without copying them."""

    observation: dict[str, np.ndarray]
    """(B, T + 1, ...) for each leaf of the observation space, by its name."""
    reset: np.ndarray
    """(B, T + 1) bool, True where the entry is the first of an episode."""
    last_action: np.ndarray
    """(B, T + 1, ...)"""
    last_reward: np.ndarray
    """(B, T + 1), as the environment gave it."""
    action: np.ndarray
    """(B, T, ...)"""
    behaviour_log_probs: np.ndarray
    """(B, T), log mu(a | x) under the weights that acted."""
    reward: np.ndarray
    """(B, T), as the environment gave it."""
    terminated: np.ndarray
    """(B, T) bool"""
    valid: np.ndarray
    """(B, T) bool"""
    core_state: dict[str, np.ndarray]
    """State of the core before the first entry, batch-first."""
    version: int
    """Learner updates behind the weights that acted."""
    actor: int
    incarnation: int
    """Restarts of this actor before the unroll."""
    episodes: list[EpisodeStats]
    """Episodes that ended in this unroll."""
    faults: list[Fault]
    """Faults of environments in this unroll."""
    retired_envs: int
    """Rows of the actor that play no more."""
    forgiven: Counter[str]
    """How often something was let pass in this unroll (`env.lenient`), by what it was."""


@dataclass(frozen=True)
class Batch:
    """Unrolls joined along B, as tensors; fields as in `Unroll`."""

    observation: dict[str, Tensor]
    reset: Tensor
    last_action: Tensor
    last_reward: Tensor
    action: Tensor
    behaviour_log_probs: Tensor
    reward: Tensor
    terminated: Tensor
    valid: Tensor
    core_state: State

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""

        def moved(value: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
            if isinstance(value, dict):
                return {name: tensor.to(device) for name, tensor in value.items()}
            return value.to(device)

        return Batch(**{field.name: moved(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]


def unroll_bytes(config: ExperimentConfig, observation_space: gym.Space[Any], policy: Policy) -> int:
    """The size of one unroll of an actor, without its episodes and faults."""
    rows, length = config.agent.envs_per_actor, config.agent.unroll_length
    entry = sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in leaves(observation_space))
    action = 8 * policy.distribution.num_features  # at most: a one-hot choice counts more than its index
    state = sum(tensor.nbytes for tensor in policy.core.initial_state(rows).values())
    return rows * (length + 1) * (entry + 2 * action + 24) + state


def batch(unrolls: list[Unroll]) -> Batch:
    """Join unrolls of one length along the batch dimension; copies, since arrays from Ray are read-only."""

    def join(arrays: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays))

    joined: dict[str, Tensor | dict[str, Tensor]] = {}
    for field in fields(Batch):
        values = [getattr(unroll, field.name) for unroll in unrolls]
        if isinstance(values[0], dict):
            joined[field.name] = {key: join([value[key] for value in values]) for key in values[0]}
        else:
            joined[field.name] = join(values)
    return Batch(**joined)  # type: ignore[arg-type]
