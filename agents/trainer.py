"""IMPALA as one loop: unrolls from the actors, batches to the learner, weights back."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from agents.actor import copy_weights
from agents.actor_source import make_actors
from agents.config import ExperimentConfig
from agents.held_out import held_out_episodes
from agents.learner import Learner
from agents.learners import Learners
from agents.unroll import Unroll, unroll_bytes
from envs import EpisodeStats, Fault
from training.restoring import count_in
from training.weights import weights_of

logger = logging.getLogger(__name__)


def identity(config: ExperimentConfig) -> dict[str, Any]:
    """What the configuration alone says of an agent's weights: a checkpoint's fingerprint has it too."""
    core, agent = config.core, config.agent
    return {
        "path": "rl",
        "env": {"id": config.env.id, "kwargs": config.env.kwargs},
        "core": {"name": core.name, "d_model": core.d_model, **core.options},
        "encoder": agent.encoder,
        "encoder_width": agent.encoder_width,
        "normalize_observations": agent.normalize_observations,
    }


EPISODE_WINDOW = 100
"""Training curves average over this many of the latest episodes."""


class ImpalaTrainer:
    """Trains one policy. `update` is one learner step; `state`, `weights` and `load` make a resume."""

    def __init__(self, config: ExperimentConfig, address: str | None = None) -> None:
        """`address` is that of a Ray cluster; None keeps to this machine."""
        self.config = config
        self.total_steps = config.train.total_steps
        self.step_count = 0
        self.dropped_unrolls = 0
        self.episode_count = 0
        self.env_faults = 0
        self.forgiven: Counter[str] = Counter()
        self.retired_envs: dict[int, int] = {}
        self.episodes: deque[EpisodeStats] = deque(maxlen=EPISODE_WINDOW)
        torch.set_num_threads(config.train.num_threads)
        self.published = -1
        self.held_out = held_out_episodes(config, self.weights)
        with contextlib.ExitStack() as on_failure:
            self.actors = make_actors(config, address)
            on_failure.callback(self.actors.close)
            self.observation_space, self.action_space = self.actors.spaces()
            torch.manual_seed(config.train.seed)  # first weights do not depend on where the actors are
            self.learners = Learners(config, (self.observation_space, self.action_space))
            on_failure.callback(self.learners.close)
            policy = self.learner.policy
            weights = sum(tensor.nbytes for tensor in policy.state_dict().values())
            self.actors.require_room(unroll_bytes(config, self.observation_space, policy), weights)
            on_failure.pop_all()

    @property
    def learner(self) -> Learner:
        """The learner whose weights are published and saved."""
        return self.learners.first

    @property
    def update_count(self) -> int:
        """Learner updates so far."""
        return self.learner.update_count

    @property
    def skipped_in_a_row(self) -> int:
        """Updates skipped since the last one that was applied."""
        return self.learner.guard.skipped_in_a_row

    def update(self) -> dict[str, float]:
        """One learner update on the next batch of unrolls; returns metrics by TensorBoard tag, counts as int."""
        if self.published != self.update_count:
            self.actors.publish(copy_weights(self.learner.policy), self.update_count)
            self.published = self.update_count
        unrolls = self._gather()
        lags = [self.update_count - unroll.version for unroll in unrolls]
        metrics = self.learners.update(unrolls, self.step_count)
        self.step_count += sum(int(unroll.valid.sum()) for unroll in unrolls)
        for unroll in unrolls:
            self.episode_count += len(unroll.episodes)
            self.episodes.extend(unroll.episodes)
            self.retired_envs[unroll.actor] = unroll.retired_envs
            for fault in unroll.faults:
                self._note(fault)
            for what in unroll.forgiven.keys() - self.forgiven.keys():
                logger.warning("let pass, and from now on only counted (env.lenient): %s", what)
            self.forgiven += unroll.forgiven
        return (
            metrics
            | self._episode_metrics()
            | {
                "learner/policy_lag_mean": sum(lags) / len(lags),
                "learner/policy_lag_max": float(max(lags)),
                "learner/dropped_unrolls": self.dropped_unrolls,
                "envs/faults": self.env_faults,
                "envs/forgiven": self.forgiven.total(),
                "envs/retired": sum(self.retired_envs.values()),
            }
            | self.actors.metrics()
        )

    def _note(self, fault: Fault) -> None:
        """Count a fault, and log it: all retirements, and ever fewer of the rest."""
        self.env_faults += 1
        if fault.retired:
            logger.warning("an environment is retired after %s\n%s", fault.message, fault.traceback.rstrip())
        elif self.env_faults.bit_count() == 1:
            logger.warning("environment fault %d, made again: %s", self.env_faults, fault.message)

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
        for name in sorted({name for episode in self.episodes for name in episode.info}):
            numbers = [e.info[name] for e in self.episodes if name in e.info]
            metrics[f"episode_info/{name}"] = sum(numbers) / len(numbers)
        return metrics

    def weights(self) -> dict[str, Tensor]:
        """The policy's parameters and buffers."""
        return weights_of(self.learner.policy)

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be loaded here."""
        return {
            **identity(self.config),
            "observation_space": str(self.observation_space),
            "action_space": str(self.action_space),
            "optimizer": self.config.agent.optimizer,
            "train": {"seed": self.config.train.seed},
        }

    def state(self) -> dict[str, Any]:
        """Everything besides the weights that the rest of the run depends on: plain data and tensors."""
        self.learners.check_agreement()
        return {
            "learner": self.learner.state(),
            "actors": self.actors.state(),
            "step_count": self.step_count,
            "dropped_unrolls": self.dropped_unrolls,
            "episode_count": self.episode_count,
            "env_faults": self.env_faults,
            "forgiven": dict(self.forgiven),
            "episodes": [asdict(episode) for episode in self.episodes],
            "torch_generator": torch.get_rng_state(),
        }

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> list[str]:
        """Continue from `weights()` and `state()`; returns warnings about what could not be restored exactly."""
        self.learners.load(weights, state["learner"])
        self.step_count = count_in(state, "step_count")
        self.dropped_unrolls = count_in(state, "dropped_unrolls")
        self.episode_count = count_in(state, "episode_count")
        self.env_faults = count_in(state, "env_faults")
        forgiven = state.get("forgiven", {})
        self.forgiven = Counter({what: count_in(forgiven, what) for what in forgiven})
        self.episodes = deque((EpisodeStats(**e) for e in state["episodes"]), maxlen=EPISODE_WINDOW)
        self.published = -1
        warnings = self.actors.load(state["actors"])
        torch.set_rng_state(state["torch_generator"])  # last: new actors draw first weights
        return warnings

    def close(self) -> None:
        """Stop the actors and the other learners."""
        self.actors.close()
        self.learners.close()
