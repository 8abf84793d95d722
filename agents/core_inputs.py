"""Records the inputs of a trained agent's memory core during evaluation episodes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import envs
from agents.actor import Acting
from agents.config import ExperimentConfig
from agents.policy import make_policy
from envs import EnvVector
from memory_cores import MemoryCore
from training.weights import load_weights


@torch.no_grad()
def core_inputs(
    config: ExperimentConfig,
    weights: dict[str, Tensor],
    rows: int,
    steps_for: Callable[[MemoryCore], int],
    seed: int = 0,
) -> tuple[MemoryCore, Tensor, Tensor]:
    """The core, and its inputs x (B, T, D) and reset (B, T) over T = steps_for(core) steps of evaluation episodes.

    B is `rows`, or `agent.envs_per_actor` where that is less.

    Raises InputError if the weights do not fit the configuration.
    """
    rows = min(rows, config.agent.envs_per_actor)
    vector = EnvVector(
        lambda: envs.make(config.env.id, config.env.kwargs),
        rows,
        seed=seed,
        evaluation=True,
        lenient=config.env.lenient,
    )
    try:
        policy = make_policy(config, vector.observation_space, vector.action_space).eval()
        load_weights(policy, weights)
        acting = Acting(policy, rows, seed=seed)
        inputs: list[Tensor] = []
        resets: list[Tensor] = []
        hook = policy.core_input.register_forward_hook(lambda module, arguments, x: inputs.append(x))
        for _ in range(steps_for(policy.core)):
            resets.append(torch.from_numpy(vector.entry.reset.copy()))
            action, _ = acting.act(vector.entry)
            vector.step(action)
        hook.remove()
    finally:
        vector.close()
    return policy.core, torch.stack(inputs, dim=1), torch.stack(resets, dim=1)
