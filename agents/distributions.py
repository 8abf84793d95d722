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
from envs.actions import action_parts


class ActionDistribution(nn.Module, ABC):
    """Distributions over one action space, given by `parameters` (..., num_parameters), the policy head's output."""

    num_parameters: int
    num_features: int
    """Width of an action as an input of the policy."""
    action_shape: tuple[int, ...]
    """Of one action, as `envs.actions` has it."""
    action_dtype: torch.dtype
    """Of actions, as `envs.actions` has them."""

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
    """Independent softmax distributions: one for a Discrete space, one a component for MultiDiscrete and MultiBinary.

    Actions count from 0, whatever the start of the space.
    """

    action_dtype = torch.int64

    def __init__(self, sizes: list[int], action_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.action_shape = action_shape
        self.num_parameters = self.num_features = sum(sizes)

    def _log_softmaxes(self, parameters: Tensor) -> list[Tensor]:
        return [F.log_softmax(part, dim=-1) for part in torch.split(parameters, self.sizes, dim=-1)]

    def _to_action(self, choices: list[Tensor]) -> Tensor:
        return (
            torch.stack(choices, dim=-1).view(*choices[0].shape, *self.action_shape)
            if self.action_shape
            else choices[0]
        )

    def _to_choices(self, action: Tensor) -> list[Tensor]:
        return list(_flat(action, self.action_shape).unbind(dim=-1)) if self.action_shape else [action]

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


LOG_STD_BOUNDS = (-5.0, 2.0)
"""Twenty e-folds down the density overflows; above the range of the space noise drowns every action."""
LARGEST_BOUND = 1e18
"""Bounds of a Box beyond it, such as the largest float, bound nothing: their square would leave float32."""


class InwardClamp(torch.autograd.Function):
    """x (...) clamped to [low, high]. Beyond them the gradient is kept where descent along it leads back inside.

    A plain clamp has no gradient there: what one step carried too far would never come back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (gradient,), (low, high) = ctx.saved_tensors, gradients, ctx.bounds
        outward = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0), None, None


def centre_and_scale(space: gym.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Where the actions of a Box are drawn around at first, and how far: (F,) each.

    The middle and half of the range where both sides are bounded; else the number nearest to 0 that is one inside the
    bound there is, and 1.

    >>> centre_and_scale(gym.spaces.Box(np.array([-2.0, 10.0]), np.array([4.0, np.inf]), dtype=np.float64))
    (array([ 1., 11.]), array([3., 1.]))
    """
    low, high = (np.asarray(bound, np.float64).ravel() for bound in (space.low, space.high))
    low, high = np.where(low < -LARGEST_BOUND, -np.inf, low), np.where(high > LARGEST_BOUND, np.inf, high)
    bounded = np.isfinite(low) & np.isfinite(high)
    half_range = (np.where(bounded, high, 1.0) - np.where(bounded, low, -1.0)) / 2
    inside = np.minimum(np.maximum(0.0, low + 1.0), high - 1.0)
    return np.where(bounded, np.where(bounded, low, 0.0) + half_range, inside), np.maximum(half_range, 1e-8)


class Gaussian(ActionDistribution):
    """Independent normal distributions over a Box space, in units of its half-range where it is bounded.

    The environment's adapter clips to the bounds; log-probabilities are those of the unclipped draw.
    """

    action_dtype = torch.float32
    centre: Tensor
    scale: Tensor

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self.action_shape = space.shape
        self.num_features = math.prod(space.shape)
        self.num_parameters = 2 * self.num_features
        for name, value in zip(("centre", "scale"), centre_and_scale(space), strict=True):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)

    def _mean_and_log_std(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.chunk(2, dim=-1)
        bounded: Tensor = InwardClamp.apply(log_std, *LOG_STD_BOUNDS)
        return self.centre + self.scale * mean, bounded + self.scale.log()

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_std = self._mean_and_log_std(parameters)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return self._to_action(mean + log_std.exp() * noise)

    def mode(self, parameters: Tensor) -> Tensor:
        return self._to_action(self._mean_and_log_std(parameters)[0])

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        mean, log_std = self._mean_and_log_std(parameters)
        z = (_flat(action, self.action_shape) - mean) / log_std.exp()
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        _, log_std = self._mean_and_log_std(parameters)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def features(self, action: Tensor) -> Tensor:
        return (_flat(action, self.action_shape) - self.centre) / self.scale

    def _to_action(self, flat: Tensor) -> Tensor:
        return flat.view(*flat.shape[:-1], *self.action_shape)


class Joint(ActionDistribution):
    """Independent distributions over the parts of a Dict or Tuple; an action is the numbers of all, (N,) float64."""

    action_dtype = torch.float64

    def __init__(self, parts: list[ActionDistribution]) -> None:
        super().__init__()
        self.parts = parts
        self.registered_parts = nn.ModuleList(parts)  # so that they move with the policy
        self.num_parameters = sum(part.num_parameters for part in parts)
        self.num_features = sum(part.num_features for part in parts)
        self.widths = [math.prod(part.action_shape) for part in parts]
        self.action_shape = (sum(self.widths),)

    def _with_parameters(self, parameters: Tensor) -> list[tuple[ActionDistribution, Tensor]]:
        """Each part with its parameters (..., num_parameters)."""
        split = torch.split(parameters, [part.num_parameters for part in self.parts], dim=-1)
        return list(zip(self.parts, split, strict=True))

    def _to_parts(self, action: Tensor) -> list[Tensor]:
        """(..., N) -> (..., *action shape) of each part."""
        split = zip(self.parts, torch.split(action, self.widths, dim=-1), strict=True)
        return [own.reshape(*own.shape[:-1], *part.action_shape).to(part.action_dtype) for part, own in split]

    def _to_action(self, actions: list[Tensor]) -> Tensor:
        parts = zip(self.parts, actions, strict=True)
        return torch.cat([_flat(action, part.action_shape).double() for part, action in parts], dim=-1)

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        return self._to_action([part.sample(own, generator) for part, own in self._with_parameters(parameters)])

    def mode(self, parameters: Tensor) -> Tensor:
        return self._to_action([part.mode(own) for part, own in self._with_parameters(parameters)])

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        parts = zip(self._with_parameters(parameters), self._to_parts(action), strict=True)
        return torch.stack([part.log_prob(own, taken) for (part, own), taken in parts]).sum(dim=0)

    def entropy(self, parameters: Tensor) -> Tensor:
        return torch.stack([part.entropy(own) for part, own in self._with_parameters(parameters)]).sum(dim=0)

    def features(self, action: Tensor) -> Tensor:
        parts = zip(self.parts, self._to_parts(action), strict=True)
        return join_features([part.features(taken) for part, taken in parts])


def _flat(action: Tensor, action_shape: tuple[int, ...]) -> Tensor:
    """(..., *action_shape) -> (..., F)."""
    return action.reshape(*action.shape[: action.dim() - len(action_shape)], math.prod(action_shape))


def action_distribution(space: gym.Space[Any]) -> ActionDistribution:
    """The distribution over a space of actions that `envs.check_spaces` lets pass; raises ValueError on any other.

    >>> distribution = action_distribution(gym.spaces.MultiDiscrete([3, 2]))
    >>> distribution.num_parameters
    5
    >>> parameters = torch.tensor([[0.0, 0.0, 9.0, 9.0, 0.0]])
    >>> distribution.mode(parameters)
    tensor([[2, 0]])
    >>> distribution.features(distribution.mode(parameters))
    tensor([[0., 0., 1., 1., 0.]])
    """
    match space:
        case gym.spaces.Discrete():
            return Categorical([int(space.n)], ())
        case gym.spaces.MultiDiscrete():
            return Categorical(space.nvec.ravel().tolist(), space.nvec.shape)
        case gym.spaces.MultiBinary():
            return Categorical([2] * math.prod(space.shape), space.shape)
        case gym.spaces.Box() if np.issubdtype(np.dtype(space.dtype), np.floating):
            return Gaussian(space)
        case gym.spaces.Dict() | gym.spaces.Tuple():
            return Joint([action_distribution(part) for part in action_parts(space)])
    expected = "Discrete, MultiDiscrete, MultiBinary, a Box of floats, or Dict or Tuple of these"
    raise ValueError(f"action space {space}: expected {expected}")
