"""Make an environment from its name and arguments, with one clear error where that fails."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.error import UnregisteredEnv

from envs.errors import EnvError
from envs.registration import TASKS, names

MINIGRID = ("MiniGrid-", "BabyAI-")


def make(env_id: str, kwargs: dict[str, Any] | None = None, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make the environment of a Gymnasium id; of `module:Name-v0` the module is imported first.

    MiniGrid and BabyAI ids need the extra `reverie[minigrid]` and come wrapped in `envs.minigrid.OneHotView`.
    Raises EnvError, naming the id and the cause, whatever goes wrong.
    """
    minigrid = env_id.startswith(MINIGRID)
    if minigrid:
        one_hot_view = _minigrid_wrapper(env_id)
    try:
        # An environment that cannot be drawn need not have a render_mode to set.
        rendering: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        env = gymnasium.make(env_id, disable_env_checker=True, **rendering, **(kwargs or {}))
    except UnregisteredEnv:
        raise EnvError(f"environment {env_id!r} is not registered{_suggestion(env_id)}") from None
    except EnvError as error:
        raise EnvError(f"environment {env_id!r}: {error}") from None
    except Exception as error:
        raise EnvError(f"environment {env_id!r}: {type(error).__name__}: {error}{_origin(error)}") from None
    return one_hot_view(env) if minigrid else env


def _minigrid_wrapper(env_id: str) -> Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]:
    """The wrapper of MiniGrid environments; importing it registers their ids."""
    try:
        from envs.minigrid import OneHotView
    except ImportError as error:
        raise EnvError(f"environment {env_id!r}: {error}; pip install reverie[minigrid]") from None
    return OneHotView


def _suggestion(env_id: str) -> str:
    """The registered ids most like an unknown one."""
    module, _, name = env_id.rpartition(":")
    known = {name: name for name in gymnasium.registry} | dict(zip(TASKS, names(), strict=True))
    close = difflib.get_close_matches(name, known, n=3)
    prefix = f"{module}:" if module and module != "envs" else ""
    return f"; did you mean {', '.join(prefix + known[match] for match in close)}?" if close else ""


def _origin(error: Exception) -> str:
    """Where in the environment's own code the error arose, if it was not Gymnasium's."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return "" if "gymnasium" in last.filename else f" ({last.filename}:{last.lineno})"
