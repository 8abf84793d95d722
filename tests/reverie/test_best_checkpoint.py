"""The best checkpoint: kept beside the newest, told by its sealed score, the same after any interruption."""

import dataclasses
import json
import math
import os
import signal

import pytest
import torch
from fake_trainer import FakeTrainer

from reverie import checkpoint
from reverie.checkpoint import best, folders, load, newest
from reverie.manifest import CheckpointError, Score
from tests.reverie.test_checkpoint import FINGERPRINT, reseal, save_step, truncate_middle
from tests.reverie.test_train import logged, run
from training.held_out import HeldOut


def loss(value, **basis):
    return Score("validation/loss", value, higher_is_better=False, basis=basis)


def steps(root):
    return [int(folder.name) for folder in folders(root)]


def test_the_best_is_kept_beside_the_newest_and_a_resume_takes_the_newest(tmp_path):
    for step, value in enumerate([3.0, 1.0, 2.0, 1.0, None, 4.0, None], start=1):
        save_step(tmp_path, step, keep=2, score=None if value is None else loss(value))
    assert steps(tmp_path) == [2, 6, 7]
    found, skipped = best(tmp_path, FINGERPRINT)
    assert (found.step, found.score, skipped) == (2, loss(1.0), [])
    assert newest(tmp_path)[0].step == 7
    save_step(tmp_path, 8, keep=2, score=loss(0.5))
    assert steps(tmp_path) == [7, 8]
    reward = Score("evaluation/return", 0.9, higher_is_better=True, basis={})
    assert reward.beats(dataclasses.replace(reward, value=0.8))
    assert not reward.beats(reward)


def test_a_damaged_best_is_named_and_the_next_best_kept_and_taken(tmp_path):
    for step, value in enumerate([2.0, 1.0, 3.0], start=1):
        save_step(tmp_path, step, score=loss(value))
    truncate_middle(tmp_path / f"{2:012d}", "state.pt")
    found, skipped = best(tmp_path)
    assert (found.step, [entry.path.name for entry in skipped]) == (1, [f"{2:012d}"])
    for step in (4, 5, 6):
        save_step(tmp_path, step, keep=2)
    assert steps(tmp_path) == [1, 5, 6]
    assert best(tmp_path)[0].step == 1


def test_scores_of_other_data_are_not_compared(tmp_path):
    save_step(tmp_path, 1, score=loss(1.0, data="old"))
    save_step(tmp_path, 2, score=loss(7.0, data="new"))
    save_step(tmp_path, 3)
    assert best(tmp_path)[0].step == 2
    save_step(tmp_path, 4, keep=2)
    assert steps(tmp_path) == [2, 3, 4]


def test_a_manifest_without_a_score_is_read(tmp_path):
    folder = save_step(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["score"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    reseal(folder)
    assert load(folder).score is None


@pytest.mark.parametrize("score", [3, {}, {"metric": "x", "value": "1", "higher_is_better": True, "basis": {}}])
def test_a_score_that_is_none_is_damage(tmp_path, score):
    reseal(save_step(tmp_path, 1), score=score)
    with pytest.raises(CheckpointError, match="does not have the fields"):
        load(tmp_path / f"{1:012d}")
    assert best(tmp_path) == (None, [])


SCORES = [5.0, 3.0, 4.0, 2.0, 2.0, math.nan, 6.0]


class ScoredTrainer(FakeTrainer):
    """Is scored by SCORES, one every fourth update; the evaluation after update `stop_at` is stopped by a signal."""

    def __init__(self, total_steps, stop_at=None):
        super().__init__(total_steps)
        self.stop_at = stop_at
        self.held_out = HeldOut(4, self.measure, "validation/loss", higher_is_better=False, basis={"tokens": None})

    def measure(self, check):
        check()
        if self.update_count == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
            check()
        return {"validation/loss": SCORES[self.update_count // 4 - 1]}


def scores(folder):
    return {found.step: found.score and found.score.value for found in map(checkpoint.load, folders(folder))}


def test_the_best_checkpoint_is_saved_when_it_is_scored_and_kept(tmp_path):
    code, _, folder = run(tmp_path, 300, trainer=ScoredTrainer(300))
    assert code == 0
    assert scores(folder / "checkpoints") == {160: 2.0, 280: 6.0, 300: None}
    assert checkpoint.best(folder / "checkpoints")[0].step == 160


def test_a_best_checkpoint_that_is_damaged_is_saved_again_when_it_is_reached_again(tmp_path):
    _, _, folder = run(tmp_path, 160, trainer=ScoredTrainer(160))
    assert best(folder / "checkpoints")[0].step == 160
    truncate_middle(folder / "checkpoints" / f"{160:012d}", "state.pt")
    run(tmp_path, 180, resume=True, trainer=ScoredTrainer(180))
    found, _ = best(folder / "checkpoints")
    assert (found.path.name, found.score.value) == (f"{160:012d}-1", 2.0)


@pytest.mark.parametrize(("stop", "step"), [(8, 80), (12, 120), (28, 280)])
def test_an_evaluation_that_a_signal_stops_is_made_again_at_the_resume(tmp_path, stop, step):
    _, whole, whole_folder = run(tmp_path / "whole", 280, trainer=ScoredTrainer(280))
    code, _, folder = run(tmp_path / "parts", 280, trainer=ScoredTrainer(280, stop_at=stop))
    assert code == 143
    assert checkpoint.newest(folder / "checkpoints")[0].step == step
    code, resumed, _ = run(tmp_path / "parts", 280, resume=True, trainer=ScoredTrainer(280))
    assert code == 0
    assert torch.equal(whole.w, resumed.w)
    assert repr(logged(folder)) == repr(logged(whole_folder))
    best, best_of_whole = (checkpoint.best(of / "checkpoints")[0] for of in (folder, whole_folder))
    assert (best.step, best.score) == (best_of_whole.step, best_of_whole.score)
    before = scores(folder / "checkpoints")
    assert run(tmp_path / "parts", 280, resume=True, trainer=ScoredTrainer(280))[0] == 0
    assert scores(folder / "checkpoints") == before
