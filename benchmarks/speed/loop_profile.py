"""Where the actor-learner's time goes: CPU time of each part, per environment step, in one process.

    python -m benchmarks.speed.loop_profile [--envs 8 32] [--unrolls 60]

The net of the throughput comparisons: Linear 128 and LSTM 128, unrolls of 20 steps, CartPole without its velocities.
CPU time, unlike steps a second, does not depend on what else runs on the machine. With actors and learner on cores of
their own the slower of the two decides: 1e6 / (actor) for each actor, 1e6 / (learner) for the learner.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents.actor import Actor, copy_weights
from agents.config import AgentConfig, EnvConfig, ExperimentConfig, TrainConfig
from agents.learner import Learner
from agents.policy import make_policy
from agents.unroll import batch
from benchmarks.command_line import make_parser
from training.config import CoreConfig, RunConfig

UNROLL = 20
MASKED = "MaskedCartPole-profile-v0"


class Masked(gym.ObservationWrapper[np.ndarray, int, np.ndarray]):
    """CartPole's position and angle alone."""

    def __init__(self, env: gym.Env[np.ndarray, int]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[::2], space.high[::2])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2]


def make_masked() -> gym.Env[Any, Any]:
    """CartPole of at most 500 steps, its velocities hidden."""
    return Masked(gym.make("CartPole-v1", disable_env_checker=True).unwrapped)


def microseconds(work: Callable[[], Any], steps: int, repeats: int) -> float:
    """CPU time of one step, where one call of `work` makes `steps` of them."""
    work()
    begun = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - begun) / (steps * repeats) * 1e6


def profile(envs: int, unrolls: int) -> dict[str, float]:
    """CPU microseconds an environment step of each part."""
    config = ExperimentConfig(
        EnvConfig(MASKED),
        CoreConfig("lstm", 128),
        AgentConfig(num_actors=0, envs_per_actor=envs, batch_size=envs * 2, unroll_length=UNROLL, encoder_width=128),
        TrainConfig(10**9),
        RunConfig("profile"),
    )
    actor = Actor(config, index=0)
    policy = make_policy(config, actor.envs.observation_space, actor.envs.action_space)
    learner = Learner(policy, config)
    weights = copy_weights(policy)
    version = 0

    def act() -> None:
        nonlocal version
        version += 1
        collected.append(actor.unroll(weights, version))

    collected: list[Any] = []
    steps = envs * UNROLL
    parts = {"actor": microseconds(act, steps, unrolls)}
    actions = np.random.default_rng(0).integers(0, 2, (UNROLL, envs))
    parts["  of it environments"] = microseconds(lambda: [actor.envs.step(row) for row in actions], steps, unrolls)
    entry, acting = actor.envs.entry, actor.acting
    parts["  of it policy"] = microseconds(lambda: [acting.act(entry) for _ in range(UNROLL)], steps, unrolls)
    pair = collected[-2:]
    parts["pickling and back"] = microseconds(lambda: pickle.loads(pickle.dumps(pair[0], 5)), steps, unrolls)
    parts["learner"] = microseconds(lambda: learner.update(batch(pair), 0), 2 * steps, unrolls)
    parts["  of it batch"] = microseconds(lambda: batch(pair), 2 * steps, unrolls)
    actor.close()
    return parts


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--envs", type=int, nargs="+", default=[8, 32], help="environments of one actor")
    parser.add_argument("--unrolls", type=int, default=60, help="repetitions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    gym.register(MASKED, entry_point=make_masked, max_episode_steps=500, order_enforce=False, disable_env_checker=True)
    columns = {envs: profile(envs, arguments.unrolls) for envs in arguments.envs}
    print("CPU us an environment step".ljust(28) + "".join(f"{envs:>8} envs" for envs in columns))
    for part in next(iter(columns.values())):
        print(part.ljust(28) + "".join(f"{column[part]:>13.2f}" for column in columns.values()))


if __name__ == "__main__":
    main()
