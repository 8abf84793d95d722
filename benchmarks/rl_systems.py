"""The actor-learners that the RL benchmarks compare, each run in a process of its own that tells how far it has come.

Everywhere two worker processes, unrolls of 20 steps, updates on 640 steps, a network of one linear layer of 128 and an
LSTM of 128, Adam at a constant rate and the same discount, entropy cost, scale of rewards and bound on gradients.

RLlib is tuned: the learner in the driver's process, a sampler timeout of 0.05 s, workers at niceness 0, one torch
thread. Sample Factory lives in an environment of its own, since it needs an older Gymnasium:

    python -m venv .peers/sample-factory
    .peers/sample-factory/bin/pip install torch==2.13.0 sample-factory==2.1.1 minigrid==3.2.0
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
NAMES = ("reverie", "rllib", "sample_factory")
SAMPLE_FACTORY = ".peers/sample-factory/bin/python"
WORKERS, UNROLL, BATCH = 2, 20, 640
LEARNING_RATE, DISCOUNT, ENTROPY_COST, MAX_GRAD_NORM = 1e-3, 0.99, 0.01, 0.5
REWARD_SCALE = {"cartpole": 0.05, "minigrid": 1.0}
FIRST_PROGRESS = 120.0
"""Seconds that a process may take to its first step."""
LAST_WORDS = 30.0
"""Seconds that it may take to end when asked."""
MARK = "progress"


class Setting(NamedTuple):
    """What is run."""

    system: str
    task: str
    envs_per_worker: int
    seed: int = 1


class Progress(NamedTuple):
    """How far a process has come."""

    seconds: float
    """By `time.monotonic`."""
    steps: int
    """Environment steps sampled and learned from."""
    mean_return: float
    """Over the latest 100 episodes, unscaled; not a number before there are so many."""


def runnable(systems: Sequence[str], sample_factory: str) -> list[str]:
    """Those of the systems that can be run here; tells of what is left out."""
    if "sample_factory" not in systems or Path(sample_factory).exists():
        return list(systems)
    print(f"sample_factory is left out: there is no {sample_factory}")
    return [system for system in systems if system != "sample_factory"]


def progress(setting: Setting, sample_factory: str, limit: float) -> Iterator[Progress]:
    """Run a system and give its progress as it comes, for `limit` seconds at most; it is ended with the iterator.

    Raises SystemExit with the end of its errors where it gives none.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command(setting, sample_factory, folder),
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        watchdog = threading.Timer(limit + FIRST_PROGRESS, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        heard = 0
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(MARK):
                    seconds, steps, mean_return = line.split()[1:]
                    heard += 1
                    yield Progress(float(seconds), int(steps), float(mean_return))
        finally:
            watchdog.cancel()
            end(process)
        if not heard:
            errors.seek(0)
            sys.exit(f"{setting} exited with {process.returncode} and no progress:\n{errors.read()[-3000:]}")


def command(setting: Setting, sample_factory: str, folder: str) -> list[str]:
    """The command line of a system's process, which may write to `folder`."""
    if setting.system != "sample_factory":
        return [sys.executable, "-m", "benchmarks.rl_systems", json.dumps(setting)]
    driver = Path(folder, "driver.py")
    driver.write_text(SAMPLE_FACTORY_DRIVER)
    return [sample_factory, str(driver), setting.task, MARK, *sample_factory_options(setting, folder)]


def end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and kill it and what it started where it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=LAST_WORDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def tell(steps: int, mean_return: float) -> None:
    """Give the parent process a line of progress."""
    print(MARK, time.monotonic(), steps, mean_return, flush=True)


def run_reverie(setting: Setting) -> None:
    """This project's actors on Ray and its learner, until interrupted."""
    from agents.config import AgentConfig, EnvConfig, ExperimentConfig, TrainConfig
    from agents.trainer import EPISODE_WINDOW, ImpalaTrainer
    from training.config import CoreConfig, RunConfig

    agent = AgentConfig(
        num_actors=WORKERS,
        envs_per_actor=setting.envs_per_worker,
        unroll_length=UNROLL,
        batch_size=BATCH // UNROLL,
        encoder_width=128,
        learning_rate=LEARNING_RATE,
        discount=DISCOUNT,
        entropy_cost=ENTROPY_COST,
        max_grad_norm=MAX_GRAD_NORM,
        reward_scale=REWARD_SCALE[setting.task],
    )
    trainer = ImpalaTrainer(
        ExperimentConfig(
            env=EnvConfig(f"throughput_envs:{setting.task}-v0"),
            core=CoreConfig("lstm", 128),
            agent=agent,
            train=TrainConfig(total_steps=10**9, seed=setting.seed),
            run=RunConfig("benchmark"),
        )
    )
    try:
        while True:
            metrics = trainer.update()
            full = len(trainer.episodes) == EPISODE_WINDOW
            tell(trainer.step_count, metrics["episode/return"] if full else float("nan"))
    finally:
        trainer.close()


def run_rllib(setting: Setting) -> None:
    """RLlib's IMPALA with its own LSTM, until interrupted."""
    import throughput_envs
    import torch
    from gymnasium.wrappers import TransformReward

    from agents.cluster import start_ray

    torch.set_num_threads(1)
    session = start_ray(WORKERS)
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune import register_env

    task, scale = setting.task, REWARD_SCALE[setting.task]
    register_env(task, lambda config: TransformReward(throughput_envs.make(task), lambda reward: reward * scale))
    algorithm = (
        IMPALAConfig()
        .environment(task)
        .env_runners(
            num_env_runners=WORKERS, num_envs_per_env_runner=setting.envs_per_worker, rollout_fragment_length=UNROLL
        )
        .learners(num_learners=0)
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[128], use_lstm=True, lstm_cell_size=128, max_seq_len=UNROLL, head_fcnet_hiddens=[]
            )
        )
        .training(
            train_batch_size_per_learner=BATCH,
            timeout_s_sampler_manager=0.05,
            lr=LEARNING_RATE,
            gamma=DISCOUNT,
            entropy_coeff=ENTROPY_COST,
            grad_clip=MAX_GRAD_NORM,
        )
        .reporting(min_time_s_per_iteration=1, metrics_num_episodes_for_smoothing=100)
        .debugging(log_level="ERROR", seed=setting.seed)
        .build_algo()
    )
    try:
        while True:
            sampled = algorithm.train().get("env_runners", {})
            mean_return = sampled.get("episode_return_mean", float("nan")) / scale
            tell(int(sampled.get("num_env_steps_sampled_lifetime", 0)), mean_return)
    finally:
        algorithm.stop()
        session.close()


