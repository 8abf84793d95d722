"""RLlib's own PPO with one of our memory cores on a T-maze, whose cue must be remembered along the corridor.

    python examples/rllib_ppo.py [--core transformer_xl] [--length 20] [--steps 400000] [--seed 1]
        [--env-runners 2]

Prints return and length of episodes against environment steps and seconds, and stops early once the last 100 episodes
earned 0.95 on average (a right choice is worth 1, a wrong one -1).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from agents.cluster import start_ray

OPTIONS: dict[str, dict[str, Any]] = {"transformer_xl": {"num_layers": 2, "memory_length": 32, "block": "trxl_i"}}
"""Core options by core; others take their defaults."""
ENOUGH = 0.95


def make_config(core: str, length: int, seed: int, env_runners: int) -> Any:
    """PPO with sequences of 32 steps; `minibatch_size` counts sequences, each padded to that length."""
    from ray.rllib.algorithms.ppo import PPOConfig

    from agents.rllib import SequenceStates, memory_spec

    spec = memory_spec(core, d_model=64, core_options=OPTIONS.get(core, {}), encoder_width=64, max_seq_len=32)
    return (
        PPOConfig()
        .environment("envs:TMaze-v0", env_config={"length": length})
        .env_runners(num_env_runners=env_runners, num_envs_per_env_runner=16, rollout_fragment_length="auto")
        .rl_module(rl_module_spec=spec)
        .callbacks(SequenceStates)
        .training(
            train_batch_size_per_learner=4096,
            minibatch_size=32,
            num_epochs=4,
            lr=3e-4,
            gamma=0.99,
            lambda_=0.95,
            entropy_coeff=0.003,
            vf_loss_coeff=0.5,
            vf_clip_param=10.0,
            use_kl_loss=False,
            grad_clip=0.5,
        )
        .debugging(seed=seed, log_level="ERROR")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", default="transformer_xl")
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--env-runners", type=int, default=2)
    arguments = parser.parse_args()
    session = start_ray(arguments.env_runners)
    algorithm = make_config(arguments.core, arguments.length, arguments.seed, arguments.env_runners).build_algo()
    start, steps, mean_return = time.monotonic(), 0, float("-inf")
    print(f"{'steps':>9} {'seconds':>8} {'return':>7} {'length':>7}")
    try:
        while steps < arguments.steps and mean_return < ENOUGH:
            result = algorithm.train()["env_runners"]
            steps = int(result["num_env_steps_sampled_lifetime"])
            mean_return = float(result.get("episode_return_mean", float("-inf")))
            length = float(result.get("episode_len_mean", float("nan")))
            print(f"{steps:9,} {time.monotonic() - start:8.1f} {mean_return:7.3f} {length:7.1f}", flush=True)
    finally:
        algorithm.stop()
        session.close()


if __name__ == "__main__":
    main()
