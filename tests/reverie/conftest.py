"""A memory core and a trainer small enough to test the spine with."""

import inspect
import sys
from pathlib import Path

import pytest
import torch

import memory_cores
from memory_cores.core import MemoryCore

sys.path.insert(0, str(Path(__file__).parent))  # fake_trainer, which subprocesses import too


class StubCore(MemoryCore):
    def __init__(self, d_model: int, memory_length: int = 16, num_layers: int = 1, period: int = 4,
                 dropout: float = 0.0, kinds: tuple[str, ...] = ("a",)) -> None:  # fmt: skip
        super().__init__()
        problems = []
        if memory_length < 1:
            problems.append(f"memory_length must be at least 1, got {memory_length}")
        if not 0 <= dropout < 1:
            problems.append(f"dropout must be in [0, 1), got {dropout}")
        if problems:
            raise ValueError("\n".join(problems))
        self.d_model, self.period, self.memory_length = d_model, period, memory_length
        self.layers = torch.nn.ModuleList(torch.nn.Linear(d_model, d_model) for _ in range(num_layers))

    def initial_state(self, batch_size, device=None):
        return {"memory": torch.zeros(batch_size, self.memory_length, self.d_model, device=device)}

    def forward(self, x, state, reset=None):
        raise NotImplementedError

    def stream(self, batch_size):
        raise NotImplementedError


@pytest.fixture
def stub_cores(monkeypatch):
    """The registry of memory cores with one core in it, called `stub`."""
    parameters = dict(list(inspect.signature(StubCore).parameters.items())[1:])
    monkeypatch.setattr(memory_cores, "names", lambda: ["stub"], raising=False)
    monkeypatch.setattr(memory_cores, "options", lambda name: parameters, raising=False)
    monkeypatch.setattr(
        memory_cores, "build", lambda name, d_model=32, **options: StubCore(d_model, **options), raising=False
    )
