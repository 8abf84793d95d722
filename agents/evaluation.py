"""Evaluation: a fixed number of whole episodes on seeds that training never sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

import envs
from agents.actor import Acting
from agents.config import ExperimentConfig
from agents.policy import make_policy
from agents.video import FrameRecorder, write_video
from envs import EnvVector, EpisodeStats
from training.weights import load_weights

MAX_ROWS = 32
"""Environments stepped together."""


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
    seed: int


def evaluate(
    config: ExperimentConfig,
    weights: dict[str, Tensor],
    episodes: int = 200,
    seed: int = 0,
    greedy: bool = False,
    video: Path | None = None,
) -> Evaluation:
    """Play `episodes` episodes with the given weights, sampling actions (the most likely ones if `greedy`).

    Each row plays a number of episodes fixed beforehand: taking those that finish first would favour short ones.
    `video` is a .gif or .mp4 file for the first episode. Raises InputError if the weights do not fit the configuration.
    """
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}")
    if video is not None:
        recorder: list[FrameRecorder] = []

        def make_recorded_env() -> gym.Env[Any, Any]:
            recorder.append(FrameRecorder(envs.make(config.env.id, config.env.kwargs, render_mode="rgb_array")))
            return recorder[0]

        play(config, weights, make_recorded_env, episodes=1, seed=seed, greedy=greedy)
        write_video(video, recorder[0].frames, recorder[0].frames_per_second)
    stats = play(
        config, weights, lambda: envs.make(config.env.id, config.env.kwargs), episodes, seed=seed, greedy=greedy
    )
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
        seed=seed,
    )


def play(
    config: ExperimentConfig,
    weights: dict[str, Tensor],
    make_env: Callable[[], gym.Env[Any, Any]],
    episodes: int,
    seed: int,
    greedy: bool,
) -> list[EpisodeStats]:
    """The statistics of `episodes` evaluation episodes."""
    rows = min(episodes, MAX_ROWS)
    quotas = [episodes // rows + (row < episodes % rows) for row in range(rows)]
    vector = EnvVector(make_env, rows, seed=seed, evaluation=True)
    try:
        policy = make_policy(config, vector.observation_space, vector.action_space).eval()
        load_weights(policy, weights)
        with torch.no_grad():
            acting = Acting(policy, rows, seed=seed, greedy=greedy)
            finished: list[EpisodeStats] = []
            while len(finished) < episodes:
                action, _ = acting.act(vector.entry)
                vector.step(action)
                finished += [e for e in vector.pop_episodes() if e.episode < quotas[e.row]]
    finally:
        vector.close()
    return finished
