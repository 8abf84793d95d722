"""What is a fault unless the vector is lenient, and what is one nevertheless; texts that are not of their space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import envs
from tests.envs.scripted import Drifting


@pytest.mark.parametrize("value", ["a word", 3, None, "Zz", "t" * 10])
def test_a_text_is_one_of_its_space(value: Any) -> None:
    class Speaking(Drifting):
        def observation(self) -> Any:
            return {"mission": value}

    space = spaces.Dict({"mission": spaces.Text(9, charset="aether")})
    with pytest.raises(envs.EnvFault, match=r"observation\['mission'\] is .*, expected a text in Text\(1, 9"):
        envs.EnvVector(lambda: Speaking(space, spaces.Discrete(2)), num_envs=1, seed=0)


def test_a_lenient_vector_lets_slight_excess_pass_and_counts_it() -> None:
    class At(Drifting):
        value: Any = (0.0, 11.0, -1.05)
        reward: Any = np.ones((1, 1))

        def observation(self) -> Any:
            return np.array(self.value, np.float32)

        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, self.reward, *rest

    space = spaces.Box(np.array([0, 0, -1], np.float32), np.array([1, 10, 1], np.float32))
    vector = envs.EnvVector(lambda: At(space, spaces.Discrete(2)), num_envs=2, seed=0, lenient=True)
    np.testing.assert_allclose(vector.entry.observation["observation"], [[0, 10, -1]] * 2, atol=2e-4)
    vector.pop_forgiven()
    assert vector.step(np.array([0, 0])).reward.tolist() == [1, 1]
    forgiven = {"a reward is an array of one number": 2, "observation is slightly out of bounds": 1}
    assert vector.pop_forgiven() == forgiven
    assert vector.pop_forgiven() == {}
    for value, reward, message in (
        ((0.0, 11.1, 0.0), 1.0, r"has 11\.1"),
        ((np.nan, 11.0, 0.0), 1.0, "has nan"),
        ((0.0, 0.0, 0.0), np.ones(2), "reward is array"),
    ):
        At.value, At.reward = value, reward
        with pytest.raises(envs.EnvFault, match=message):
            vector.step(np.array([0, 0]))
