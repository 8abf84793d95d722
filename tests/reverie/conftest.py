"""A memory core and a trainer small enough to test the spine with."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import memory_cores
from memory_cores import CoreOptions, MemoryCore

sys.path.insert(0, str(Path(__file__).parent))  # fake_trainer, which subprocesses import too


@dataclass(frozen=True, kw_only=True)
class StubOptions(CoreOptions):
    memory_length: int = 16
    num_layers: int = 1
    period: int = 4
    dropout: float = 0.0
    kinds: tuple[str, ...] = ("a",)

    def problems(self, d_model):
        problems = super().problems(d_model)
        if self.memory_length < 1:
            problems.append(f"memory_length must be at least 1, got {self.memory_length}")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be in [0, 1), got {self.dropout}")
        return problems


class StubCore(MemoryCore):
    Options = StubOptions

    def __init__(self, d_model, options):
        super().__init__(d_model, options)
        self.period, self.memory_length = options.period, options.memory_length
        self.layers = torch.nn.ModuleList(torch.nn.Linear(d_model, d_model) for _ in range(options.num_layers))

    def initial_state(self, batch_size, device=None):
        return {"memory": torch.zeros(batch_size, self.memory_length, self.d_model, device=device)}

    def forward(self, x, state, reset=None):
        raise NotImplementedError

    def stream(self, batch_size):
        raise NotImplementedError


@pytest.fixture
def stub_cores(monkeypatch):
    """The cores there are: one, called `stub`."""
    monkeypatch.setattr(memory_cores, "CORES", {"stub": StubCore})
    monkeypatch.setattr(memory_cores, "ENTRY_POINTS", "no.such.group")
