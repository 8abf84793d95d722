"""Environments that misbehave towards the process they run in."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from tests.agents.scripted_envs import RandomEpisodes


class OneIsBad(RandomEpisodes):
    """The first process to reset one of these writes its name into `folder` and is well; all others are `bad`."""

    def __init__(self, folder: str, bad: str) -> None:
        self.folder, self.bad = Path(folder), bad

    @property
    def is_well(self) -> bool:
        try:
            with (self.folder / "well").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return (self.folder / "well").read_text() in ("", str(os.getpid()))
        return True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if self.bad == "raise" and not self.is_well:
            raise RuntimeError("no maze today")
        return super().reset(seed=seed)

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.bad == "slow" and not self.is_well:
            time.sleep(0.05)
        return super().step(action)


class Rude(RandomEpisodes):
    """Does what no environment should, all of `how`, at its third step; its child's pid goes to `folder`."""

    def __init__(self, folder: str, how: str) -> None:
        self.folder, self.how = Path(folder), how
        self.steps = 0

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 3:
            for deed in self.how.split(", "):
                getattr(self, deed)()
        return super().step(action)

    def first_time(self) -> bool:
        try:
            (self.folder / "done").open("x").close()
        except FileExistsError:
            return False
        return True

    def exits(self) -> None:
        if self.first_time():
            os._exit(3)

    def starts_a_child(self) -> None:
        if self.first_time():
            child = subprocess.Popen(["sleep", "600"])
            (self.folder / "child").write_text(str(child.pid))

    def meddles(self) -> None:
        os.write(1, b"shouting\n" * 1_000_000)
        print("shouting through Python", flush=True)
        os.chdir("/")
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)

    def hoards(self) -> None:
        if self.first_time():
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
            self.hoard = np.ones(2**30, np.uint8)


class Wide(RandomEpisodes):
    """An observation of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (size,), np.uint8)

    def _observe(self) -> np.ndarray:
        return np.zeros(self.observation_space.shape, np.uint8)


def make_empty() -> gym.Env[Any, Any]:
    """An environment that shows nothing."""
    env = RandomEpisodes()
    env.observation_space = gym.spaces.Box(0, 1, (0,))
    return env


TASKS = {"OneIsBad-v0": OneIsBad, "Rude-v0": Rude, "Wide-v0": Wide}
for name, entry_point in TASKS.items():
    if name not in gym.registry:
        gym.register(name, entry_point=entry_point, disable_env_checker=True, order_enforce=False)