def sample_factory_options(setting: Setting, folder: str) -> list[str]:
    """Options of Sample Factory's asynchronous PPO, whose V-trace raises in 2.1.1."""
    options = {
        "algo": "APPO",
        "env": setting.task,
        "experiment": "benchmark",
        "train_dir": folder,
        "device": "cpu",
        "seed": setting.seed,
        "num_workers": WORKERS,
        "num_envs_per_worker": setting.envs_per_worker,
        "rollout": UNROLL,
        "recurrence": UNROLL,
        "batch_size": BATCH,
        "num_batches_per_epoch": 1,
        "num_epochs": 1,
        "use_rnn": True,
        "rnn_type": "lstm",
        "rnn_size": 128,
        "normalize_input": False,
        "normalize_returns": False,
        "learning_rate": LEARNING_RATE,
        "gamma": DISCOUNT,
        "exploration_loss_coeff": ENTROPY_COST,
        "max_grad_norm": MAX_GRAD_NORM,
        "reward_scale": REWARD_SCALE[setting.task],
        "save_every_sec": 10**6,
        "train_for_env_steps": 10**9,
    }
    return [f"--{name}={value}" for name, value in options.items()] + ["--encoder_mlp_layers", "128"]


SAMPLE_FACTORY_DRIVER = """
import statistics, sys, time
import throughput_envs
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

task, mark, *options = sys.argv[1:]


class Teller(AlgoObserver):
    def on_training_step(self, runner, iteration):
        returns = runner.policy_avg_stats.get("reward", [[]])[0]
        mean_return = statistics.fmean(returns) if len(returns) >= 100 else float("nan")
        print(mark, time.monotonic(), runner.total_env_steps_since_resume or 0, mean_return, flush=True)


def make_env(name, cfg, env_config, render_mode=None):
    return throughput_envs.make(name)


def main():
    register_env(task, make_env)
    parser, _ = parse_sf_args(options)
    cfg, runner = make_runner(parse_full_cfg(parser, options))
    runner.register_observer(Teller())
    runner.init()
    runner.run()


if __name__ == "__main__":
    main()
"""


def main() -> None:
    """Run the system that the first argument sets."""
    setting = Setting(*json.loads(sys.argv[1]))
    run = {"reverie": run_reverie, "rllib": run_rllib}[setting.system]
    with contextlib.suppress(KeyboardInterrupt):
        run(setting)


if __name__ == "__main__":
    main()
