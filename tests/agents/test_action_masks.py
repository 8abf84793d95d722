"""Masks: actions that are not possible are never chosen, and learned from as such."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import envs
from agents.config import ExperimentConfig
from agents.evaluation import evaluate
from agents.trainer import ImpalaTrainer
from envs.action_mask import ActionMaskFromInfo, mask_leaf
from tests.agents.test_acting_is_learning import check_unroll

MakeConfig = Callable[..., ExperimentConfig]
MASKED = "tests.agents.test_action_masks:Masked"
INFORMED = "tests.agents.test_action_masks:informed"


class Masked(gym.Env[Any, Any]):
    """Random masks over five actions, in the observation or in `info`; an action that is masked raises."""

    action_space = spaces.Discrete(5, start=3)

    def __init__(self, in_info: bool = False) -> None:
        self.in_info = in_info
        parts = {"place": spaces.Box(-9, 9, (2,)), "action_mask": spaces.Box(0, 1, (5,), np.int8)}
        self.observation_space = parts["place"] if in_info else spaces.Dict(parts)

    def observe(self) -> tuple[Any, dict[str, Any]]:
        self.mask = (self.np_random.random(5) < 0.4).astype(np.int8)
        self.mask[self.np_random.integers(5)] = 1
        place = self.np_random.normal(size=2).clip(-9, 9).astype(np.float32)
        if self.in_info:
            return place, {"action_mask": self.mask}
        return {"place": place, "action_mask": self.mask}, {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observe()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.mask[action - 3]:
            raise ValueError("not possible")
        observation, info = self.observe()
        ending = self.np_random.random()
        return observation, float(action), ending < 0.1, 0.1 <= ending < 0.2, info


def informed() -> gym.Env[Any, Any]:
    return ActionMaskFromInfo(Masked(in_info=True))


@pytest.mark.parametrize("env_id", [MASKED, INFORMED])
def test_masked_actions_are_never_chosen(make_config: MakeConfig, env_id: str) -> None:
    config = make_config(env_id, learning_rate=0.01)
    trainer = ImpalaTrainer(config)
    try:
        with torch.no_grad():
            trainer.learner.policy.actor_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        for _ in range(20):
            metrics = trainer.update()
            assert metrics["envs/faults"] == 0
            assert metrics["learner/skipped_updates"] == 0
            assert 0 < metrics["policy/entropy"] < np.log(5)
        trainer.actors.publish({name: w.numpy() for name, w in trainer.weights().items()}, trainer.update_count)
        check_unroll(trainer, trainer.actors.next_unroll())
        for greedy in (False, True):
            assert evaluate(config, trainer.weights(), episodes=20, greedy=greedy).episodes == 20
    finally:
        trainer.close()


def test_a_mask_needs_a_number_for_each_choice() -> None:
    def nest(size: int) -> spaces.Dict:
        return spaces.Dict({"action_mask": spaces.MultiBinary(size)})

    assert mask_leaf(nest(5), spaces.MultiDiscrete([3, 2])) is not None
    assert mask_leaf(nest(4), spaces.MultiBinary(2)) is not None
    assert mask_leaf(nest(5), spaces.Dict(a=spaces.Discrete(3), b=spaces.Tuple((spaces.MultiBinary(1),)))) is not None
    assert mask_leaf(nest(3), spaces.Box(-1, 1, (2,))) is None
    with pytest.raises(envs.EnvError, match="expected choices alone, without a Box"):
        mask_leaf(nest(5), spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (1,))))
    assert mask_leaf(spaces.Dict({"mask": spaces.MultiBinary(3)}), spaces.Discrete(3)) is None
    with pytest.raises(envs.EnvError, match=r"'action_mask'\] has shape \(4,\), expected a number for each of 5"):
        mask_leaf(nest(4), spaces.Discrete(5))


def test_an_info_without_a_mask_is_a_fault() -> None:
    class Silent(Masked):
        def observe(self) -> tuple[Any, dict[str, Any]]:
            return super().observe()[0], {"legal": 1}

    with pytest.raises(envs.EnvFault, match=r"info has no 'action_mask', but \['legal'\]"):
        envs.EnvVector(lambda: ActionMaskFromInfo(Silent(in_info=True)), num_envs=1, seed=0)
