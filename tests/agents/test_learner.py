"""The learner against a loop written by hand, and what it learns where the answer is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from agents.actor import Actor, copy_weights
from agents.config import ExperimentConfig
from agents.learner import Learner
from agents.policy import Policy, make_policy
from agents.unroll import Batch, Unroll, batch
from training.config import StepScheduleConfig
from training.errors import TrainingError
from training.schedules import scheduled

MakeConfig = Callable[..., ExperimentConfig]
RANDOM_EPISODES = "tests.agents.scripted_envs:RandomEpisodes-v0"


def stale_unroll(config: ExperimentConfig) -> tuple[Policy, Unroll]:
    """A policy and an unroll that an older, different policy acted out."""
    actor = Actor(config, index=0)
    torch.manual_seed(1)
    spaces = actor.envs.observation_space, actor.envs.action_space
    behaviour, policy = make_policy(config, *spaces), make_policy(config, *spaces)
    with torch.no_grad():
        behaviour.actor_head.weight.normal_()
        policy.actor_head.weight.normal_()
    unroll = actor.unroll(copy_weights(behaviour), 0)
    actor.close()
    return policy, unroll


def loss_by_hand(policy: Policy, data: Batch, config: ExperimentConfig) -> Tensor:
    """The loss one row and one step at a time: the core is called step by step, the targets are summed directly."""
    agent = config.agent
    rows, length = data.reward.shape
    total, count = torch.zeros(()), 0
    for b in range(rows):
        state = {name: tensor[b : b + 1] for name, tensor in data.core_state.items()}
        observation = {path: leaf[b : b + 1] for path, leaf in data.observation.items()}
        output = policy(
            observation,
            data.last_action[b : b + 1],
            data.last_reward[b : b + 1],
            data.reset[b : b + 1],
            state,
        )
        parameters, values = output.action_parameters[0], output.values[0]
        v = values.detach().double()
        log_probs = [Categorical(logits=parameters[t]).log_prob(data.action[b, t]) for t in range(length)]
        ratios = [(lp.detach() - data.behaviour_log_probs[b, t]).exp().item() for t, lp in enumerate(log_probs)]
        target = v.clone()
        for t in reversed(range(length)):
            if not data.valid[b, t]:
                continue
            gamma = 0.0 if data.terminated[b, t] else agent.discount
            reward = max(-1.0, min(1.0, 0.5 * data.reward[b, t].item()))
            rho, c = min(agent.rho_bar, ratios[t]), min(agent.c_bar, ratios[t])
            target[t] = v[t] + rho * (reward + gamma * v[t + 1] - v[t]) + gamma * c * (target[t + 1] - v[t + 1])
            advantage = rho * (reward + gamma * target[t + 1] - v[t])
            total = total - log_probs[t] * advantage.float()
            total = total + agent.value_cost * 0.5 * (target[t].float() - values[t]) ** 2
            total = total - 0.02 * Categorical(logits=parameters[t]).entropy()
            count += 1
    return total / count


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_one_step_equals_a_loop_by_hand(make_config: MakeConfig, optimizer: str) -> None:
    config = make_config(
        RANDOM_EPISODES,
        unroll_length=12,
        optimizer=optimizer,
        optimizer_eps=1e-3,
        learning_rate=0.01,
        entropy_cost=0.02,
        max_grad_norm=0.1,
        reward_scale=0.5,
        reward_clip=1.0,
        rho_bar=1.5,
    )
    policy, unroll = stale_unroll(config)
    data = batch([unroll])
    assert not data.valid.all()
    assert data.terminated.any()

    loss = loss_by_hand(policy, data, config)
    parameters = list(policy.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.sqrt(sum(g.double().square().sum() for g in gradients)).float()
    assert norm > 0.1
    expected = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        g = gradient * (0.1 / norm)
        square = 0.01 * g.square() if optimizer == "rmsprop" else g.square()
        expected.append(parameter.detach() - 0.01 * g / (square.sqrt() + 1e-3))

    metrics = Learner(policy, config).update(data, step=0)
    assert metrics["loss/total"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["learner/gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-4, atol=1e-6)


def test_a_batch_that_is_not_finite_changes_no_weight(make_config: MakeConfig) -> None:
    config = make_config(RANDOM_EPISODES)
    policy, unroll = stale_unroll(config)
    learner = Learner(policy, config)
    data = batch([unroll])
    learner.update(data, step=0)
    before = copy_weights(policy)
    data.reward[0, 0] = float("nan")
    data.valid[0, 0] = True
    metrics = learner.update(data, step=0)
    assert metrics["learner/skipped_updates"] == 1
    assert all((before[name] == after).all() for name, after in copy_weights(policy).items())
    for _ in range(3):
        learner.update(data, step=0)
    with pytest.raises(TrainingError, match="5 updates in a row"):
        learner.update(data, step=0)


def test_schedules() -> None:
    assert scheduled(0.3, 50, 100) == 0.3
    linear = StepScheduleConfig(1.0, 0.2, "linear", warmup_steps=20)
    assert [scheduled(linear, step, 100) for step in (0, 10, 20, 60, 100, 200)] == pytest.approx(
        [0.0, 0.5, 1.0, 0.6, 0.2, 0.2]
    )
    cosine = StepScheduleConfig(1.0, 0.0, "cosine")
    assert [scheduled(cosine, step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
