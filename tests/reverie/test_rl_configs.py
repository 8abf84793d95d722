"""Every shipped configuration of an agent: it loads, and its policy acts in its environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import envs
from agents.actor import Acting
from agents.config import ExperimentConfig
from agents.policy import make_policy
from envs.make import EXTRAS
from reverie.experiment import load_experiment
from reverie.shipped_configs import find_config, shipped_configs


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("rl/")])
def test_a_shipped_configuration_acts(name: str) -> None:
    config = load_experiment(find_config(name))
    assert isinstance(config, ExperimentConfig)
    assert config.run.name == Path(name).stem
    for prefix, (extra, module) in EXTRAS.items():
        if config.env.id.startswith(prefix):
            pytest.importorskip(module, reason=f"needs reverie[{extra}]", exc_type=ImportError)
    vector = envs.EnvVector(lambda: envs.make(config.env.id, config.env.kwargs), num_envs=2, seed=0)
    policy = make_policy(config, vector.observation_space, vector.action_space)
    acting = Acting(policy.eval(), batch_size=2, seed=0)
    for _ in range(3):
        action, log_probs = acting.act(vector.entry)
        assert torch.isfinite(torch.from_numpy(log_probs)).all()
        vector.step(action)
    assert config.agent.unroll_length % policy.core.period == 0
