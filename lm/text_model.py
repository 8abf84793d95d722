"""The language model of a text experiment."""

from __future__ import annotations

import memory_cores
from lm.config import CoreConfig, ModelConfig
from lm.model import LanguageModel
from lm.softmax import Softmax, TokenEmbedding


def make_model(vocabulary_size: int, core: CoreConfig, model: ModelConfig) -> LanguageModel:
    """The model an experiment describes, with freshly drawn weights (torch's global generator)."""
    memory_core = memory_cores.build(core.name, d_model=core.d_model, **core.options)
    front_end = TokenEmbedding(vocabulary_size, core.d_model, model.dropout)
    head = Softmax(vocabulary_size, core.d_model, model.dropout)
    if model.tied:
        head.tie(front_end)
    return LanguageModel(front_end, memory_core, head)
