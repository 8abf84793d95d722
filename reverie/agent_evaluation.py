"""Evaluating the agent of a run, by playing episodes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from agents.config import ExperimentConfig
from agents.evaluation import evaluate as play
from reverie.checkpoint import Checkpoint
from training.progress import ProgressLine


def evaluate(
    run: Path,
    checkpoint: Checkpoint,
    config: ExperimentConfig,
    episodes: int,
    seed: int,
    greedy: bool,
    video: Path | None,
    num_envs: int | None,
    max_steps: int,
    as_json: bool,
) -> None:
    """Play episodes with the weights of a checkpoint and print the result, with `as_json` as one JSON object."""
    torch.set_num_threads(config.train.num_threads)
    line = ProgressLine(episodes, 0, unit="episodes")
    try:
        result = play(
            config,
            checkpoint.weights,
            episodes,
            seed,
            greedy,
            video,
            num_envs,
            max_steps,
            progress=lambda finished, steps: line.update(finished, {"steps": steps}),
        )
    finally:
        line.close()
    if as_json:
        print(json.dumps({"run": str(run), "step": checkpoint.step, **dataclasses.asdict(result)}))
        return
    low, high = result.return_interval
    print(f"{run} at step {checkpoint.step:,}, {result.episodes} episodes from seed {result.seed}")
    print(f"  mean return   {result.mean_return:.4g}  (95 % interval {low:.4g} to {high:.4g})")
    if result.success_rate is not None:
        print(f"  success rate  {result.success_rate:.1%}")
    print(f"  mean length   {result.mean_length:.4g} steps")
    if result.cut_episodes:
        print(f"  cut           {result.cut_episodes} of the episodes, after {max_steps:,} steps (--max-steps)")
