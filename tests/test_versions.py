"""The libraries that must fit each other."""

from __future__ import annotations

import importlib
import importlib.metadata

import pytest
import torch


@pytest.mark.filterwarnings("ignore")
def test_torch_and_torchaudio_import_together() -> None:
    torchaudio = importlib.import_module("torchaudio")
    assert torchaudio.functional.mu_law_encoding(torch.zeros(3), 256).tolist() == [128] * 3


def test_versions_without_known_holes() -> None:
    """Older torch runs code from weights-only files; older Ray runs code for any web page."""
    for package, least in (("torch", (2, 10)), ("ray", (2, 52))):
        major, minor = importlib.metadata.version(package).split(".")[:2]
        assert (int(major), int(minor)) >= least
