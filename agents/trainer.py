"""IMPALA as one loop: unrolls from the actors, batches to the learner, weights back."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

import envs
from agents.actor import weights_of
from agents.actor_pool import make_actors
from agents.config import ExperimentConfig
from agents.learner import Learner
from agents.policy import make_policy
from agents.unroll import Unroll, batch
from envs import EpisodeStats

EPISODE_WINDOW = 100
"""Training curves average over this many of the latest episodes."""


class ImpalaTrainer:
    """Trains one policy. `update` is one learner step; `state`, `weights` and `load` make a resume."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.total_steps = config.train.total_steps
        self.step_count = 0
        self.dropped_unrolls = 0
        self.episode_count = 0
        self.episodes: deque[EpisodeStats] = deque(maxlen=EPISODE_WINDOW)
        torch.set_num_threads(config.train.num_threads)
        torch.manual_seed(config.train.seed)
        env = envs.make(config.env.id, config.env.kwargs)
        self.observation_space, self.action_space = env.observation_space, env.action_space
        env.close()  # type: ignore[no-untyped-call]
        policy = make_policy(config, self.observation_space, self.action_space)
        self.learner = Learner(policy, config)
        self.actors = make_actors(config)
        self.published = -1

    @property
    def update_count(self) -> int:
        """Learner updates so far."""
        return self.learner.update_count

    def update(self) -> dict[str, float]:
        """One learner update on the next batch of unrolls; returns metrics by TensorBoard tag, counts as int."""
        if self.published != self.update_count:
            self.actors.publish(weights_of(self.learner.policy), self.update_count)
            self.published = self.update_count
        unrolls = self._gather()
        lags = [self.update_count - unroll.version for unroll in unrolls]
        metrics = self.learner.update(batch(unrolls), self.step_count)
        self.step_count += sum(int(unroll.valid.sum()) for unroll in unrolls)
        for unroll in unrolls:
            self.episode_count += len(unroll.episodes)
            self.episodes.extend(unroll.episodes)
        return (
            metrics
            | self._episode_metrics()
            | {
                "learner/policy_lag_mean": sum(lags) / len(lags),
                "learner/policy_lag_max": float(max(lags)),
                "learner/dropped_unrolls": self.dropped_unrolls,
                "actors/restarts": self.actors.restarts,
            }
        )

    def _gather(self) -> list[Unroll]:
        agent = self.config.agent
        unrolls: list[Unroll] = []
        while len(unrolls) * agent.envs_per_actor < agent.batch_size:
            unroll = self.actors.next_unroll()
            if self.update_count - unroll.version > agent.max_policy_lag:
                self.dropped_unrolls += 1
            else:
                unrolls.append(unroll)
        return unrolls

    def _episode_metrics(self) -> dict[str, float]:
        if not self.episodes:
            return {}
        metrics = {
            "episode/return": sum(e.return_ for e in self.episodes) / len(self.episodes),
            "episode/length": sum(e.length for e in self.episodes) / len(self.episodes),
            "episode/count": self.episode_count,
        }
        successes = [e.success for e in self.episodes if e.success is not None]
        if successes:
            metrics["episode/success"] = sum(successes) / len(successes)
        return metrics

    def weights(self) -> dict[str, Tensor]:
        """The policy's parameters and buffers."""
        return dict(self.learner.policy.state_dict())

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be loaded here."""
        core = self.config.core
        return {
            "path": "rl",
            "env": {"id": self.config.env.id},
            "core": {"name": core.name, "d_model": core.d_model, **core.options},
            "encoder_width": self.config.agent.encoder_width,
            "observation_space": str(self.observation_space),
            "action_space": str(self.action_space),
        }

    def state(self) -> dict[str, Any]:
        """Everything besides the weights that the rest of the run depends on: plain data and tensors."""
        return {
            "learner": self.learner.state(),
            "actors": self.actors.state(),
            "step_count": self.step_count,
            "dropped_unrolls": self.dropped_unrolls,
            "episode_count": self.episode_count,
            "episodes": [asdict(episode) for episode in self.episodes],
            "torch_generator": torch.get_rng_state(),
        }

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> list[str]:
        """Continue from `weights()` and `state()`; returns warnings about what could not be restored exactly."""
        self.learner.policy.load_state_dict(weights)
        self.learner.load(state["learner"])
        self.step_count = state["step_count"]
        self.dropped_unrolls = state["dropped_unrolls"]
        self.episode_count = state["episode_count"]
        self.episodes = deque((EpisodeStats(**e) for e in state["episodes"]), maxlen=EPISODE_WINDOW)
        torch.set_rng_state(state["torch_generator"])
        self.published = -1
        return self.actors.load(state["actors"])

    def close(self) -> None:
        """Stop the actors."""
        self.actors.close()
