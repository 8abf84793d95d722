"""Making environments by name: what is found, what is refused and how the refusal reads."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import envs


def test_gymnasium_and_own_ids_are_made_with_their_arguments() -> None:
    assert envs.make("CartPole-v1").spec.id == "CartPole-v1"  # type: ignore[union-attr]
    assert envs.make("envs:TMaze-v0", {"length": 3}).unwrapped.length == 3  # type: ignore[attr-defined]
    for name in envs.names():
        assert envs.make(name).reset(seed=0)[1] == {}


def test_registering_again_is_silent_and_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    importlib.import_module("envs").register()
    assert dict(gymnasium.registry) == before


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a module that the user might name."""
    monkeypatch.syspath_prepend(tmp_path)
    registered = set(gymnasium.registry)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    for name in set(gymnasium.registry) - registered:
        del gymnasium.registry[name]


def test_a_named_module_is_imported(user_module: Any) -> None:
    module = user_module(
        "users_maze", "import gymnasium\ngymnasium.register('Mine-v0', entry_point='envs.tmaze:TMaze')\n"
    )
    assert envs.make(f"{module}:Mine-v0", {"length": 4}).unwrapped.length == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "messages"),
    [
        ("CartPoel-v1", {}, ["'CartPoel-v1'", "did you mean", "CartPole-v1"]),
        ("envs:TMaize-v0", {}, ["'envs:TMaize-v0'", "did you mean envs:TMaze-v0"]),
        ("TMaize-v0", {}, ["did you mean envs:TMaze-v0"]),
        ("CartPole-v77", {}, ["'CartPole-v77'", "CartPole-v1"]),
        ("no_such_module:Thing-v0", {}, ["'no_such_module:Thing-v0'", "no_such_module"]),
        ("", {}, ["''"]),
        ("../../etc", {}, ["'../../etc'"]),
        ("a:b:c-v0", {}, ["'a:b:c-v0'"]),
        ("envs:TMaze-v0", {"lenght": 3}, ["'envs:TMaze-v0'", "lenght", "env.kwargs={} sets none"]),
        ("CartPole-v1", {"length": 3}, ["length is set in env.kwargs, perhaps for another environment"]),
        ("Labyrinth-v0", {}, ["written with it, as in module:Labyrinth-v0"]),
        ("envs:TMaze-v0", {"length": "long"}, ["'envs:TMaze-v0'"]),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_one_error(env_id: str, kwargs: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(envs.EnvError) as caught:
        envs.make(env_id, kwargs)
    for message in messages:
        assert message in str(caught.value)
    assert "The above exception" not in "".join(traceback.format_exception(caught.value))
    assert "During handling" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", ["raise OSError('no display')", "import missing_thing", "1 +"])
def test_a_module_that_fails_to_import_is_one_error(user_module: Any, text: str) -> None:
    module = user_module("users_broken", text)
    with pytest.raises(envs.EnvError, match="users_broken:Mine-v0"):
        envs.make(f"{module}:Mine-v0")


def test_an_unknown_id_of_a_named_module_suggests_with_the_module(user_module: Any) -> None:
    module = user_module(
        "users_maze", "import gymnasium\ngymnasium.register('Labyrinth-v0', entry_point='envs.tmaze:TMaze')\n"
    )
    with pytest.raises(envs.EnvError, match="did you mean users_maze:Labyrinth-v0"):
        envs.make(f"{module}:Labirinth-v0")


def test_minigrid_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("minigrid", "minigrid.core", "minigrid.core.constants"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "envs.minigrid", raising=False)
    with pytest.raises(envs.EnvError, match=r"pip install reverie\[minigrid\]"):
        envs.make("MiniGrid-MemoryS7-v0")


class Spaces(gymnasium.Env[Any, Any]):
    """Nothing but its spaces."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space


BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


@pytest.mark.parametrize(
    "observation",
    [
        BOX,
        spaces.Box(-1, 1, ()),
        spaces.Discrete(2),
        spaces.MultiBinary(3),
        spaces.Text(5),
        spaces.Dict({"a": spaces.Tuple((BOX, BOX)), "mission": spaces.Text(500)}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "action",
    [
        spaces.Discrete(2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        BOX,
        spaces.Dict({"a": BOX, "b": spaces.Tuple((spaces.Discrete(2),))}),
    ],
    ids=str,
)
def test_usable_spaces_pass(observation: Any, action: Any) -> None:
    envs.check_spaces(Spaces(observation, action))


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Sequence(BOX), BOX, "observation_space is Sequence, expected Box, Discrete"),
        (
            spaces.Dict({"a": spaces.Tuple((BOX, spaces.Sequence(BOX)))}),
            BOX,
            r"observation_space\['a'\]\[1\] is Sequence, .*FilterObservation of env.kwargs.wrappers leaves it out",
        ),
        (spaces.Dict({}), BOX, "observation_space is empty"),
        (BOX, spaces.Text(5), "action_space is Text, expected Discrete"),
        (spaces.Box(0, 1, (0,)), BOX, r"observation_space is a Box of shape \(0,\), which holds no number"),
        (spaces.Dict({"a": spaces.Box(0, 1, (3, 0))}), BOX, r"observation_space\['a'\] is a Box of shape \(3, 0\)"),
        (BOX, spaces.Box(0, 1, (0,)), r"action_space is a Box of shape \(0,\), which holds no number"),
        (BOX, spaces.Dict({}), "action_space is empty"),
        (BOX, spaces.Dict({"a": spaces.Tuple((BOX, spaces.Text(5)))}), r"action_space\['a'\]\[1\] is Text, expected"),
        (BOX, spaces.Box(0, 3, (2,), np.int32), "action_space is a Box of int32"),
        (None, BOX, "observation_space is NoneType"),
    ],
    ids=str,
)
def test_unusable_spaces_are_named(observation: Any, action: Any, message: str) -> None:
    with pytest.raises(envs.EnvError, match=message):
        envs.check_spaces(Spaces(observation, action))
    with pytest.raises(envs.EnvError, match=message):
        envs.EnvVector(lambda: Spaces(observation, action), num_envs=1, seed=0)
