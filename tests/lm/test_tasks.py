"""Synthetic tasks: the recipes, drawn from a seed; answers alone are predicted, and scored as they should be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import memory_cores
from lm.answers import evaluate_task, generate_answers, score_answers
from lm.config import ModelConfig, TaskConfig, TaskExperimentConfig
from lm.lanes import Lanes
from lm.model import IGNORED
from lm.tasks import answer_length, correct, document, draw_drifting, sort_by_count, symbols_of, task_corpus
from lm.text_model import make_model
from lm.trainer import make_trainer
from tests.equality import same
from tests.lm.synthetic import OPTIONS, Experiment, update_and_evaluate
from training.config import CoreConfig
from training.errors import InputError

TASKS = ("copy", "reverse", "sorting", "duplication")


def small(task: str, **fields: int) -> TaskConfig:
    sizes = {"length": 7, "train_sequences": 30, "validation_sequences": 5, "test_sequences": 3} | fields
    return TaskConfig(task, **sizes)  # type: ignore[arg-type]


@given(task=st.sampled_from(TASKS), length=st.integers(1, 40), seed=st.integers(0, 1000))
def test_a_document_is_its_question_and_its_answer(task: str, length: int, seed: int) -> None:
    config = small(task, length=length)
    tokens = document(config, np.random.default_rng(seed)).tolist()
    symbols = symbols_of(config)
    if task == "duplication":
        assert tokens[0] == 0
        assert all(1 <= token <= 127 for token in tokens[1 : length + 1])
        assert tokens[length + 1 :] == tokens[: length + 1]
        return
    question, separator, answer = tokens[:length], tokens[length], tokens[length + 1 :]
    assert separator == symbols
    assert all(0 <= token < symbols for token in question)
    assert len(answer) == answer_length(config)
    if task == "sorting":
        counts = [question.count(symbol) for symbol in answer]
        assert sorted(answer) == list(range(20))
        assert counts == sorted(counts, reverse=True)
        places = [question.index(symbol) if symbol in question else length + symbol for symbol in answer]
        pairs = zip(zip(counts, places, strict=True), zip(counts[1:], places[1:], strict=True), strict=False)
        assert all(a[0] > b[0] or a[1] < b[1] for a, b in pairs)
    else:
        assert answer == (question if task == "copy" else question[::-1])


def test_sorting_drifts_from_one_distribution_to_the_other() -> None:
    generator = np.random.default_rng(0)
    weights = np.random.default_rng(0).integers(1, 10, (2, 20))
    p0, p1 = weights / weights.sum(1, keepdims=True)
    drawn = draw_drifting(100_000, 20, generator)
    for start in (0, 40_000, 90_000):
        r = (start + 5_000) / 100_000
        shares = np.bincount(drawn[start : start + 10_000], minlength=20) / 10_000
        np.testing.assert_allclose(shares, (1 - r) * p0 + r * p1, atol=0.012)
    assert sort_by_count(np.array([3, 1, 1, 3, 0]), 5).tolist() == [3, 1, 0, 2, 4]


@pytest.mark.parametrize("task", TASKS)
def test_a_corpus_is_the_same_for_a_seed_padded_to_the_period_and_scored_at_its_answers(task: str) -> None:
    config = small(task)
    corpus, again = task_corpus(config, 4), task_corpus(config, 4)
    assert corpus.sha256 == again.sha256 != task_corpus(dataclasses.replace(config, seed=2), 4).sha256
    assert len({split.sha256 for split in corpus.splits.values()}) == 3
    plain = task_corpus(config, 1)
    for name, split in corpus.splits.items():
        length = len(split.tokens) // len(split.starts)
        assert length % 4 == 0
        assert split.starts.tolist() == list(range(0, len(split.tokens), length))
        assert split.scored is not None
        unpadded = plain.splits[name]
        own = len(unpadded.tokens) // len(unpadded.starts)
        np.testing.assert_array_equal(split.tokens.reshape(-1, length)[:, :own], unpadded.tokens.reshape(-1, own))
        scored = split.scored.reshape(-1, length)
        assert (scored.sum(1) == answer_length(config)).all()
        assert not scored[:, own:].any()
        assert scored[:, own - 1].all()


def test_lanes_of_a_task_are_spread_over_documents_and_predict_answers_alone() -> None:
    corpus = task_corpus(small("copy", train_sequences=8), 4)  # documents of 16: 7, a separator, 7, padding
    lanes = Lanes(corpus.splits["train"], 4, 8)
    assert (lanes.offsets % 16).tolist() == [0, 0, 8, 8]
    segments = [lanes.next() for _ in range(8)]
    assert all((segment.targets != IGNORED).any() for segment in segments)
    inputs, targets, reset = (torch.cat([segment[i] for segment in segments], dim=1) for i in range(3))
    for lane, first in enumerate([0, 0, 8, 8]):
        assert reset[lane].nonzero()[:, 0].tolist() == sorted({0, *range(first, 64, 16)})
        for start in range(first, 64 - 15, 16):
            asked = targets[lane, start : start + 16] != IGNORED
            assert asked.nonzero()[:, 0].tolist() == list(range(8, 15))
            question = inputs[lane, start + 1 : start + 8]
            assert targets[lane, start : start + 16][asked].tolist() == question.tolist()


@given(
    length=st.integers(1, 40),
    period=st.integers(1, 8),
    segments=st.integers(1, 5),
    batch_size=st.integers(1, 6),
)
def test_lanes_of_a_task_keep_the_phase_of_the_core(length: int, period: int, segments: int, batch_size: int) -> None:
    corpus = task_corpus(small("copy", length=length), period)
    lanes = Lanes(corpus.splits["train"], batch_size, period * segments)
    assert (lanes.offsets % period == 0).all()
    assert (lanes.offsets < len(lanes.split.tokens)).all()
    assert (np.diff(lanes.offsets) >= 0).all()


def test_ties_may_come_in_any_order_but_each_symbol_once() -> None:
    config = small("sorting", length=6, symbols=4)
    question = np.array([[2, 0, 1, 2, 0, 1, 4]])  # 0, 1 and 2 twice; 3 never
    answer = sort_by_count(question[0, :6], 4)[None]
    assert answer.tolist() == [[2, 0, 1, 3]]

    def right(given: list[int], shown: bool = False) -> list[bool]:
        symbols = np.array([given])
        return correct(config, question, answer, symbols, answer if shown else symbols)[0].tolist()

    assert right([2, 0, 1, 3]) == right([1, 2, 0, 3]) == [True] * 4
    assert right([1, 1, 0, 3]) == [True, False, True, True]
    assert right([3, 0, 1, 2]) == [False, True, True, False]
    assert right([4, 5, 1, 3]) == [False, False, True, True]
    assert right([1, 2, 1, 3], shown=True) == [True, False, True, True]


@pytest.mark.parametrize("core", memory_cores.names())
def test_generated_answers_are_the_likeliest_tokens_one_by_one(core: str) -> None:
    config = small("copy")
    torch.manual_seed(2)
    model = make_model(12, CoreConfig(core, 16, dict(OPTIONS.get(core, {}))), ModelConfig()).eval()
    split = task_corpus(config, 4).splits["validation"]
    questions = split.tokens.reshape(5, -1)[:, :8].astype(np.int64)
    generated = generate_answers(model, questions, 7, batch_size=2)
    sequences = torch.from_numpy(np.concatenate([questions, generated], axis=1))
    reset = torch.zeros(sequences.shape, dtype=torch.bool)
    reset[:, 0] = True
    with torch.no_grad():
        y = model(sequences.roll(1, dims=1), model.core.initial_state(5), reset).y
        log_probabilities = model.head.log_probabilities(y)[:, 8:]
    chosen = log_probabilities.gather(-1, torch.from_numpy(generated)[..., None])[..., 0]
    torch.testing.assert_close(chosen, log_probabilities.max(-1).values, atol=1e-4, rtol=0)


def task_experiment(experiment: Experiment, core: str, data: TaskConfig, **fields: object) -> TaskExperimentConfig:
    plain = experiment(core, **fields)
    return TaskExperimentConfig(data=data, core=plain.core, model=plain.model, train=plain.train, run=plain.run)


def test_a_model_learns_to_copy_and_its_scores_say_so(experiment: Experiment) -> None:
    data = small("copy", length=4, symbols=3, train_sequences=400, validation_sequences=20)
    config = task_experiment(
        experiment,
        "transformer_xl",
        data,
        batch_size=16,
        segment_length=12,
        learning_rate=1e-2,
        evaluation_interval=150,
    )
    trainer = make_trainer(config)
    rows = [update_and_evaluate(trainer) for _ in range(150)]
    assert rows[0]["loss/next_token"] > math.log(3) - 0.3
    assert rows[-1]["validation/symbol_accuracy"] > 0.95
    assert rows[-1]["validation/nats_per_token"] < 0.3
    result = evaluate_task(config, trainer.weights(), "validation")
    assert result.teacher_forced_symbol_accuracy == pytest.approx(rows[-1]["validation/symbol_accuracy"])
    assert result.teacher_forced_sequence_accuracy == pytest.approx(rows[-1]["validation/sequence_accuracy"])
    assert result.generated_symbol_accuracy is not None
    assert result.generated_symbol_accuracy > 0.9
    assert result.sequences == 20
    others = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=3))
    other = evaluate_task(others, trainer.weights(), "validation")
    assert other.nats_per_symbol == pytest.approx(result.nats_per_symbol, abs=1e-5)
    few = score_answers(trainer.model, data, trainer.lanes.split, 8, generate=False, limit=1)
    assert few.sequences == 1


@pytest.mark.parametrize("core", memory_cores.names())
def test_an_update_without_a_target_learns_nothing_but_remembers(experiment: Experiment, core: str) -> None:
    data = small("copy", length=20)
    config = task_experiment(
        experiment, core, data, batch_size=1, segment_length=8, weight_decay=0.5, learning_rate=1e-2
    )
    trainer = make_trainer(config)
    metrics = trainer.update()  # the question alone
    before = {name: tensor.clone() for name, tensor in trainer.weights().items()}
    memory = {name: tensor.clone() for name, tensor in trainer.core_state.items()}
    assert "loss/next_token" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())
    metrics = trainer.update()
    learned = dict(trainer.model.named_parameters())  # and not what follows the inputs, such as centroids
    changed = [
        name for name, tensor in trainer.weights().items() if name in learned and not torch.equal(tensor, before[name])
    ]
    has_losses_of_its_own = any(tag.startswith("loss/core_") for tag in metrics)
    assert has_losses_of_its_own or not changed
    assert not any("head" in name for name in changed)
    if core != "feedforward":
        assert not same(trainer.core_state, memory)
    assert "loss/next_token" in trainer.update()  # the answer begins


def test_targets_of_an_update_weigh_alike_however_its_segments_hold_them(experiment: Experiment) -> None:
    data = small("copy", length=9)
    fields = {"batch_size": 2, "max_grad_norm": 1e9}
    parts = make_trainer(task_experiment(experiment, "feedforward", data, segment_length=4, accumulate=5, **fields))
    whole = make_trainer(task_experiment(experiment, "feedforward", data, segment_length=20, **fields))
    assert parts.update()["loss/next_token"] == pytest.approx(whole.update()["loss/next_token"], rel=1e-5)
    for mine, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_resume_in_mid_question_is_bitwise(experiment: Experiment) -> None:
    """With one core: every core's state is resumed in test_trainer.py."""
    data = small("sorting")
    config = task_experiment(experiment, "transformer_xl", data, batch_size=2, segment_length=8, dropout=0.1)
    whole = make_trainer(config)
    rows = [whole.update() for _ in range(8)]
    first, second = make_trainer(config), make_trainer(config)
    for _ in range(4):
        first.update()
    saved = (first.weights(), first.state())
    assert second.load(*saved) == []
    assert [second.update() for _ in range(4)] == rows[4:]
    assert same(second.weights(), whole.weights())


def test_symbols_are_written_as_numbers() -> None:
    vocabulary = task_corpus(small("copy"), 1).vocabulary
    assert vocabulary.encode(b"3 1  11", "--prompt").tolist() == [3, 1, 11]
    assert vocabulary.decode(np.array([3, 1, 11])) == b"3 1 11 "
    with pytest.raises(InputError, match="--prompt: expected numbers from 0 to 11, got '12'"):
        vocabulary.encode(b"1 12", "--prompt")


def test_sizes_that_no_memory_holds_are_refused() -> None:
    assert small("sorting").problems() == []
    assert any("more than memory holds" in p for p in small("copy", length=2**20, train_sequences=2000).problems())
    assert any("too many to draw" in p for p in small("sorting", length=2**20, symbols=1000).problems())
