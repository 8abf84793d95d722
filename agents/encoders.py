"""Observation encoders: one small network a leaf of the observation space, their outputs joined."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.features import join_features, one_hot
from agents.image_layout import ImageLayout, image_layout
from agents.moments import RunningMoments
from envs import Leaf, leaves
from envs.text import BUCKETS
from memory_cores.core import SumInPlace
from memory_cores.importing import import_object
from training.errors import InputError

Network = Literal["auto", "mlp", "shallow", "deep"]
"""How images are encoded; other observations are vectors whatever it is."""
WIDEST_IMAGE = 2**16 - 1
"""Span of the bounds by which images are scaled; beyond it bounds hardly tell which values there will be."""
WIDEST_INTEGERS = 1000
"""The same for vectors of integers."""


TEXT_WIDTH = 64
"""Features of a text."""


class ResidualSection(nn.Module):
    """A section of IMPALA's deep network: a 3x3 convolution, a pooling that halves the image, two residual blocks."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, width, H / 2, W / 2), rounded up."""
        x = F.max_pool2d(self.convolution(x), 3, stride=2, padding=1)
        for block in self.blocks:
            x = x + block(x)
        return x


def network_for(network: Network, height: int, width: int) -> Literal["small", "shallow", "deep"]:
    """The network for an image of this size: by "auto" the shallow one from 36 pixels on a side, else a small one.

    Raises InputError where the image is too small for the shallow network's strides.
    """
    if network == "deep":
        return "deep"
    if network == "shallow" and min(height, width) < 20:
        raise InputError(
            f"agent.encoder: shallow: expected images of at least 20 x 20 pixels, got {height} x {width}; "
            f"auto, deep and mlp take them"
        )
    return "shallow" if network == "shallow" or min(height, width) >= 36 else "small"


def image_layers(network: Literal["small", "shallow", "deep"], channels: int) -> list[nn.Module]:
    """The layers of an image network of IMPALA (1802.01561, figure 3), the shallow one with two convolutions or the
    deep one with fifteen, or of two 3x3 convolutions."""
    if network == "deep":
        sizes = (channels, 16, 32, 32)
        sections = [ResidualSection(before, after) for before, after in itertools.pairwise(sizes)]
        return [*sections, nn.ReLU()]
    if network == "shallow":
        return [nn.Conv2d(channels, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()]
    return [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]


class ImageEncoder(nn.Module):
    """Convolutions over images of any `ImageLayout`, scaled to [0, 1] by the bounds of the space where those span no
    more than 16 bits.

    If asked they are then normalised, each pixel by itself.
    """

    low: Tensor
    range: Tensor

    def __init__(
        self, space: gym.spaces.Box, layout: ImageLayout, network: Network = "auto", normalize: bool = False
    ) -> None:
        super().__init__()
        self.layout = layout
        height, width = space.shape[layout.height], space.shape[layout.width]
        channels = math.prod(space.shape[axis] for axis in layout.channels)
        chosen = network_for(network, height, width)
        self.convolutions = nn.Sequential(*image_layers(chosen, channels), nn.Flatten())
        low, high = float(space.low.min()), float(space.high.max())
        self.is_scaled = high - low <= WIDEST_IMAGE
        self.register_buffer("low", torch.tensor(low if self.is_scaled else 0.0), persistent=False)
        self.register_buffer("range", torch.tensor(max(high - low, 1e-8) if self.is_scaled else 1.0), persistent=False)
        self.moments = RunningMoments(space.shape) if normalize else None
        with torch.no_grad():
            self.num_features = int(self.convolutions(torch.zeros(1, channels, height, width)).shape[1])
        self.choice = (
            f"image of {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}, {chosen} network, "
            f"{'scaled by its bounds' if self.is_scaled else 'unscaled'}"
        )

    def inputs(self, x: Tensor) -> Tensor:
        """x (N, ...), as observed, scaled to [0, 1] where that is done."""
        return (x.to(self.low.dtype) - self.low) / self.range if self.is_scaled else x

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, *shape of the space) -> (N, F)."""
        x = self.inputs(x)
        if self.moments is not None:
            x = self.moments(x)
        features: Tensor = self.convolutions(self.layout.to_channels_first(x.to(self.low.dtype)))
        return features


class VectorEncoder(nn.Module):
    """Boxes of any other shape, flattened; integers of up to a thousand values are scaled to [0, 1] by their bounds,
    other numbers taken as they are, and all normalised if asked."""

    low: Tensor
    range: Tensor

    def __init__(self, space: gym.spaces.Box, normalize: bool = False) -> None:
        super().__init__()
        self.num_features = math.prod(space.shape)
        self.moments = RunningMoments((self.num_features,)) if normalize else None
        low, high = (np.asarray(bound, np.float64).ravel() for bound in (space.low, space.high))
        with np.errstate(over="ignore"):
            narrow = (high - low <= WIDEST_INTEGERS) & (not np.issubdtype(space.dtype, np.floating))
        self.is_scaled = bool(narrow.any())
        if self.is_scaled:
            self.register_buffer("low", torch.as_tensor(np.where(narrow, low, 0.0)), persistent=False)
            span = np.where(narrow, np.maximum(high - low, 1.0), 1.0)
            self.register_buffer("range", torch.as_tensor(span), persistent=False)
        scaled = "unscaled" if not self.is_scaled else f"{'' if narrow.all() else 'partly '}scaled by its bounds"
        self.choice = f"vector of {self.num_features}, {scaled}"

    def inputs(self, x: Tensor) -> Tensor:
        """x (N, ...), as observed, as vectors (N, F), scaled where that is done."""
        flat = x.reshape(len(x), self.num_features)
        return (flat.double() - self.low) / self.range if self.is_scaled else flat

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ...) -> (N, F)."""
        vectors = self.inputs(x)
        return (vectors if self.moments is None else self.moments(vectors)).to(torch.float32)


