"""Adaptive softmax and inputs: probabilities, agreement with torch's own, shared matrices."""

from __future__ import annotations

import pytest
import torch

from lm.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, Bands
from lm.config import AdaptiveConfig, ModelConfig
from lm.model import IGNORED
from lm.text_model import make_model
from training.config import CoreConfig
from training.errors import InputError
from training.weights import weights_of

CUTOFFS, SIZE, WIDTH = [5, 12], 30, 16


def head() -> AdaptiveSoftmax:
    torch.manual_seed(0)
    head = AdaptiveSoftmax(Bands(SIZE, WIDTH, CUTOFFS, 4), WIDTH).eval()
    for bias in [head.band_bias, *head.biases]:
        torch.nn.init.normal_(bias)
    return head


def test_probabilities_sum_to_1_and_losses_are_their_logarithms() -> None:
    softmax, y, targets = head(), torch.randn(2, 15, WIDTH), torch.arange(30).view(2, 15)
    log_probabilities = softmax.log_probabilities(y)
    assert log_probabilities.shape == (2, 15, SIZE)
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(2, 15))
    picked = -log_probabilities.gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(softmax.losses(y, targets), picked)
    targets[0, 3:] = IGNORED
    torch.testing.assert_close(softmax.losses(y, targets), picked.masked_fill(targets == IGNORED, 0.0))
    nothing = torch.full((2, 15), IGNORED)
    assert softmax.losses(y, nothing).eq(0).all()


def test_losses_and_gradients_are_those_of_torch() -> None:
    softmax, y, targets = head(), torch.randn(40, WIDTH), torch.randint(SIZE, (40,))
    with torch.no_grad():
        softmax.biases[1].zero_()
        softmax.biases[2].zero_()  # torch's tails have none
    oracle = torch.nn.AdaptiveLogSoftmaxWithLoss(WIDTH, SIZE, CUTOFFS, div_value=4, head_bias=True)
    with torch.no_grad():
        oracle.head.weight.copy_(torch.cat([softmax.bands.embeddings[0], softmax.band_weight]))
        oracle.head.bias.copy_(torch.cat([softmax.biases[0], softmax.band_bias]))
        for band, tail in enumerate(oracle.tail, start=1):
            tail[0].weight.copy_(softmax.bands.projections[band - 1])
            tail[1].weight.copy_(softmax.bands.embeddings[band])
    normed = softmax.norm(y)
    torch.testing.assert_close(softmax.log_probabilities(y), oracle.log_prob(normed))
    softmax.losses(y, targets).mean().backward()
    oracle(normed, targets).loss.backward()
    torch.testing.assert_close(softmax.bands.embeddings[2].grad, oracle.tail[1][1].weight.grad)
    torch.testing.assert_close(softmax.bands.projections[0].grad, oracle.tail[0][0].weight.grad)
    torch.testing.assert_close(softmax.band_weight.grad, oracle.head.weight.grad[5:])


def test_inputs_are_the_rows_of_the_bands_projected() -> None:
    bands = Bands(SIZE, WIDTH, CUTOFFS, 4)
    embedding = AdaptiveEmbedding(bands, WIDTH)
    first, *rarer = bands.embeddings
    table = torch.cat([first, *(e @ p for e, p in zip(rarer, bands.projections, strict=True))])
    tokens = torch.randint(SIZE, (3, 7))
    reset = torch.zeros(3, 7, dtype=torch.bool)
    reset[1, 2] = True
    expected = table[tokens]
    expected[1, 2] = embedding.beginning
    torch.testing.assert_close(embedding(tokens, reset), expected * 4.0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_model_has_its_matrices_once(tied: bool) -> None:
    config = ModelConfig(tie_embeddings=tied, adaptive=AdaptiveConfig(CUTOFFS))
    model = make_model(SIZE, CoreConfig("lstm", WIDTH), config)
    names = [name for name in weights_of(model) if ".embeddings." in name]
    assert len(names) == (3 if tied else 6)
    assert (model.head.bands is model.front_end.bands) == tied


def test_bands_that_the_vocabulary_does_not_fill_are_refused() -> None:
    with pytest.raises(InputError, match=r"cutoffs: 12 leaves the last band empty: the vocabulary has 12 tokens"):
        Bands(12, WIDTH, CUTOFFS, 4)
