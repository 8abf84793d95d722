"""The policy: observation encoder, last action and reward -> memory core -> action distribution and value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

import memory_cores
from agents.config import ExperimentConfig
from agents.distributions import action_distribution
from agents.encoders import ObservationEncoder, make_encoder
from envs.action_mask import mask_leaf
from memory_cores import CoreOutput, MemoryCore, State
from memory_cores.layers.initialisation import fan_in_normal_

IMPOSSIBLE = -1e9
"""The logit of a choice that is not possible: finite, so that entropies and gradients are."""


class PolicyOutput(NamedTuple):
    """Action distributions and values at T entries."""

    action_parameters: Tensor
    """(B, T, num_parameters), for `policy.distribution`."""
    values: Tensor
    """(B, T)"""
    core: CoreOutput


def scale_reward(reward: Tensor, scale: float, clip: float | None) -> Tensor:
    """The reward (...) that the learner and the policy see: scaled, then bounded.

    >>> scale_reward(torch.tensor([1.0, -50.0]), scale=0.1, clip=1.0)
    tensor([ 0.1000, -1.0000])
    """
    scaled = reward * scale
    return scaled if clip is None else scaled.clamp(-clip, clip)


class Policy(nn.Module):
    """Actor and critic over one memory core."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        core: MemoryCore,
        encoder_width: int = 128,
        reward_scale: float = 1.0,
        reward_clip: float | None = None,
        encoder: str = "auto",
        normalize_observations: bool = False,
    ) -> None:
        super().__init__()
        self.reward_scale = reward_scale
        self.reward_clip = reward_clip
        self.distribution = action_distribution(action_space)
        self.encoder = make_encoder(observation_space, encoder_width, encoder, normalize_observations)
        self.core_input = nn.Linear(encoder_width + self.distribution.num_features + 1, core.d_model)
        self.core = core
        mask = mask_leaf(observation_space, action_space)
        self.mask_name = None if mask is None else mask.name
        self.actor_head = nn.Linear(core.d_model, self.distribution.num_parameters)
        self.value_head = nn.Linear(core.d_model, 1)
        # Cores are initialised for unit inputs; weaker ones drown in a recurrent core's own dynamics.
        own = [self.encoder.join] if isinstance(self.encoder, ObservationEncoder) else []
        for layer in (*own, self.core_input):
            fan_in_normal_(layer, gain=math.sqrt(2))
        # A near-uniform first policy: exploration is not decided by the initial weights.
        nn.init.orthogonal_(self.actor_head.weight, gain=0.01)
        nn.init.zeros_(self.actor_head.bias)
        nn.init.zeros_(self.value_head.bias)

    def embed(self, observation: Mapping[str, Tensor], last_action: Tensor, last_reward: Tensor) -> Tensor:
        """Core inputs (N, D) of N entries: observation leaves (N, ...), last_action (N, ...), last_reward (N,)."""
        features = self.encoder(dict(observation))
        action = self.distribution.features(last_action)
        reward = scale_reward(last_reward, self.reward_scale, self.reward_clip)
        joined = torch.cat([features, action.to(features.dtype), reward[:, None].to(features.dtype)], dim=-1)
        core_input: Tensor = self.core_input(joined)
        return core_input

    def action_parameters(self, y: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Parameters (..., P) of `distribution` for core outputs y (..., D) on observation leaves (..., *shape).

        Choices that the observation's "action_mask" says are not possible get probability 0; all 0 limits nothing.
        """
        parameters: Tensor = self.actor_head(y)
        if self.mask_name is None:
            return parameters
        possible = observation[self.mask_name].reshape(parameters.shape) != 0
        return parameters.masked_fill(~possible, IMPOSSIBLE)

    def forward(
        self,
        observation: Mapping[str, Tensor],
        last_action: Tensor,
        last_reward: Tensor,
        reset: Tensor,
        core_state: State,
    ) -> PolicyOutput:
        """B rows of T entries at once: leaves (B, T, ...), last_action (B, T, ...), last_reward and reset (B, T)."""
        rows, length = reset.shape
        flat = {name: leaf.flatten(0, 1) for name, leaf in observation.items()}
        x = self.embed(flat, last_action.flatten(0, 1), last_reward.flatten())
        core = self.core(x.view(rows, length, -1), core_state, reset)
        parameters = self.action_parameters(core.y, observation)
        return PolicyOutput(parameters, self.value_head(core.y).squeeze(-1), core)


def make_policy(config: ExperimentConfig, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> Policy:
    """The policy an experiment describes, with freshly drawn weights (torch's global generator)."""
    core = memory_cores.build(config.core.name, d_model=config.core.d_model, **config.core.options)
    agent = config.agent
    return Policy(
        observation_space,
        action_space,
        core,
        agent.encoder_width,
        agent.reward_scale,
        agent.reward_clip,
        agent.encoder,
        agent.normalize_observations,
    )
