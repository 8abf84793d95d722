"""The laws must catch what they are for: a sound core passes all, each broken copy fails its law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from memory_cores import CoreOptions, CoreOutput, MemoryCore, State, Stream
from memory_cores.core import ForwardStream
from memory_cores.testing import (
    LAWS,
    Case,
    LawError,
    acting_is_learning,
    causality,
    check_laws,
    chunk_invariance,
    draw_cases,
    gradients,
    reset_isolation,
    row_independence,
)


class Sound(MemoryCore):
    """h_t = h_{t-1} / 2 + W x_t, with h = 0 before a reset."""

    def __init__(self) -> None:
        super().__init__(4, CoreOptions())
        self.weight = nn.Parameter(torch.randn(4, 4))

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> State:
        return {"h": torch.zeros(batch_size, 4, dtype=self.weight.dtype, device=device)}

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        h = state["h"].detach()
        outputs = []
        for t in range(x.shape[1]):
            if reset is not None:
                h = h * ~reset[:, t, None]
            h = h / 2 + x[:, t] @ self.weight
            outputs.append(h)
        return CoreOutput(torch.stack(outputs, dim=1), {"h": h.detach()}, {}, {})


class LeaksTheFuture(Sound):
    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        output = super().forward(x, state, reset)
        return output._replace(y=output.y + x.mean(dim=1, keepdim=True))


class IgnoresResets(Sound):
    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        return super().forward(x, state, None)


class KeepsStateOnTheModule(Sound):
    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        kept = getattr(self, "kept", None)
        output = super().forward(x, kept if kept and kept["h"].shape == state["h"].shape else state, reset)
        self.kept = output.state
        return output


class DropsTheCacheOnStep(Sound):
    def stream(self, batch_size: int) -> Stream:
        return ForgetfulStream(self, batch_size)


class ForgetfulStream(ForwardStream):
    def step(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        self.load(self.core.initial_state(x.shape[0]))
        return super().step(x, reset)


class MixesRows(Sound):
    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        return super().forward(x - x.mean(dim=0, keepdim=True), state, reset)


class LetsGradientsIntoThePast(Sound):
    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> CoreOutput:
        output = super().forward(x, state, reset)
        return output._replace(y=output.y + state["h"][:, None] * 0)


def run(law: Callable[[MemoryCore, Case], None], core: MemoryCore) -> None:
    """Hold a core to one law."""
    for case in draw_cases(30, seed=0):
        law(core, case)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_sound_core_passes(law: Callable[[MemoryCore, Case], None]) -> None:
    run(law, Sound())


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (LeaksTheFuture, causality),
        (IgnoresResets, reset_isolation),
        (KeepsStateOnTheModule, chunk_invariance),
        (DropsTheCacheOnStep, acting_is_learning),
        (MixesRows, row_independence),
        (LetsGradientsIntoThePast, gradients),
    ],
)
def test_a_broken_core_is_caught(broken: type[Sound], law: Callable[[MemoryCore, Case], None]) -> None:
    with pytest.raises(AssertionError):
        run(law, broken())


def test_check_laws_passes_a_sound_core() -> None:
    check_laws(Sound, examples=5)


@pytest.mark.parametrize(
    ("broken", "name"), [(DropsTheCacheOnStep, "acting is learning"), (IgnoresResets, "reset isolation")]
)
def test_check_laws_names_the_law_that_is_broken(broken: type[Sound], name: str) -> None:
    with pytest.raises(LawError, match=f"^{name} does not hold"):
        check_laws(broken, examples=20)


def test_check_laws_names_the_law_in_which_a_core_fails_by_an_error_of_its_own() -> None:
    class Fails(Sound):
        def stream(self, batch_size: int) -> Stream:
            raise RuntimeError("no stream")

    with pytest.raises(LawError, match=r"(?s)^acting is learning.*no stream"):
        check_laws(Fails, examples=3)


@pytest.mark.parametrize("law", [law for law in LAWS if law is not acting_is_learning], ids=lambda law: law.__name__)
def test_dropping_the_cache_breaks_no_other_law(law: Callable[[MemoryCore, Case], None]) -> None:
    run(law, DropsTheCacheOnStep())


@pytest.mark.parametrize("law", [law for law in LAWS if law is not reset_isolation], ids=lambda law: law.__name__)
def test_ignoring_resets_breaks_no_other_law(law: Callable[[MemoryCore, Case], None]) -> None:
    run(law, IgnoresResets())
