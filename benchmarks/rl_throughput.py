"""Environment steps a second, sampled and learned from: this project, RLlib's IMPALA and Sample Factory.

    python benchmarks/rl_throughput.py [--seconds 60] [--rounds 3] [--sample-factory PYTHON] [--systems NAME ...]

Everywhere two worker processes of 8 and of 32 environments, unrolls of 20 steps, updates on 640 steps, a network of one
linear layer of 128 and an LSTM of 128 without velocities (CartPole) or on the flat view (MiniGrid-MemoryS7), learning
on. Rounds are interleaved, so that what else the machine does meets every system alike; each measurement is a process
of its own that counts steps over `--seconds` after a warm-up. A system's figure is the median of its rounds at the
better of its two numbers of environments.

RLlib is tuned: the learner in the driver's process, a sampler timeout of 0.05 s, workers at niceness 0, one torch
thread. Sample Factory lives in an environment of its own, since it needs an older Gymnasium:

    python -m venv .peers/sample-factory
    .peers/sample-factory/bin/pip install torch==2.13.0 sample-factory==2.1.1 minigrid==3.2.0

and is left out where `--sample-factory` names no interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import throughput_envs  # noqa: E402

SYSTEMS = ("reverie", "rllib", "sample_factory")
ENVS = (8, 32)
WORKERS, UNROLL, BATCH = 2, 20, 640
WARM_UP = 10.0
PATIENCE = 240.0
"""Seconds beyond the measured ones that a process may take to start and to end."""
RESULT = "steps/s: "

SAMPLE_FACTORY_DRIVER = """
import sys, time
import throughput_envs
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

task, warm_up, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])


class Counter(AlgoObserver):
    began = None

    def on_training_step(self, runner, iteration):
        now, steps = time.monotonic(), runner.total_env_steps_since_resume or 0
        if self.began is None:
            if steps:
                self.began = now
        elif now - self.began < warm_up:
            self.first = (now, steps)
        elif now - self.first[0] < seconds:
            self.last = (now, steps)
        else:
            runner.cfg.train_for_env_steps = 0  # its limit of seconds does not end it


def make_env(name, cfg, env_config, render_mode=None):
    return throughput_envs.make(name)


def main():
    register_env(task, make_env)
    parser, _ = parse_sf_args(sys.argv[4:])
    cfg, runner = make_runner(parse_full_cfg(parser, sys.argv[4:]))
    counter = Counter()
    runner.register_observer(counter)
    runner.init()
    runner.run()
    (start, before), (end, after) = counter.first, counter.last
    print("steps/s: ", (after - before) / (end - start), flush=True)


if __name__ == "__main__":
    main()
"""


def rate(step: Callable[[], int], seconds: float) -> float:
    """Steps a second of a loop whose `step` returns the steps so far, after the warm-up."""
    while step() == 0:
        pass
    warm = time.monotonic() + WARM_UP
    while time.monotonic() < warm:
        step()
    start, before = time.monotonic(), step()
    while time.monotonic() - start < seconds:
        after = step()
    return (after - before) / (time.monotonic() - start)


def measure_reverie(task: str, envs_per_worker: int, seconds: float) -> float:
    """This project's actors on Ray and its learner."""
    from agents.config import AgentConfig, CoreConfig, EnvConfig, ExperimentConfig, RunConfig, TrainConfig
    from agents.trainer import ImpalaTrainer

    agent = AgentConfig(
        num_actors=WORKERS,
        envs_per_actor=envs_per_worker,
        unroll_length=UNROLL,
        batch_size=BATCH // UNROLL,
        encoder_width=128,
    )
    trainer = ImpalaTrainer(
        ExperimentConfig(
            env=EnvConfig(f"throughput_envs:{task}-v0"),
            core=CoreConfig("lstm", 128),
            agent=agent,
            train=TrainConfig(total_steps=10**9),
            run=RunConfig("throughput"),
        )
    )

    def step() -> int:
        trainer.update()
        return trainer.step_count

    try:
        return rate(step, seconds)
    finally:
        trainer.close()


