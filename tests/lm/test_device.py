"""Training on a CUDA device is training on the CPU, and a run may go on on the other."""

from __future__ import annotations

import pytest
import torch

import memory_cores
from lm.generation import generate
from lm.model import Sampling
from lm.trainer import make_trainer
from tests.lm.synthetic import Experiment, update_and_evaluate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("core", memory_cores.names())
def test_updates_and_evaluation_agree(experiment: Experiment, core: str) -> None:
    rows = {}
    for device in ("cpu", "cuda"):
        trainer = make_trainer(experiment(core, device=device, evaluation_interval=5, learning_rate=1e-3))
        rows[device] = [update_and_evaluate(trainer) for _ in range(5)]
        assert trainer.model.device.type == device
    for here, there in zip(rows["cpu"], rows["cuda"], strict=True):
        assert there["loss/next_token"] == pytest.approx(here["loss/next_token"], rel=2e-3)
        assert there["learner/gradient_norm"] == pytest.approx(here["learner/gradient_norm"], rel=2e-2)
    assert rows["cuda"][-1]["validation/bits_per_byte"] == pytest.approx(
        rows["cpu"][-1]["validation/bits_per_byte"], rel=2e-3
    )


def test_a_run_goes_on_where_it_was_and_elsewhere(experiment: Experiment) -> None:
    config = experiment("transformer_xl", device="cuda", dropout=0.2, ema_decay=0.9, precision="bfloat16")
    trainer = make_trainer(config)
    for _ in range(3):
        trainer.update()
    weights = {name: tensor.cpu().clone() for name, tensor in trainer.weights().items()}
    state = trainer.state()
    expected = trainer.update()["loss/next_token"]
    other = make_trainer(config)
    assert other.load(weights, state) == []
    assert other.update()["loss/next_token"] == pytest.approx(expected, rel=1e-5)
    here = make_trainer(experiment("transformer_xl", dropout=0.2, ema_decay=0.9))
    assert here.load(weights, state) == ["train.device is now cpu: the resume is not exact"]
    assert here.update()["loss/next_token"] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("core", memory_cores.names())
def test_what_is_written_is_what_the_cpu_writes(experiment: Experiment, core: str) -> None:
    written = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = make_trainer(experiment(core, device=device)).model
        words = list(generate(model, torch.tensor([1, 2, 3]), 12, Sampling(temperature=0)))
        written[device] = [word.log_probability for word in words]
    assert written["cuda"] == pytest.approx(written["cpu"], abs=1e-3)
