"""Several learners: the gradient of the whole batch, bitwise equal weights, and an end with its cause."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import torch

from agents.config import ExperimentConfig
from agents.trainer import ImpalaTrainer
from tests.agents.processes import LOOPBACK, descendants, listening, wait_until
from tests.equality import same
from training.errors import TrainingError
from training.process_group import make_sum

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"


def update_thrice(trainer: ImpalaTrainer) -> None:
    for _ in range(3):
        trainer.update()


def test_two_learners_make_the_update_of_one_stay_equal_and_end_with_their_cause(make_config: MakeConfig) -> None:
    # Truncations give the shards different numbers of transitions.
    fields = {"batch_size": 16, "unroll_length": 12, "optimizer": "rmsprop", "normalize_observations": True}
    one = ImpalaTrainer(make_config(RANDOM_EPISODES, **fields))
    two = ImpalaTrainer(make_config(RANDOM_EPISODES, num_learners=2, **fields))
    try:
        assert listening([os.getpid(), *descendants(os.getpid())]) <= LOOPBACK
        for update in range(4):
            alone, shared = one.update(), two.update()
            different = {tag for tag in alone if tag not in shared or abs(alone[tag] - shared[tag]) > 1e-4}
            assert different <= {"vtrace/explained_variance"}, update
            for name, weight in one.weights().items():
                torch.testing.assert_close(two.weights()[name], weight, rtol=1e-4, atol=1e-5)
        two.learners.check_agreement()

        weights = {name: tensor.clone() for name, tensor in two.weights().items()}
        state = two.state()
        two.update()
        assert not same(two.weights(), weights)
        assert two.load(weights, state) == []
        two.update()
        two.learners.check_agreement()
        with torch.no_grad():
            two.learner.policy.value_head.bias += 1
        with pytest.raises(TrainingError, match="learner 1 are no longer those of learner 0"):
            two.state()

        (peer,) = two.learners.peers
        assert peer.pid is not None
        os.kill(peer.pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match="learner 1 ended with exit code -9; --resume"):
            update_thrice(two)
    finally:
        two.close()
    assert wait_until(lambda: peer.pid not in descendants(os.getpid()), 5)


def test_a_learner_that_hangs_ends_the_run(make_config: MakeConfig) -> None:
    trainer = ImpalaTrainer(make_config(RANDOM_EPISODES, num_learners=2, batch_size=8))
    try:
        trainer.update()
        trainer.learner.sum_over_learners = make_sum(timeout=0.5)
        (peer,) = trainer.learners.peers
        assert peer.pid is not None
        os.kill(peer.pid, signal.SIGSTOP)
        with pytest.raises(TrainingError, match="a learner does not answer"):
            update_thrice(trainer)
    finally:
        trainer.close()


def test_an_uneven_share_is_refused(make_config: MakeConfig) -> None:
    (problem,) = make_config(RANDOM_EPISODES, num_learners=3, batch_size=16).problems()
    assert "agent.envs_per_actor x agent.num_learners = 12" in problem
