"""Encoders: every space an agent may observe becomes features of the asked width."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

import memory_cores
from agents.encoders import ImageEncoder, Network, ObservationEncoder
from agents.policy import Policy
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


@pytest.mark.parametrize(("network", "millions"), [("shallow", 1.2), ("deep", 1.6)])
def test_impalas_networks_have_the_papers_size(network: Network, millions: float) -> None:
    """Frames of 72 x 96, nine actions, 256 features and an LSTM of 256 (1802.01561, figure 3)."""
    core = memory_cores.build("lstm", d_model=256)
    policy = Policy(LEAVES["large image"], spaces.Discrete(9), core, encoder_width=256, encoder=network)
    count = sum(parameter.numel() for parameter in policy.parameters())
    assert round(count / 1e6, 1) == millions
    convolutions = [module for module in policy.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == {"shallow": 2, "deep": 15}[network]


def plain_deep(x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The paper's figure 3, right, layer by layer."""

    def convolve(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    for section in range(3):
        x = F.max_pool2d(convolve(x, f"{section}.convolution"), 3, stride=2, padding=1)
        for block in range(2):
            inner = convolve(F.relu(x), f"{section}.blocks.{block}.1")
            x = x + convolve(F.relu(inner), f"{section}.blocks.{block}.3")
    return F.relu(x).flatten(1)


@pytest.mark.parametrize("size", [(72, 96), (7, 7), (10, 13)])
def test_the_deep_network_is_the_papers(size: tuple[int, int]) -> None:
    encoder = ImageEncoder(spaces.Box(0, 255, (*size, 3), np.uint8), "deep")
    image = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    expected = plain_deep(image.movedim(-1, 1) / 255, encoder.convolutions.state_dict())
    torch.testing.assert_close(encoder(image), expected)
    halved = [-(-side // 8) for side in size]
    assert encoder.num_features == 32 * halved[0] * halved[1]


def test_auto_is_the_shallow_network_on_large_images() -> None:
    auto, shallow = (ObservationEncoder(LEAVES["large image"], 8, network) for network in ("auto", "shallow"))
    shallow.load_state_dict(auto.state_dict())
    image = {"observation": torch.randint(0, 256, (2, 72, 96, 3), dtype=torch.uint8)}
    torch.testing.assert_close(auto(image), shallow(image))


def test_mlp_sees_images_as_vectors() -> None:
    encoder = ObservationEncoder(LEAVES["small image"], 8, "mlp")
    image = torch.randint(0, 256, (2, 7, 7, 3), dtype=torch.uint8)
    expected = F.relu(encoder.join(image.flatten(1) / 255))
    torch.testing.assert_close(encoder({"observation": image}), expected)


@pytest.mark.parametrize("network", ["auto", "deep"])
def test_stacked_frames_are_channels(network: Network) -> None:
    stacked = ImageEncoder(spaces.Box(0, 255, (4, 84, 80), np.uint8), network)
    last = ImageEncoder(spaces.Box(0, 255, (84, 80, 4), np.uint8), network)
    last.load_state_dict(stacked.state_dict())
    frames = torch.randint(0, 256, (2, 4, 84, 80), dtype=torch.uint8)
    torch.testing.assert_close(stacked(frames), last(frames.movedim(1, -1)))


@pytest.mark.parametrize(
    ("space", "network", "message"),
    [
        (LEAVES["vector"], "deep", "encoder deep: expected an image"),
        (spaces.Dict({"a": LEAVES["discrete"]}), "shallow", "encoder shallow: expected an image"),
        (LEAVES["small image"], "shallow", "at least 20 x 20 pixels, got 7 x 7"),
    ],
)
def test_networks_that_do_not_fit_are_refused(space: gym.Space, network: Network, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObservationEncoder(space, 8, network)
