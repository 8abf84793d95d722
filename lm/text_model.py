"""The language model of a text experiment."""

from __future__ import annotations

import memory_cores
from lm.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, Bands
from lm.config import ModelConfig
from lm.model import FrontEnd, Head, LanguageModel
from lm.softmax import Softmax, TokenEmbedding
from training.config import CoreConfig


def make_model(vocabulary_size: int, core: CoreConfig, model: ModelConfig) -> LanguageModel:
    """The model an experiment describes, with freshly drawn weights (torch's global generator).

    Raises InputError for a vocabulary too small for the bands of an adaptive softmax.
    """
    memory_core = memory_cores.build(core.name, d_model=core.d_model, **core.options)
    if model.adaptive is None:
        front_end, head = _plain(vocabulary_size, core.d_model, model)
    else:
        cutoffs, factor = model.adaptive.cutoffs, model.adaptive.factor
        bands = Bands(vocabulary_size, core.d_model, cutoffs, factor)
        own = bands if model.tie_embeddings else Bands(vocabulary_size, core.d_model, cutoffs, factor)
        front_end = AdaptiveEmbedding(bands, core.d_model, model.dropout)
        head = AdaptiveSoftmax(own, core.d_model, model.dropout)
    return LanguageModel(front_end, memory_core, head)


def _plain(vocabulary_size: int, d_model: int, model: ModelConfig) -> tuple[FrontEnd, Head]:
    front_end = TokenEmbedding(vocabulary_size, d_model, model.dropout)
    head = Softmax(vocabulary_size, d_model, model.dropout)
    if model.tie_embeddings:
        head.tie(front_end)
    return front_end, head