class OneHotEncoder(nn.Module):
    """Discrete and MultiDiscrete observations, counted from 0, as one-hot vectors."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_features = sum(sizes)
        self.choice = f"one-hot vector of {self.num_features}"

    def forward(self, x: Tensor) -> Tensor:
        """x: (N,) or (N, number of components) -> (N, F)."""
        components = x.reshape(x.shape[0], -1).unbind(dim=1)
        return join_features([one_hot(*part) for part in zip(components, self.sizes, strict=True)])


class TextEncoder(nn.Module):
    """A bag of words: each word is a learned vector for each of its hashes and one for its place, added and rectified;
    their sum over the root of how many they are."""

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.hashes = nn.Embedding(BUCKETS, TEXT_WIDTH)
        self.places = nn.Embedding(num_words, TEXT_WIDTH)
        self.num_features = TEXT_WIDTH
        self.choice = f"text of up to {num_words} words, as a bag of hashed words"

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, words, 2), 0 after the last word -> (N, F)."""
        is_word = x[..., :1] > 0
        words = F.relu(self.hashes(x).sum(dim=-2) + self.places.weight) * is_word
        bag: Tensor = words.sum(dim=1) / is_word.sum(dim=1).clamp(min=1).sqrt()
        return bag


def leaf_encoder(
    leaf: Leaf, network: Network, normalize: bool
) -> ImageEncoder | VectorEncoder | OneHotEncoder | TextEncoder:
    """The encoder of one leaf of an observation space; by "mlp" images are vectors as well."""
    if isinstance(leaf.space, gym.spaces.Text):
        return TextEncoder(leaf.shape[0])
    if isinstance(leaf.space, gym.spaces.Box):
        if network != "mlp" and (layout := image_layout(leaf.shape)) is not None:
            return ImageEncoder(leaf.space, layout, network, normalize)
        return VectorEncoder(leaf.space, normalize)
    assert leaf.high is not None
    return OneHotEncoder([int(n) for n in leaf.high.ravel()])


class Encoder(nn.Module, ABC):
    """What a policy reads its observations with. One's own is made as `Class(observation_space, width)`."""

    choices: Sequence[str] = ()
    """How each part of an observation is read, in words."""

    @abstractmethod
    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Features (N, width) of observations (N, ...), by the name of the leaf (`envs.leaves`; "" where there is one
        leaf alone)."""

    @torch.no_grad()
    def update_moments(self, observation: Mapping[str, Tensor], sum_over_learners: SumInPlace | None = None) -> None:
        """Take in observations (N, ...) that were learned from, where the encoder keeps statistics of them."""


class ObservationEncoder(Encoder):
    """Every leaf of an observation encoded, joined and mapped to `width` features.

    Raises InputError on an image network where no leaf is an image, or one that is too small.
    """

    def __init__(self, space: gym.Space[Any], width: int, network: Network = "auto", normalize: bool = False) -> None:
        super().__init__()
        self.names = [leaf.name for leaf in leaves(space)]
        encoders = [leaf_encoder(leaf, network, normalize) for leaf in leaves(space)]
        if network in ("shallow", "deep") and not any(isinstance(encoder, ImageEncoder) for encoder in encoders):
            raise InputError(
                f"agent.encoder: {network}: expected an image in the observation space, (H, W), (H, W, C), "
                f"(C, H, W) or stacked, got {space}"
            )
        self.leaves = nn.ModuleList(encoders)
        self.choices = [f"{leaf.name}: {encoder.choice}" for leaf, encoder in zip(leaves(space), encoders, strict=True)]
        self.join = nn.Linear(sum(encoder.num_features for encoder in encoders), width)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """observation: (N, ...) by the name of the leaf. Returns (N, width)."""
        features = [encoder(observation[name]) for name, encoder in zip(self.names, self.leaves, strict=True)]
        return F.relu(self.join(join_features(features).to(self.join.weight.dtype)))

    @torch.no_grad()
    def update_moments(self, observation: Mapping[str, Tensor], sum_over_learners: SumInPlace | None = None) -> None:
        """Take observations (N, ...) into account where they are normalised; of several learners those of all."""
        for name, encoder in zip(self.names, self.leaves, strict=True):
            if isinstance(encoder, ImageEncoder | VectorEncoder) and encoder.moments is not None:
                encoder.moments.update(encoder.inputs(observation[name]), sum_over_learners)


def make_encoder(space: gym.Space[Any], width: int, encoder: str, normalize: bool = False) -> Encoder:
    """The encoder that a configuration names: one of ours by its network, or `module:Class` of one's own.

    Raises InputError for a class that is none, and as `ObservationEncoder` does.
    """
    if encoder in get_args(Network):
        return ObservationEncoder(space, width, cast(Network, encoder), normalize)
    try:
        found = import_object(encoder)
    except ValueError as error:
        raise InputError(f"agent.encoder: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Encoder)):
        raise InputError(f"agent.encoder: {encoder!r} is {found!r}, expected a subclass of agents.encoders.Encoder")
    made: Encoder = found(space, width)
    return made
