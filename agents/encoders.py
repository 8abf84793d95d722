"""Observation encoders: one small network a leaf of the observation space, their outputs joined."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs import Leaf, leaves


class ImageEncoder(nn.Module):
    """Convolutions over (H, W, C) images, scaled to [0, 1] by the bounds of the space.

    From 36 pixels on a side the shallow network of IMPALA (1802.01561, figure 3); below, where its strides would leave
    nothing, two 3x3 layers.
    """

    low: Tensor
    range: Tensor

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        height, width, channels = space.shape
        if min(height, width) >= 36:
            layers = [nn.Conv2d(channels, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()]
        else:
            layers = [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(f"image space {space}: expected finite bounds")
        low, high = float(space.low.min()), float(space.high.max())
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("range", torch.tensor(max(high - low, 1e-8)), persistent=False)
        with torch.no_grad():
            self.num_features = int(self.convolutions(torch.zeros(1, channels, height, width)).shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, H, W, C) -> (N, F)."""
        scaled = (x.to(self.low.dtype) - self.low) / self.range
        features: Tensor = self.convolutions(scaled.movedim(-1, 1))
        return features


class VectorEncoder(nn.Module):
    """Boxes of any other rank: flattened; integers are scaled to [0, 1] by their bounds, reals are taken as they are."""

    low: Tensor
    range: Tensor

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__()
        self.num_features = int(np.prod(space.shape))
        if np.issubdtype(space.dtype, np.floating):
            low, span = np.zeros(self.num_features), np.ones(self.num_features)
        else:
            low = space.low.ravel().astype(np.float64)
            span = np.maximum(space.high.ravel().astype(np.float64) - low, 1.0)
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32), persistent=False)
        self.register_buffer("range", torch.as_tensor(span, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ...) -> (N, F)."""
        return (x.flatten(1).to(self.low.dtype) - self.low) / self.range


class OneHotEncoder(nn.Module):
    """Discrete and MultiDiscrete observations, counted from 0, as one-hot vectors."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_features = sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N,) or (N, number of components) -> (N, F)."""
        components = x.reshape(x.shape[0], -1).unbind(dim=1)
        hot = [F.one_hot(c, n) for c, n in zip(components, self.sizes, strict=True)]
        return torch.cat(hot, dim=-1)


def leaf_encoder(leaf: Leaf) -> ImageEncoder | VectorEncoder | OneHotEncoder:
    """The encoder of one leaf of an observation space."""
    if isinstance(leaf.space, gym.spaces.Box):
        is_image = len(leaf.shape) == 3 and min(leaf.shape[:2]) >= 3
        return ImageEncoder(leaf.space) if is_image else VectorEncoder(leaf.space)
    assert leaf.high is not None
    return OneHotEncoder([int(n) for n in leaf.high.ravel()])


class ObservationEncoder(nn.Module):
    """Every leaf of an observation encoded, joined and mapped to `width` features."""

    def __init__(self, space: gym.Space[Any], width: int) -> None:
        super().__init__()
        self.names = [leaf.name for leaf in leaves(space)]
        encoders = [leaf_encoder(leaf) for leaf in leaves(space)]
        self.leaves = nn.ModuleList(encoders)
        self.join = nn.Linear(sum(encoder.num_features for encoder in encoders), width)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """observation: (N, ...) by the name of the leaf. Returns (N, width)."""
        features = [encoder(observation[name]) for name, encoder in zip(self.names, self.leaves, strict=True)]
        return F.relu(self.join(torch.cat(features, dim=-1).to(self.join.weight.dtype)))
