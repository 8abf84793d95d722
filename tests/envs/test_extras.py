"""Environments of other packages: POPGym, Atari and ViZDoom, stepped in a vector as an agent would."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import envs

ATARI = [{"AtariPreprocessing": {"frame_skip": 4}}, {"FrameStackObservation": {"stack_size": 4}}]


def random_steps(env_id: str, kwargs: dict[str, Any], steps: int) -> envs.EnvVector:
    """A vector of two after random actions, checked by the vector itself."""
    vector = envs.EnvVector(lambda: envs.make(env_id, kwargs), num_envs=2, seed=0)
    vector.action_space.seed(0)
    for _ in range(steps):
        vector.step(np.array([vector.action_space.sample() for _ in range(2)]))
    return vector


@pytest.mark.parametrize(
    ("task", "observed"),
    [
        ("RepeatPreviousEasy", spaces.Discrete),
        ("RepeatFirstEasy", spaces.Discrete),
        ("AutoencodeEasy", spaces.Tuple),
        ("ConcentrationEasy", spaces.MultiDiscrete),
        ("BattleshipEasy", spaces.Discrete),
        ("PositionOnlyPendulumEasy", spaces.Box),
    ],
)
def test_popgym_steps_in_a_vector(task: str, observed: type) -> None:
    pytest.importorskip("popgym", reason="needs reverie[popgym]")
    vector = random_steps(f"popgym-{task}-v0", {}, steps=210)
    assert isinstance(vector.observation_space, observed)
    assert vector.pop_episodes()


def test_atari_frames_are_preprocessed_by_gymnasiums_wrappers() -> None:
    pytest.importorskip("ale_py", reason="needs reverie[atari]")
    pytest.importorskip("cv2", reason="needs reverie[atari]")
    vector = random_steps("ALE/Pong-v5", {"frameskip": 1, "wrappers": ATARI}, steps=3)
    assert vector.observation_space == spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert vector.entry.observation["observation"].std() > 1


def test_vizdoom_shows_its_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vizdoom", reason="needs reverie[vizdoom]")
    monkeypatch.chdir(tmp_path)  # it writes _vizdoom.ini where it runs
    vector = random_steps("VizdoomBasic-v1", {}, steps=3)
    assert vector.entry.observation["observation['screen']"].shape == (2, 240, 320, 3)
    vector.close()


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [
        ("popgym-RepeatFirstEasy-v0", "popgym", "popgym"),
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("VizdoomBasic-v1", "vizdoom.gymnasium_wrapper", "vizdoom"),
    ],
)
def test_a_missing_package_names_its_extra(
    env_id: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(envs.EnvError, match=rf"{env_id}.*pip install reverie\[{extra}\]"):
        envs.make(env_id)


def test_wrappers_go_on_in_their_order() -> None:
    env = envs.make(
        "envs:TMaze-v0",
        {"length": 3, "wrappers": [{"FlattenObservation": {}}, {"FrameStackObservation": {"stack_size": 2}}]},
    )
    assert env.observation_space.shape == (2, 4)
    assert type(env).__name__ == "FrameStackObservation"
    assert env.unwrapped.length == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        ([{"FrameStackObservatoin": {}}], "no wrapper 'FrameStackObservatoin'; did you mean FrameStackObservation"),
        (["FrameStackObservation"], "expected a list of .* got 'FrameStackObservation'"),
        ([{"FrameStackObservation": {"stack": 4}}], "FrameStackObservation.*stack"),
        ([{"FrameStackObservation": {}, "FlattenObservation": {}}], "expected a list"),
        (3, "expected a list of .* got 3"),
        ([{"FlattenObservation": {}}, {"numpy": {}}], "no wrapper 'numpy'"),
    ],
)
def test_impossible_wrappers_are_refused(wrappers: Any, message: str) -> None:
    with pytest.raises(envs.EnvError, match=message) as caught:
        envs.make("envs:TMaze-v0", {"wrappers": wrappers})
    assert "envs:TMaze-v0" in str(caught.value)
