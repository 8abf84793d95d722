"""The learner: V-trace actor-critic on batches of unrolls (Espeholt et al., 1802.01561, section 4.2)."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from agents.config import AgentConfig, ExperimentConfig
from agents.policy import Policy, scale_reward
from agents.unroll import Batch
from agents.vtrace import vtrace
from memory_cores.core import SumInPlace
from training.guard import UpdateGuard
from training.restoring import count_in, load_optimizer
from training.schedules import scheduled


def impala_loss(
    policy: Policy,
    batch: Batch,
    config: AgentConfig,
    entropy_cost: float,
    transitions: Tensor | None = None,
    num_shards: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch, a scalar averaged over its transitions, and its metrics.

    Where `batch` is one of `num_shards` shards of equal size, with `transitions` in all of them, the sums over the
    shards are the loss and the metrics of the whole; what a core says of its shard counts 1 / num_shards, and so does
    the explained variance.

        L = - log pi(a_s|x_s) rho_s (r_s + gamma v_{s+1} - V(x_s)) + value_cost (v_s - V(x_s))^2 / 2 - entropy_cost H
            + the losses of the core

    The paper sums over the batch; an average differs by the number of transitions, B T.
    """
    output = policy(batch.observation, batch.last_action, batch.last_reward, batch.reset, batch.core_state)
    parameters, values = output.action_parameters[:, :-1].float(), output.values[:, :-1].float()
    bootstrap_value = output.values[:, -1].float()
    log_probs = policy.distribution.log_prob(parameters, batch.action)
    entropies = policy.distribution.entropy(parameters)
    targets = vtrace(
        log_ratios=log_probs - batch.behaviour_log_probs,
        discounts=config.discount * (~batch.terminated),
        rewards=scale_reward(batch.reward, config.reward_scale, config.reward_clip),
        values=values,
        bootstrap_value=bootstrap_value,
        valid=batch.valid,
        rho_bar=config.rho_bar,
        c_bar=config.c_bar,
        trace_decay=config.trace_decay,
    )

    transitions = (batch.valid.sum() if transitions is None else transitions).clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return (x * batch.valid).sum() / transitions

    policy_loss = -mean(log_probs * targets.advantages)
    value_loss = mean(0.5 * (targets.values - values).square())
    entropy = mean(entropies)
    loss = policy_loss + config.value_cost * value_loss - entropy_cost * entropy
    for core_loss in output.core.losses.values():
        loss = loss + core_loss / num_shards
    errors = torch.where(batch.valid, targets.values - values, 0.0)
    unexplained = errors.square().sum() / batch.valid.sum().clamp(min=1)
    variance = (targets.values[batch.valid]).var(correction=0)
    metrics = {
        "loss/total": loss,
        "loss/policy": policy_loss,
        "loss/value": value_loss,
        "policy/entropy": entropy,
        "vtrace/mean_rho": mean(targets.rhos),
        "vtrace/mean_value": mean(values),
        "vtrace/explained_variance": (1 - unexplained / variance.clamp(min=1e-8)) / num_shards,
    }
    metrics |= {f"loss/core_{name}": value / num_shards for name, value in output.core.losses.items()}
    metrics |= {f"core/{name}": value / num_shards for name, value in output.core.metrics.items()}
    return loss, {name: value.detach() for name, value in metrics.items()}


def make_optimizer(policy: Policy, config: AgentConfig) -> torch.optim.Optimizer:
    """RMSProp without momentum, as in the paper, or Adam."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(policy.parameters(), lr=0.0, alpha=config.rmsprop_decay, eps=config.optimizer_eps)
    return torch.optim.Adam(policy.parameters(), lr=0.0, eps=config.optimizer_eps, fused=True)


class Learner:
    """Owns the policy's weights and their optimizer."""

    def __init__(self, policy: Policy, config: ExperimentConfig, sum_over_learners: SumInPlace | None = None) -> None:
        """`sum_over_learners` adds up a tensor over all learners of the run, in place; None for a single one."""
        self.policy = policy.to(config.train.device).train()
        self.sum_over_learners = sum_over_learners
        self.config = config
        self.optimizer = make_optimizer(policy, config.agent)
        self.guard = UpdateGuard()
        self.update_count = 0

    def update(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimizer step on a batch, `step` environment steps into the run. Returns metrics by tag.

        Of several learners each has a shard of the batch; the gradient is that of the whole, bitwise the same in all,
        and so are the weights after it. A batch whose loss or gradient is not finite changes nothing but the count of
        skipped updates; several in a row raise DivergenceError.
        """
        agent = self.config.agent
        total_steps = self.config.train.total_steps
        learning_rate = scheduled(agent.learning_rate, step, total_steps)
        entropy_cost = scheduled(agent.entropy_cost, step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

        batch = batch.to(self.config.train.device)
        self.optimizer.zero_grad(set_to_none=True)
        transitions = batch.valid.sum()
        if self.sum_over_learners is not None:
            self.sum_over_learners(transitions)
        loss, metrics = impala_loss(self.policy, batch, agent, entropy_cost, transitions, agent.num_learners)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.sum_over_learners is not None:
            self._sum_gradients(metrics, self.sum_over_learners)
            loss = metrics["loss/total"]
        gradient_norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), agent.max_grad_norm))
        self.update_count += 1
        if self.guard.allows(float(loss.detach()), gradient_norm):
            self.optimizer.step()
            # Not before the loss: actors normalised these observations without knowing them.
            seen = {name: leaf[:, :-1].flatten(0, 1) for name, leaf in batch.observation.items()}
            self.policy.encoder.update_moments(seen, self.sum_over_learners)
            self.policy.core.after_update(self.sum_over_learners)
        return {name: float(value) for name, value in metrics.items()} | {
            "learner/gradient_norm": gradient_norm,
            "learner/learning_rate": learning_rate,
            "learner/entropy_cost": entropy_cost,
            "learner/skipped_updates": self.guard.skipped,
        }

    def _sum_gradients(self, metrics: dict[str, Tensor], sum_over_learners: SumInPlace) -> None:
        """Make the gradients and `metrics` the sums over all learners, in one message."""
        parameters = list(self.policy.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [*gradients, *metrics.values()]
        joined = torch.cat([part.reshape(-1).float() for part in parts])
        sum_over_learners(joined)
        sums = torch.split(joined, [part.numel() for part in parts])
        for parameter, total in zip(parameters, sums, strict=False):
            parameter.grad = total.view_as(parameter).to(parameter.dtype)
        for name, total in zip(metrics, sums[len(parameters) :], strict=True):
            metrics[name] = total[0]

    def digest(self) -> str:
        """SHA-256 of the weights and the optimizer's moments."""
        found = hashlib.sha256()
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        for tensor in [*self.policy.state_dict().values(), *moments]:
            found.update(torch.as_tensor(tensor).detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def state(self) -> dict[str, Any]:
        """Optimizer and counters, as plain data and tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "update_count": self.update_count,
            **self.guard.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        load_optimizer(self.optimizer, state["optimizer"])
        self.update_count = count_in(state, "update_count")
        self.guard.load(state)