def measure_rllib(task: str, envs_per_worker: int, seconds: float) -> float:
    """RLlib's IMPALA with its own LSTM."""
    import torch

    from agents.cluster import start_ray

    torch.set_num_threads(1)
    ray = start_ray(WORKERS)
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune import register_env

    register_env(task, lambda config: throughput_envs.make(task))
    algorithm = (
        IMPALAConfig()
        .environment(task)
        .env_runners(num_env_runners=WORKERS, num_envs_per_env_runner=envs_per_worker, rollout_fragment_length=UNROLL)
        .learners(num_learners=0)
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[128], use_lstm=True, lstm_cell_size=128, max_seq_len=UNROLL, head_fcnet_hiddens=[]
            )
        )
        .training(train_batch_size_per_learner=BATCH, timeout_s_sampler_manager=0.05)
        .reporting(min_time_s_per_iteration=1)
        .debugging(log_level="ERROR")
        .build_algo()
    )

    def step() -> int:
        return int(algorithm.train().get("env_runners", {}).get("num_env_steps_sampled_lifetime", 0))

    try:
        return rate(step, seconds)
    finally:
        algorithm.stop()
        ray.shutdown()


def measure_sample_factory(task: str, envs_per_worker: int, seconds: float, interpreter: str) -> float:
    """Sample Factory's asynchronous PPO, by a driver that its own interpreter runs; its V-trace raises in 2.1.1."""
    with tempfile.TemporaryDirectory() as folder:
        driver = Path(folder, "driver.py")
        driver.write_text(SAMPLE_FACTORY_DRIVER)
        options = {
            "algo": "APPO",
            "env": task,
            "experiment": "throughput",
            "train_dir": folder,
            "device": "cpu",
            "num_workers": WORKERS,
            "num_envs_per_worker": envs_per_worker,
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
            "save_every_sec": 10**6,
        }
        command = [interpreter, str(driver), task, str(WARM_UP), str(seconds)]
        command += [f"--{name}={value}" for name, value in options.items()] + ["--encoder_mlp_layers", "128"]
        return reported(command, {"PYTHONPATH": str(HERE)}, limit=PATIENCE + 3 * seconds)


def reported(command: list[str], variables: dict[str, str], limit: float) -> float:
    """The rate that a process prints, with one thread of torch; exits with the end of its errors if it prints none.

    A process that hangs ends after `limit` seconds, with those it started.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        errors += f"\nended after {limit:.0f} s"
    lines = [line for line in output.splitlines() if line.startswith(RESULT)]
    if not lines:
        sys.exit(f"{' '.join(command)} exited with {process.returncode} and no result:\n{errors[-3000:]}")
    return float(lines[-1].removeprefix(RESULT))


def measured(system: str, task: str, envs_per_worker: int, arguments: argparse.Namespace) -> float:
    """One measurement in a process of its own."""
    if system == "sample_factory":
        return measure_sample_factory(task, envs_per_worker, arguments.seconds, arguments.sample_factory)
    what = json.dumps([system, task, envs_per_worker])
    command = [sys.executable, __file__, "--measure", what, "--seconds", str(arguments.seconds)]
    return reported(command, {}, limit=PATIENCE + 3 * arguments.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--tasks", nargs="+", choices=throughput_envs.TASKS, default=throughput_envs.TASKS)
    parser.add_argument("--envs", nargs="+", type=int, default=ENVS)
    parser.add_argument("--sample-factory", metavar="PYTHON", default=".peers/sample-factory/bin/python")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        system, task, envs_per_worker = json.loads(arguments.measure)
        measure: Any = {"reverie": measure_reverie, "rllib": measure_rllib}[system]
        print(RESULT, measure(task, envs_per_worker, arguments.seconds), flush=True)
        return

    systems = [s for s in arguments.systems if s != "sample_factory" or Path(arguments.sample_factory).exists()]
    for system in set(arguments.systems) - set(systems):
        print(f"{system} is left out: there is no {arguments.sample_factory}")
    rates: dict[tuple[str, str, int], list[float]] = {}
    for number in range(arguments.rounds):
        for task in arguments.tasks:
            for envs_per_worker in arguments.envs:
                for system in systems:
                    value = measured(system, task, envs_per_worker, arguments)
                    rates.setdefault((task, system, envs_per_worker), []).append(value)
                    print(
                        f"round {number + 1}  {task:9} {envs_per_worker:3} envs  {system:15} {value:9,.0f}", flush=True
                    )
    print(f"\n{'task':9} {'system':15} {'envs':>4} {'median':>9} {'lowest':>9} {'highest':>9} {'ours / it':>9}")
    for task in arguments.tasks:
        best = {
            system: max((statistics.median(rates[task, system, n]), n) for n in arguments.envs) for system in systems
        }
        for system, (median, n) in best.items():
            values = rates[task, system, n]
            ratio = f"{best['reverie'][0] / median:9.2f}" if "reverie" in best else ""
            print(f"{task:9} {system:15} {n:4} {median:9,.0f} {min(values):9,.0f} {max(values):9,.0f} {ratio}")


if __name__ == "__main__":
    main()
