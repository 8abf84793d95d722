"""Training: exact resume with every core, and an update that is what its settings say."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch

import memory_cores
from lm.trainer import make_trainer
from tests.equality import same
from tests.lm.synthetic import Experiment, StopAt, update_and_evaluate
from training.averaging import evaluation_weights
from training.config import AccumulationConfig, TokenScheduleConfig
from training.errors import DivergenceError, InputError
from training.held_out import Stopped
from training.schedules import scheduled, segments_per_update


@pytest.mark.parametrize("core", memory_cores.names())
def test_a_resume_in_mid_document_is_bitwise(experiment: Experiment, core: str) -> None:
    accumulate = AccumulationConfig(final=2, switch_tokens=100)
    config = experiment(core, dropout=0.2, ema_decay=0.9, evaluation_interval=7, accumulate=accumulate)
    whole = make_trainer(config)
    rows = [update_and_evaluate(whole) for _ in range(12)]

    first = make_trainer(config)
    for _ in range(6):
        first.update()
    buffer = io.BytesIO()
    torch.save({"weights": first.weights(), "state": first.state()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    place = int(first.lanes.position + first.lanes.offsets[0]) % len(first.lanes.split.tokens)
    assert place not in first.lanes.split.starts, "the test is to stop inside a document"

    second = make_trainer(config)
    torch.rand(3)
    assert second.load(saved["weights"], saved["state"]) == []
    assert [update_and_evaluate(second) for _ in range(6)] == rows[6:]
    assert same(second.weights(), whole.weights())
    assert same(second.state(), whole.state())
    assert "validation/nats_per_token" in rows[6]


@pytest.mark.parametrize(
    ("core", "precision"), [("transformer_xl", "float32"), *((core, "bfloat16") for core in memory_cores.names())]
)
def test_a_model_learns_its_text(experiment: Experiment, core: str, precision: str) -> None:
    config = experiment(core, batch_size=8, segment_length=32, learning_rate=1e-2, precision=precision)
    trainer = make_trainer(config)
    losses = [trainer.update()["loss/next_token"] for _ in range(50)]
    tokens = torch.from_numpy(trainer.lanes.split.tokens.astype("int64"))
    shares = tokens.bincount() / len(tokens)
    unigram = float(-(shares * shares.log()).nan_to_num().sum())
    assert losses[0] > unigram
    assert sum(losses[-10:]) / 10 < unigram - 0.3


def test_gradients_are_averaged_over_the_segments_of_an_update(experiment: Experiment) -> None:
    trainer = make_trainer(experiment(accumulate=3, max_grad_norm=1e9))
    oracle = make_trainer(experiment())
    losses = []
    for _ in range(3):
        segment = oracle.lanes.next()
        output = oracle.model(segment.inputs, oracle.core_state, segment.reset)
        oracle.core_state = output.state
        log_probs = oracle.model.head.logits(output.y).log_softmax(-1).gather(-1, segment.targets[..., None])
        losses.append(-log_probs.mean())
    mean = sum(losses, torch.zeros(())) / 3
    mean.backward()
    metrics = trainer.update()
    assert metrics["loss/next_token"] == pytest.approx(mean.item(), abs=1e-6)
    for mine, theirs in zip(trainer.model.parameters(), oracle.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert trainer.step_count == 3 * 3 * 8


def test_an_update_that_is_not_finite_changes_neither_weights_nor_memory(experiment: Experiment) -> None:
    trainer = make_trainer(experiment(ema_decay=0.5))
    trainer.update()
    weights = {name: tensor.clone() for name, tensor in trainer.weights().items()}
    memory = {name: tensor.clone() for name, tensor in trainer.core_state.items()}
    handle = trainer.model.head.linear.bias.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
    optimizer = trainer.optimizer.state_dict()
    for count in range(1, 5):
        assert trainer.update()["learner/skipped_updates"] == count
    assert same(trainer.weights(), weights)
    assert same(trainer.core_state, memory)
    assert same(trainer.optimizer.state_dict()["state"], optimizer["state"])
    with pytest.raises(DivergenceError, match="5 updates in a row"):
        trainer.update()
    handle.remove()
    trainer.update()
    assert trainer.guard.skipped_in_a_row == 0
    assert not same(trainer.weights(), weights)


def test_evaluation_uses_the_moving_average(experiment: Experiment) -> None:
    trainer = make_trainer(experiment(ema_decay=0.75, evaluation_interval=2))
    expected = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for _ in range(2):
        metrics = update_and_evaluate(trainer)
        for name, parameter in trainer.model.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * parameter.detach()
    used = evaluation_weights(trainer.weights(), trainer.state())
    for name, tensor in expected.items():
        torch.testing.assert_close(used[name], tensor)
    assert used.keys() == trainer.weights().keys()
    plain = make_trainer(experiment(evaluation_interval=2))
    assert plain.update()["loss/total"] == pytest.approx(make_trainer(experiment()).update()["loss/total"])
    assert update_and_evaluate(plain)["validation/nats_per_token"] != metrics["validation/nats_per_token"]
    with pytest.raises(Stopped):
        trainer.measure(StopAt(1))
    assert trainer.model.training
    for name, parameter in trainer.model.named_parameters():
        assert not torch.equal(parameter, used[name]), "the model was left with the averaged weights"
    assert plain.load(trainer.weights(), trainer.state()) != []
    assert trainer.load(plain.weights(), plain.state()) != []


def test_a_changed_text_is_another_fingerprint(experiment: Experiment) -> None:
    before = make_trainer(experiment()).fingerprint()
    config = experiment()
    assert make_trainer(config).fingerprint() == before
    path = next(iter((Path(config.data.path) / "train").iterdir()))
    path.write_text(path.read_text()[::-1])
    after = make_trainer(config).fingerprint()
    assert {key for key in before if before[key] != after[key]} == {"data"}


def test_weights_that_do_not_fit_are_named(experiment: Experiment) -> None:
    trainer = make_trainer(experiment())
    weights = trainer.weights() | {"front_end.beginning": torch.zeros(3), "surplus": torch.zeros(1)}
    with pytest.raises(
        InputError, match=r"front_end\.beginning: the weights have \(3,\), the model \(16,\)(.|\n)*surplus"
    ):
        trainer.load(weights, trainer.state())


def test_schedules() -> None:
    cosine = TokenScheduleConfig(1.0, 0.1, "cosine", warmup_tokens=10)
    assert [scheduled(cosine, step, 110) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert scheduled(cosine, 60, 110) == pytest.approx(0.55)
    assert scheduled(cosine, 110, 110) == pytest.approx(0.1) == scheduled(cosine, 500, 110)
    assert scheduled(TokenScheduleConfig(1.0), 30, 100) == pytest.approx(0.7)
    assert scheduled(0.3, 7, 100) == 0.3
    assert [segments_per_update(AccumulationConfig(4, switch_tokens=60), step) for step in (0, 59, 60)] == [1, 1, 4]
    assert segments_per_update(2, 10**9) == 2
