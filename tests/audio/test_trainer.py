"""Training on clips: exact resume with every core and quantiser, models that learn, and baselines as counted."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import memory_cores
from audio.baselines import baselines
from audio.config import AudioSamplesConfig, ModelConfig
from audio.corpus import prepare
from audio.generation import generate
from audio.model import LogisticMixtureHead, WaveformFrontEnd, make_model
from audio.quantiser import QUANTISERS
from audio.samples import AudioSampler
from audio.trainer import make_trainer
from lm.corpus import Split
from lm.model import IGNORED, Sampling
from tests.audio.conftest import Experiment
from tests.equality import same
from tests.lm.synthetic import OPTIONS, StopAt, update_and_evaluate
from training.config import CoreConfig
from training.held_out import Stopped

QUANTISER_NAMES = sorted(QUANTISERS)


@pytest.mark.parametrize(
    ("core", "quantiser"),
    [(core, "mu_law_256") for core in memory_cores.names()]
    + [("lstm", name) for name in QUANTISER_NAMES if name != "mu_law_256"],
)
def test_a_resume_in_mid_clip_is_bitwise(experiment: Experiment, core: str, quantiser: str) -> None:
    config = experiment(core, quantiser=quantiser, dropout=0.2, evaluation_interval=4)
    whole = make_trainer(config)
    rows = [update_and_evaluate(whole) for _ in range(6)]
    first = make_trainer(config)
    for _ in range(3):
        first.update()
    buffer = io.BytesIO()
    torch.save({"weights": first.weights(), "state": first.state()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    second = make_trainer(config)
    assert second.fingerprint() == first.fingerprint()
    assert second.load(saved["weights"], saved["state"]) == []
    assert [update_and_evaluate(second) for _ in range(3)] == rows[3:]
    assert same(second.weights(), whole.weights())
    assert same(second.state(), whole.state())
    assert "validation/bits_per_sample" in rows[3]


@pytest.mark.parametrize("quantiser", QUANTISER_NAMES)
@pytest.mark.parametrize("core", ["lstm", "transformer_xl"])
def test_a_model_learns_its_clips(experiment: Experiment, core: str, quantiser: str) -> None:
    config = experiment(core, quantiser=quantiser, segment_length=32, learning_rate=1e-2, evaluation_interval=60)
    trainer = make_trainer(config)
    rows = [update_and_evaluate(trainer) for _ in range(60)]
    untrained = math.log(QUANTISERS[quantiser].levels)
    assert rows[0]["loss/next_token"] < untrained + 3
    assert rows[-1]["loss/next_token"] < rows[0]["loss/next_token"] - 1
    assert rows[-1]["validation/nats_per_sample"] < untrained
    assert rows[-1]["validation/bits_per_sample"] == pytest.approx(rows[-1]["validation/nats_per_sample"] / math.log(2))


def test_a_fingerprint_tells_gain_rate_quantiser_and_clips_apart(experiment: Experiment) -> None:
    prints = [
        make_trainer(experiment(**fields)).fingerprint()
        for fields in ({}, {"gain": 1.5}, {"quantiser": "logistic_16"}, {"sample_rate": 4_000, "resample": True})
    ]
    for index, one in enumerate(prints):
        assert all(one["quantiser"] != other["quantiser"] for other in prints[index + 1 :])
    assert prints[0] == make_trainer(experiment()).fingerprint()


def random_split(lengths: list[int], levels: int, seed: int) -> Split:
    tokens = np.random.default_rng(seed).integers(0, levels, sum(lengths)).astype(np.uint8)
    return Split("s", tokens, np.cumsum([0, *lengths[:-1]]), 0, 0, "")


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    limit=st.none() | st.integers(1, 60),
    piece=st.integers(1, 7),
)
def test_baselines_are_those_of_tables_counted_one_by_one(lengths: list[int], limit: int | None, piece: int) -> None:
    levels = 4
    train, held = random_split([7, 1, 12], levels, 0), random_split(lengths, levels, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audio.baselines.PIECE", piece)
        table = baselines(train, held, levels, limit)
    clips = [clip.tolist() for clip in np.split(train.tokens, train.starts[1:])]
    flat = [code for clip in clips for code in clip]
    single = [(flat.count(code) + 1) / (len(flat) + levels) for code in range(levels)]
    pairs = [pair for clip in clips for pair in itertools.pairwise(clip)]
    unigram = bigram = 0.0
    count = 0
    for clip in np.split(held.tokens, held.starts[1:]):
        for place, code in enumerate(clip.tolist()):
            if limit is not None and count == limit:
                break
            before = clip[place - 1] if place else None
            row = sum(pair[0] == before for pair in pairs)
            conditional = (pairs.count((before, code)) + 16 * single[code]) / (row + 16)
            unigram -= math.log2(single[code])
            bigram -= math.log2(conditional if place else single[code])
            count += 1
    assert table.unigram == pytest.approx(unigram / count)
    assert table.bigram == pytest.approx(bigram / count)


def test_sixteen_bits_have_no_table_of_pairs() -> None:
    split = random_split([50], 4, 0)
    assert baselines(split, split, 65_536).bigram is None


def test_the_logistic_head_ignores_what_it_is_told_to_and_refuses_what_it_cannot_do() -> None:
    head = LogisticMixtureHead(256, 8, mixtures=2)
    y, targets = torch.randn(2, 5, 8), torch.randint(256, (2, 5))
    losses = head.losses(y, targets).detach()
    some = targets.clone()
    some[1, 2:] = IGNORED
    ignored = head.losses(y, some).detach()
    assert torch.equal(ignored[some != IGNORED], losses[some != IGNORED])
    assert float(ignored[some == IGNORED].abs().max()) == 0
    with pytest.raises(ValueError, match="top_k and top_p are for models of codes"):
        head.sample(y[0], Sampling(top_k=3), torch.Generator())


def test_the_waveform_front_end_reads_values_and_not_the_input_at_a_reset() -> None:
    front_end = WaveformFrontEnd(65_536, 8)
    codes = torch.tensor([[0, 32_768, 32_769, 65_535]])
    reset = torch.tensor([[True, False, False, False]])
    x = front_end(codes, reset)
    assert torch.equal(x[0, 0], front_end.beginning)
    assert torch.equal(front_end(codes + torch.tensor([[99, 0, 0, 0]]), reset), x)
    near, far = (x[0, 1] - x[0, 2]).norm(), (x[0, 1] - x[0, 3]).norm()
    assert 0 < near < 0.05 * far


def test_sixteen_bits_stay_apart_under_bfloat16() -> None:
    front_end, head = WaveformFrontEnd(65_536, 8), LogisticMixtureHead(65_536, 8, mixtures=2)
    codes, y = torch.tensor([[50_000, 50_001]]), torch.randn(1, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        x, mixture = front_end(codes, None), head.mixture(y.bfloat16())
    assert not torch.equal(x[0, 0], x[0, 1])
    assert x.dtype == mixture.means.dtype == torch.float32
    assert not torch.equal(mixture.means, mixture.means.bfloat16().float())


@pytest.mark.parametrize("quantiser", QUANTISER_NAMES)
def test_sampling_changes_nothing_and_repeats(experiment: Experiment, quantiser: str) -> None:
    samples = AudioSamplesConfig(interval=1, seconds=0.004, prompt_seconds=0.002, clips=2)
    config = experiment(quantiser=quantiser, ema_decay=0.5, dropout=0.1)
    corpus = prepare(config.data)
    other = make_trainer(config, corpus)
    expected = [other.update() for _ in range(3)]
    state = other.state()
    trainer = make_trainer(config, corpus)  # seeds torch's generator anew
    sampler = AudioSampler(config, samples, corpus)
    rows, drawn = [], []
    for _ in range(3):
        rows.append(trainer.update())
        drawn.append(sampler.sample(trainer))
        assert trainer.model.training
    assert rows == expected
    assert same(trainer.state(), state)
    calls = StopAt(10**9)
    again = sampler.sample(other, calls)
    assert calls.calls == 64, "a signal is asked for at each of the 32 samples of both kinds of clips"
    with pytest.raises(Stopped):
        sampler.sample(other, StopAt(40))
    assert other.model.training
    assert same(other.state(), state)
    assert again.metrics == drawn[-1].metrics != drawn[0].metrics
    names = [clip.name for clip in again.clips]
    assert names == [f"{kind}-{index}" for kind in ("real", "continued", "free") for index in (0, 1)]
    for clip in again.clips:
        assert len(clip.samples) == (32 if clip.name.startswith("free") else 48)
        assert np.abs(clip.samples).max() <= 1
    for real, continued in zip(again.clips[:2], again.clips[2:4], strict=True):
        assert np.array_equal(real.samples[:16], continued.samples[:16])
    picture = again.picture()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.std() > 0


@pytest.mark.parametrize("core", ["lstm", "wavenet"])
def test_bits_of_what_was_written_are_what_the_model_says_of_it(core: str) -> None:
    for quantiser in QUANTISERS.values():
        torch.manual_seed(1)
        model = make_model(quantiser, CoreConfig(core, 16, dict(OPTIONS.get(core, {}))), ModelConfig()).eval()
        prompts = torch.randint(quantiser.levels, (3, 5))
        written = generate(model, prompts, 7, Sampling(temperature=0.7), torch.Generator().manual_seed(0))
        again = generate(model, prompts, 7, Sampling(temperature=0.7), torch.Generator().manual_seed(0))
        assert torch.equal(written.codes, again.codes)
        clips = torch.cat([prompts, written.codes], dim=1)
        reset = torch.zeros(clips.shape, dtype=torch.bool)
        reset[:, 0] = True
        with torch.no_grad():
            y = model(clips.roll(1, dims=1), model.core.initial_state(3), reset).y
            expected = model.head.losses(y, clips)[:, 5:].double().sum(1)
        torch.testing.assert_close(written.nats, expected, atol=1e-3, rtol=1e-4)
