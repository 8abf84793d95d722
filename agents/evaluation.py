"""Evaluation: a fixed number of whole episodes on seeds that training never sees."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

import envs
from agents.actor import Acting, seed_global_generators
from agents.config import ExperimentConfig
from agents.policy import make_policy
from agents.video import FrameRecorder, check_video_path, write_video
from envs import EnvVector, EpisodeStats
from training.weights import load_weights

logger = logging.getLogger(__name__)

MAX_STEPS = 100_000
"""Steps of an evaluation episode that no environment ends, unless asked otherwise."""
CUT = "cut_by_evaluation"
"""Key of the last info of an episode that was cut so."""

Progress = Callable[[int, int], None]
"""Called with the episodes finished and the steps taken."""


@dataclass(frozen=True)
class Evaluation:
    """The returns of a policy over some episodes."""

    mean_return: float
    return_interval: tuple[float, float]
    """95 % confidence interval of the mean return (normal approximation)."""
    success_rate: float | None
    """Fraction of successful episodes; None where the environment does not report success."""
    mean_length: float
    """Mean steps of an episode."""
    episodes: int
    cut_episodes: int
    """Those that did not end within the most steps allowed; their return is that of the steps they had."""
    seed: int


class StepLimit(gym.Wrapper[Any, Any, Any, Any]):
    """Cuts episodes after `max_steps`, and says so in the last info."""

    def __init__(self, env: gym.Env[Any, Any], max_steps: int) -> None:
        super().__init__(env)
        self.max_steps = max_steps
        self.steps = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps >= self.max_steps and not (terminated or truncated):
            return observation, reward, terminated, True, {**info, CUT: True}
        return observation, reward, terminated, truncated, info


def evaluate(
    config: ExperimentConfig,
    weights: dict[str, Tensor],
    episodes: int = 200,
    seed: int = 0,
    greedy: bool = False,
    video: Path | None = None,
    num_envs: int | None = None,
    max_steps: int = MAX_STEPS,
    progress: Progress | None = None,
    advise: bool = True,
) -> Evaluation:
    """Play `episodes` episodes with the given weights, sampling actions (the most likely ones if `greedy`).

    Each row plays a number of episodes fixed beforehand: taking those that finish first would favour short ones.
    `num_envs` rows are played together, as many as an actor's where it is None. An episode is cut after `max_steps`.
    `video` is a .gif or .mp4 file for the first episode; `advise` logs what the user should know of the environment.
    Raises InputError if the weights do not fit the configuration or the video cannot be written, EnvError if the
    environment cannot be drawn.
    """
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}")

    def make_env() -> gym.Env[Any, Any]:
        return StepLimit(envs.make(config.env.id, config.env.kwargs), max_steps)

    if video is not None:
        check_video_path(video)
        recorder: list[FrameRecorder] = []

        def make_recorded_env() -> gym.Env[Any, Any]:
            recorder.append(FrameRecorder(envs.make(config.env.id, config.env.kwargs, render_mode="rgb_array")))
            return StepLimit(recorder[0], max_steps)

        play(config, weights, make_recorded_env, 1, seed, greedy, 1, progress, advise=False)
        write_video(video, recorder[0].frames, recorder[0].frames_per_second)
    rows = num_envs or config.agent.envs_per_actor
    stats = play(config, weights, make_env, episodes, seed, greedy, rows, progress, advise)
    returns = [episode.return_ for episode in stats]
    mean = sum(returns) / episodes
    variance = sum((r - mean) ** 2 for r in returns) / max(episodes - 1, 1)
    half_width = 1.96 * math.sqrt(variance / episodes)
    successes = [episode.success for episode in stats if episode.success is not None]
    return Evaluation(
        mean_return=mean,
        return_interval=(mean - half_width, mean + half_width),
        success_rate=sum(successes) / len(successes) if successes else None,
        mean_length=sum(episode.length for episode in stats) / episodes,
        episodes=episodes,
        cut_episodes=sum(CUT in episode.info for episode in stats),
        seed=seed,
    )


def play(
    config: ExperimentConfig,
    weights: dict[str, Tensor],
    make_env: Callable[[], gym.Env[Any, Any]],
    episodes: int,
    seed: int,
    greedy: bool,
    rows: int,
    progress: Progress | None = None,
    advise: bool = True,
) -> list[EpisodeStats]:
    """The statistics of `episodes` evaluation episodes, at most `rows` of them played together."""
    rows = min(episodes, rows)
    seed_global_generators(seed)
    quotas = [episodes // rows + (row < episodes % rows) for row in range(rows)]
    vector = EnvVector(make_env, rows, seed=seed, evaluation=True, lenient=config.env.lenient)
    for sentence in vector.advice() if advise else ():
        logger.warning("environment %r: %s", config.env.id, sentence)
    try:
        policy = make_policy(config, vector.observation_space, vector.action_space).eval()
        load_weights(policy, weights)
        with torch.no_grad():
            acting = Acting(policy, rows, seed=seed, greedy=greedy)
            finished: list[EpisodeStats] = []
            steps = 0
            while len(finished) < episodes:
                action, _ = acting.act(vector.entry)
                steps += int(vector.step(action).valid.sum())
                finished += [e for e in vector.pop_episodes() if e.episode < quotas[e.row]]
                if progress is not None:
                    progress(len(finished), steps)
        for what, count in vector.pop_forgiven().items() if advise else ():
            logger.warning("let pass %d times (env.lenient): %s", count, what)
    finally:
        vector.close()
    return finished
