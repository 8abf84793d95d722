"""The optimizer of a training run, against the formulas of AdamW in double precision."""

from __future__ import annotations

import pytest
import torch

import memory_cores
from lm.config import AdaptiveConfig
from lm.trainer import make_trainer
from tests.lm.synthetic import Experiment
from training.config import AccumulationConfig, TokenScheduleConfig


def test_updates_are_adamw_on_clipped_gradients_with_decay_of_matrices_alone(experiment: Experiment) -> None:
    rate = TokenScheduleConfig(0.02, 0.01, "cosine", warmup_tokens=48)
    config = experiment(learning_rate=rate, weight_decay=0.3, max_grad_norm=0.05, total_tokens=480)
    trainer = make_trainer(config)
    expected = {name: p.detach().double().clone() for name, p in trainer.model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(1, 6):
        metrics = trainer.update()
        rate_now = metrics["learner/learning_rate"]
        assert metrics["learner/gradient_norm"] > 0.05, "the test is to clip"
        gradients = {name: p.grad.double() for name, p in trainer.model.named_parameters() if p.grad is not None}
        norm = sum(float(g.square().sum()) for g in gradients.values()) ** 0.5
        assert norm == pytest.approx(0.05, rel=1e-4)
        for name, gradient in gradients.items():
            decay = 0.3 if expected[name].dim() >= 2 else 0.0
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient.square()
            moved = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            expected[name] = expected[name] * (1 - rate_now * decay) - rate_now * moved
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], atol=2e-5, rtol=1e-4)


def test_an_update_reads_more_segments_after_the_switch(experiment: Experiment) -> None:
    trainer = make_trainer(experiment(accumulate=AccumulationConfig(final=3, switch_tokens=48)))
    counts = [(trainer.update()["learner/accumulated_segments"], trainer.step_count) for _ in range(4)]
    assert counts == [(1, 24), (1, 48), (3, 120), (3, 192)]


@pytest.mark.parametrize("core", memory_cores.names())
@pytest.mark.parametrize("adaptive", [None, AdaptiveConfig([4, 9], factor=2)])
def test_bfloat16_leaves_weights_optimizer_and_memory_in_float32(
    experiment: Experiment, core: str, adaptive: AdaptiveConfig | None
) -> None:
    trainers = [make_trainer(experiment(core, precision=p, adaptive=adaptive)) for p in ("bfloat16", "float32")]
    losses = [[trainer.update()["loss/next_token"] for _ in range(3)] for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]
    half = trainers[0]
    moments = [t for state in half.optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    for tensor in [*half.weights().values(), *moments, *half.core_state.values()]:
        assert tensor.dtype != torch.bfloat16
