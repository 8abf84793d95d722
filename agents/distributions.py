"""Action distributions as functions of the policy head's output, sampled from an explicit generator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.features import join_features, one_hot


class ActionDistribution(nn.Module, ABC):
    """Distributions over one action space, given by `parameters` (..., num_parameters), the policy head's output."""

    num_parameters: int
    num_features: int
    """Width of an action as an input of the policy."""

    @abstractmethod
    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (..., *action shape) drawn from the distributions."""

    @abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """The most likely actions (..., *action shape)."""

    @abstractmethod
    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Log-probability (or density) of the actions, (...)."""

    def sample_with_log_prob(self, parameters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions (..., *action shape) as `sample` draws them, and their `log_prob` (...)."""
        action = self.sample(parameters, generator)
        return action, self.log_prob(parameters, action)

    @abstractmethod
    def entropy(self, parameters: Tensor) -> Tensor:
        """Entropy in nats, (...)."""

    @abstractmethod
    def features(self, action: Tensor) -> Tensor:
        """Actions as policy inputs, (..., num_features)."""


class Categorical(ActionDistribution):
    """Independent softmax distributions: one for a Discrete space, one a component for a MultiDiscrete space.

    Actions count from 0, whatever the start of the space.
    """

    def __init__(self, sizes: list[int], scalar: bool) -> None:
        super().__init__()
        self.sizes = sizes
        self.scalar = scalar
        self.num_parameters = self.num_features = sum(sizes)

    def _log_softmaxes(self, parameters: Tensor) -> list[Tensor]:
        return [F.log_softmax(part, dim=-1) for part in torch.split(parameters, self.sizes, dim=-1)]

    def _to_action(self, choices: list[Tensor]) -> Tensor:
        return choices[0] if self.scalar else torch.stack(choices, dim=-1)

    def _to_choices(self, action: Tensor) -> list[Tensor]:
        return [action] if self.scalar else list(action.unbind(dim=-1))

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        return self.sample_with_log_prob(parameters, generator)[0]

    def sample_with_log_prob(self, parameters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        log_softmaxes = self._log_softmaxes(parameters)
        # argmax p / Exp(1) is a draw from p.
        choices = [
            (log_p.exp() / torch.empty_like(log_p).exponential_(generator=generator)).argmax(dim=-1)
            for log_p in log_softmaxes
        ]
        return self._to_action(choices), self._log_prob(log_softmaxes, choices)

    def mode(self, parameters: Tensor) -> Tensor:
        return self._to_action([part.argmax(dim=-1) for part in torch.split(parameters, self.sizes, dim=-1)])

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        return self._log_prob(self._log_softmaxes(parameters), self._to_choices(action))

    def _log_prob(self, log_softmaxes: list[Tensor], choices: list[Tensor]) -> Tensor:
        parts = zip(log_softmaxes, choices, strict=True)
        return join_features([log_p.gather(-1, choice[..., None]) for log_p, choice in parts]).sum(dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        # exp(-inf) * -inf is NaN where a probability underflows: those terms are zero.
        terms = [-(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=-1) for log_p in self._log_softmaxes(parameters)]
        return torch.stack(terms, dim=-1).sum(dim=-1)

    def features(self, action: Tensor) -> Tensor:
        """One-hot choices."""
        return join_features([one_hot(*part) for part in zip(self._to_choices(action), self.sizes, strict=True)])


class Gaussian(ActionDistribution):
    """Independent normal distributions over a Box space, in units of its half-range where it is bounded.

    The environment's adapter clips to the bounds; log-probabilities are those of the unclipped draw.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self.action_shape = space.shape
        self.num_features = int(np.prod(space.shape))
        self.num_parameters = 2 * self.num_features
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        half_range = np.maximum((high - low) / 2, 1e-8)
        for name, value in (("centre", (high + low) / 2), ("scale", half_range)):
            self.register_buffer(name, torch.as_tensor(value.ravel(), dtype=torch.float32), persistent=False)

    def _mean_and_log_std(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.chunk(2, dim=-1)
        # Twenty e-folds down the density overflows; above the range of the space noise drowns every action.
        return self.centre + self.scale * mean, log_std.clamp(-5.0, 2.0) + self.scale.log()

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_std = self._mean_and_log_std(parameters)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return torch.unflatten(mean + log_std.exp() * noise, -1, self.action_shape)

    def mode(self, parameters: Tensor) -> Tensor:
        return torch.unflatten(self._mean_and_log_std(parameters)[0], -1, self.action_shape)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self._mean_and_log_std(parameters)
        z = (self._flat(action) - mean) / log_std.exp()
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        _, log_std = self._mean_and_log_std(parameters)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def features(self, action: Tensor) -> Tensor:
        return (self._flat(action) - self.centre) / self.scale

    def _flat(self, action: Tensor) -> Tensor:
        return action.flatten(start_dim=action.dim() - len(self.action_shape))


def action_distribution(space: gym.Space[Any]) -> ActionDistribution:
    """The distribution over a Discrete, MultiDiscrete or Box space; raises ValueError on any other.

    >>> distribution = action_distribution(gym.spaces.MultiDiscrete([3, 2]))
    >>> distribution.num_parameters
    5
    >>> parameters = torch.tensor([[0.0, 0.0, 9.0, 9.0, 0.0]])
    >>> distribution.mode(parameters)
    tensor([[2, 0]])
    >>> distribution.features(distribution.mode(parameters))
    tensor([[0., 0., 1., 1., 0.]])
    """
    if isinstance(space, gym.spaces.Discrete):
        return Categorical([int(space.n)], scalar=True)
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return Categorical([int(n) for n in space.nvec], scalar=False)
    if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating) and space.shape:
        return Gaussian(space)
    raise ValueError(f"action space {space}: expected Discrete, one-dimensional MultiDiscrete or a floating Box")
