"""Encoders: every space an agent may observe becomes features of the asked width."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.encoders import ObservationEncoder
from envs import EnvVector

LEAVES = {
    "vector": spaces.Box(-1, 1, (4,)),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "matrix": spaces.Box(-np.inf, np.inf, (3, 2)),
    "small image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "large image": spaces.Box(0, 255, (72, 96, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 4]),
}
SPACES = LEAVES | {
    "dict": spaces.Dict({"a": LEAVES["vector"], "b": spaces.Dict({"c": LEAVES["discrete"]})}),
    "tuple": spaces.Tuple((LEAVES["small image"], LEAVES["multidiscrete"])),
}


class RandomObservations(gym.Env):
    """Observations drawn from a space."""

    action_space = spaces.Discrete(2)

    def __init__(self, observation_space: gym.Space) -> None:
        self.observation_space = observation_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> tuple:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("name", SPACES)
def test_encodes_what_the_vector_of_environments_observes(name: str) -> None:
    space = SPACES[name]
    vector = EnvVector(lambda: RandomObservations(space), 3, seed=0)
    observation = {path: torch.from_numpy(leaf) for path, leaf in vector.entry.observation.items()}
    encoder = ObservationEncoder(space, width=16)
    features = encoder(observation)
    assert features.shape == (3, 16)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    features.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_image_bytes_are_scaled_by_their_bounds() -> None:
    space = LEAVES["small image"]
    encoder = ObservationEncoder(space, width=8)
    bright = torch.full((1, 7, 7, 3), 255, dtype=torch.uint8)
    unit = ObservationEncoder(spaces.Box(0, 1, (7, 7, 3)), width=8)
    unit.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder({"observation": bright}), unit({"observation": bright / 255}))


def test_a_space_without_an_encoder_is_named() -> None:
    space = spaces.Dict({"ok": LEAVES["vector"], "mission": spaces.Text(9)})
    with pytest.raises(ValueError, match=r"mission.*Text"):
        ObservationEncoder(space, width=8)
