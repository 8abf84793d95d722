"""Encoders: every space an agent may observe becomes features of the asked width."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

import memory_cores
from agents.encoders import ImageEncoder, Network, ObservationEncoder, TextEncoder
from agents.image_layout import image_layout
from agents.policy import Policy
from envs import EnvVector
from envs.text import hashed_words
from training.errors import InputError

LEAVES = {
    "vector": spaces.Box(-1, 1, (4,)),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "matrix": spaces.Box(-np.inf, np.inf, (3, 2)),
    "small image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "large image": spaces.Box(0, 255, (72, 96, 3), np.uint8),
    "grey image": spaces.Box(0, 255, (84, 84), np.uint8),
    "stacked images": spaces.Box(0, 255, (4, 84, 84, 3), np.uint8),
    "channels first": spaces.Box(0, 255, (3, 32, 32), np.uint8),
    "depth image": spaces.Box(0, 65535, (24, 24, 1), np.uint16),
    "unbounded image": spaces.Box(-np.inf, np.inf, (32, 32, 3)),
    "number": spaces.Box(-1, 1, ()),
    "wide integers": spaces.Box(-(2**31), 2**31 - 1, (3,), np.int32),
    "unsigned": spaces.Box(0, 2**64 - 1, (3,), np.uint64),
    "bits": spaces.MultiBinary(4),
    "planes of bits": spaces.MultiBinary((5, 5, 3)),
    "discrete": spaces.Discrete(5, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 4]),
    "text": spaces.Text(300, charset="abeghlot, "),
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
    space = spaces.Dict({"ok": LEAVES["vector"], "many": spaces.Sequence(LEAVES["vector"])})
    with pytest.raises(ValueError, match=r"many.*Sequence"):
        ObservationEncoder(space, width=8)


def test_the_order_of_words_is_read_and_what_follows_them_is_not() -> None:
    encoder = TextEncoder(num_words=6)
    texts = ("put the red ball by the key", "Put the  red ball by the door", "put the key by the red ball", "", "key")
    features = encoder(torch.stack([torch.from_numpy(hashed_words(text, 6).copy()) for text in texts]))
    assert torch.equal(features[0], features[1]), "the seventh word is beyond the bound"
    assert torch.unique(features[[0, 2, 3, 4]], dim=0).shape[0] == 4
    assert not features[3].any()


@pytest.mark.parametrize(("network", "millions"), [("shallow", 1.2), ("deep", 1.6)])
def test_impalas_networks_have_the_papers_size(network: Network, millions: float) -> None:
    """Frames of 72 x 96, nine actions, 256 features and an LSTM of 256 (1802.01561, figure 3)."""
    core = memory_cores.build("lstm", d_model=256)
    policy = Policy(LEAVES["large image"], spaces.Discrete(9), core, encoder_width=256, encoder=network)
    count = sum(parameter.numel() for parameter in policy.parameters())
    assert round(count / 1e6, 1) == millions
    convolutions = [module for module in policy.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == {"shallow": 2, "deep": 15}[network]


def image_encoder(shape: tuple[int, ...], network: Network = "auto") -> ImageEncoder:
    layout = image_layout(shape)
    assert layout is not None
    return ImageEncoder(spaces.Box(0, 255, shape, np.uint8), layout, network)


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
    encoder = image_encoder((*size, 3), "deep")
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
    stacked, last = image_encoder((4, 84, 80), network), image_encoder((84, 80, 4), network)
    last.load_state_dict(stacked.state_dict())
    frames = torch.randint(0, 256, (2, 4, 84, 80), dtype=torch.uint8)
    torch.testing.assert_close(stacked(frames), last(frames.movedim(1, -1)))


@pytest.mark.parametrize("shape", [(84, 84), (4, 84, 84, 3), (4, 3, 84, 84), (3, 32, 32), (1, 32, 32)], ids=str)
def test_every_layout_is_the_network_of_images_with_channels_last(shape: tuple[int, ...]) -> None:
    order = {2: (0, 1), 3: (1, 2, 0), 4: (1, 2, 0, 3) if shape[-1] == 3 else (2, 3, 0, 1)}[len(shape)]
    side, channels = max(shape), int(np.prod(shape)) // max(shape) ** 2
    encoder, last = image_encoder(shape), image_encoder((side, side, channels))
    last.load_state_dict(encoder.state_dict())
    x = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    plain = x.permute(0, *(1 + axis for axis in order)).reshape(2, side, side, channels)
    torch.testing.assert_close(encoder(x), last(plain))


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((7, 7, 3), (2,)),
        ((7, 7, 20), (2,)),
        ((3, 3, 20), (2,)),
        ((9, 7, 20), (2,)),
        ((4, 4, 3), (2,)),
        ((6, 7, 2), (2,)),
        ((240, 320, 3), (2,)),
        ((240, 320, 12), (2,)),
        ((3, 32, 32), (0,)),
        ((3, 24, 30), (0,)),
        ((1, 28, 28), (0,)),
        ((12, 84, 80), (0,)),
        ((2, 240, 320, 3), (0, 3)),
        ((84, 84), ()),
        ((20, 40), ()),
    ],
    ids=str,
)
def test_channels_are_recognised(shape: tuple[int, ...], channels: tuple[int, ...]) -> None:
    layout = image_layout(shape)
    assert layout is not None
    assert layout.channels == channels


@pytest.mark.parametrize("shape", [(), (5,), (4, 17), (8, 8), (64, 12), (1, 2, 40), (2, 3, 4, 5, 6)], ids=str)
def test_what_is_no_image_is_a_vector(shape: tuple[int, ...]) -> None:
    assert image_layout(shape) is None


def test_grey_frames_take_no_more_weights_than_others() -> None:
    """84 x 84 as a vector would take 903 thousand, four frames with colours 10.8 million."""
    counts = [
        sum(parameter.numel() for parameter in ObservationEncoder(LEAVES[name], 128).parameters())
        for name in ("grey image", "stacked images")
    ]
    assert max(counts) < 360_000


def test_the_choice_is_told() -> None:
    space = spaces.Dict({name: LEAVES[name] for name in ("grey image", "stacked images", "wide integers", "discrete")})
    assert ObservationEncoder(space, 8).choices == [
        "observation['discrete']: one-hot vector of 5",
        "observation['grey image']: image of 84 x 84 pixels, 1 channel, shallow network, scaled by its bounds",
        "observation['stacked images']: image of 84 x 84 pixels, 12 channels, shallow network, scaled by its bounds",
        "observation['wide integers']: vector of 3, unscaled",
    ]


@pytest.mark.parametrize(("low", "high"), [(-(2**31), 2**31 - 1), (0, 10**6), (-(10**6), 3)])
@pytest.mark.parametrize("normalize", [False, True])
def test_wide_bounds_of_integers_do_not_hide_small_numbers(low: int, high: int, normalize: bool) -> None:
    encoder = ObservationEncoder(spaces.Box(low, high, (1,), np.int32), 8, normalize=normalize)
    x = {"observation": torch.tensor([[0], [1]], dtype=torch.int32)}
    encoder.update_moments(x)
    zero, one = encoder.leaves[0](x["observation"])
    assert one - zero >= 1


def test_bounds_of_the_largest_floats_do_not_scale_an_image_to_nothing() -> None:
    largest = np.finfo(np.float64).max
    encoder = ObservationEncoder(spaces.Box(-largest, largest, (7, 7, 1), np.float64), 8)
    x = torch.rand(2, 7, 7, 1, dtype=torch.float64)
    torch.testing.assert_close(encoder.leaves[0].inputs(x), x)
    assert torch.isfinite(encoder({"observation": x})).all()


def test_large_integers_that_differ_by_one_are_normalised_apart() -> None:
    encoder = ObservationEncoder(spaces.Box(-np.inf, np.inf, (1,), np.int64), 8, normalize=True)
    x = {"observation": 10**9 + torch.tensor([[0], [1]])}
    encoder.update_moments(x)
    torch.testing.assert_close(encoder.leaves[0](x["observation"]), torch.tensor([[-1.0], [1.0]]))


@pytest.mark.parametrize(
    ("space", "network", "message"),
    [
        (LEAVES["vector"], "deep", "encoder: deep: expected an image"),
        (spaces.Dict({"a": LEAVES["discrete"]}), "shallow", "encoder: shallow: expected an image"),
        (LEAVES["small image"], "shallow", "at least 20 x 20 pixels, got 7 x 7"),
    ],
)
def test_networks_that_do_not_fit_are_refused(space: gym.Space, network: Network, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ObservationEncoder(space, 8, network)
