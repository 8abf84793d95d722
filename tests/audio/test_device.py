"""Speech on a CUDA device is speech on the CPU, whatever the quantiser."""

from __future__ import annotations

import pytest
import torch

from audio.generation import generate
from audio.quantiser import QUANTISERS
from audio.trainer import make_trainer
from lm.model import Sampling
from tests.audio.conftest import Experiment
from tests.lm.synthetic import update_and_evaluate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("quantiser", sorted(QUANTISERS))
@pytest.mark.parametrize("core", ["transformer_xl", "wavenet"])
def test_updates_and_evaluation_agree(experiment: Experiment, core: str, quantiser: str) -> None:
    rows = {}
    for device in ("cpu", "cuda"):
        trainer = make_trainer(experiment(core, quantiser=quantiser, device=device, evaluation_interval=5))
        rows[device] = [update_and_evaluate(trainer) for _ in range(5)]
    for here, there in zip(rows["cpu"], rows["cuda"], strict=True):
        assert there["loss/next_token"] == pytest.approx(here["loss/next_token"], rel=2e-3)
    name = "validation/bits_per_sample"
    assert rows["cuda"][-1][name] == pytest.approx(rows["cpu"][-1][name], rel=2e-3)


@pytest.mark.parametrize("quantiser", sorted(QUANTISERS))
@pytest.mark.parametrize("core", ["transformer_xl", "wavenet"])
def test_what_is_written_there_is_as_likely_here(experiment: Experiment, core: str, quantiser: str) -> None:
    here, there = (
        make_trainer(experiment(core, quantiser=quantiser, device=device)).model for device in ("cpu", "cuda")
    )
    here.eval().load_state_dict(there.state_dict())
    written = generate(there, torch.zeros(2, 0, dtype=torch.int64), 9, Sampling(), torch.Generator().manual_seed(0))
    reset = torch.zeros(written.codes.shape, dtype=torch.bool)
    reset[:, 0] = True
    with torch.no_grad():
        y = here(written.codes.roll(1, dims=1), here.core.initial_state(2), reset).y
        expected = here.head.losses(y, written.codes).double().sum(1)
    torch.testing.assert_close(written.nats, expected, atol=1e-3, rtol=1e-3)
