"""Make an environment from its name and arguments, with one clear error where that fails."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
import traceback
from collections.abc import Callable
from typing import Any

import gymnasium
import gymnasium.wrappers
from gymnasium.error import UnregisteredEnv

from envs.errors import EnvError
from envs.registration import TASKS, names
from memory_cores.importing import import_object

Wrapping = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]

EXTRAS = {
    "MiniGrid-": ("minigrid", "envs.minigrid"),
    "BabyAI-": ("minigrid", "envs.minigrid"),
    "popgym-": ("popgym", "popgym"),
    "ALE/": ("atari", "ale_py"),
    "Vizdoom": ("vizdoom", "vizdoom.gymnasium_wrapper"),
}
"""How ids begin that an extra of this package brings: the extra, and the module whose import registers them."""


WRITER = "RecordVideo"
"""Gymnasium's wrapper that writes files, to a folder among its arguments."""


def make(env_id: str, kwargs: dict[str, Any] | None = None, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make the environment of a Gymnasium id.

    Of `module:Name-v0` the module is imported first; what `module:function` names is called with the arguments.

    `kwargs` go to the environment, but for "wrappers": a list of Gymnasium's own wrappers or of `module:Wrapper`,
    innermost first, each {name: arguments} as in {"FrameStackObservation": {"stack_size": 4}}.
    Ids of MiniGrid, BabyAI, POPGym, ALE and ViZDoom need the extra of this package in `EXTRAS`; those of MiniGrid and
    BabyAI come wrapped in `envs.minigrid.OneHotView`.
    Raises EnvError, naming the id and the cause, whatever goes wrong.

    >>> make("envs:TMaze-v0", {"length": 5}).action_space
    Discrete(3)
    >>> make("envs:TMase-v0")
    Traceback (most recent call last):
    envs.errors.EnvError: environment 'envs:TMase-v0' is not registered; did you mean envs:TMaze-v0?
    """
    arguments = dict(kwargs or {})
    chosen = arguments.pop("wrappers", [])
    wrappers = _wrappers_of_extra(env_id)
    try:
        wrappers += _chosen_wrappers(chosen)
        # An environment that cannot be drawn need not have a render_mode to set.
        if render_mode is not None:
            arguments["render_mode"] = render_mode
        function = _function(env_id)
        if function is None:
            env = gymnasium.make(env_id, disable_env_checker=True, **arguments)
        else:
            env = function(**arguments)
            if not isinstance(env, gymnasium.Env):
                raise EnvError(f"made {type(env).__name__}, expected a gymnasium.Env")
        for wrapper in wrappers:
            env = wrapper(env)
    except UnregisteredEnv:
        raise EnvError(f"environment {env_id!r} is not registered{_suggestion(env_id)}{_module_hint(env_id)}") from None
    except EnvError as error:
        raise EnvError(f"environment {env_id!r}: {error}") from None
    except Exception as error:
        raise EnvError(
            f"environment {env_id!r}: {type(error).__name__}: {error}{_origin(error)}{_keyword_hint(error, arguments)}"
        ) from None
    return env


def receivers(env_id: str, kwargs: dict[str, Any]) -> list[str]:
    """The modules beyond this project's and Gymnasium's tasks that act on the arguments of an environment.

    Arguments may name files to read, to write and to run: ViZDoom starts the program in `vizdoom_path`. An id with a
    module of its own is not looked at.
    """
    found = []
    if kwargs.keys() - {"wrappers"} and ":" not in env_id:
        found = [module for prefix, (_, module) in EXTRAS.items() if env_id.startswith(prefix)]
        if not found:  # without a version the newest is made
            specs = [spec for name, spec in gymnasium.registry.items() if env_id in (name, name.rpartition("-v")[0])]
            entries = [spec.entry_point for spec in specs]
            found = [of.partition(":")[0] if isinstance(of, str) else str(of.__module__) for of in entries]
    chosen = kwargs.get("wrappers", [])
    if any(isinstance(entry, dict) and WRITER in entry for entry in (chosen if isinstance(chosen, list) else [chosen])):
        found.append(f"gymnasium.wrappers.{WRITER}")
    return [module for module in dict.fromkeys(found) if not module.startswith(("envs.", "gymnasium.envs."))]


def _wrappers_of_extra(env_id: str) -> list[Wrapping]:
    """Import the module that registers the ids of an extra; its wrappers, which only MiniGrid has."""
    for prefix, (extra, module) in EXTRAS.items():
        if env_id.startswith(prefix):
            try:
                imported = importlib.import_module(module)
            except ImportError as error:
                raise EnvError(f"environment {env_id!r}: {error}; pip install reverie[{extra}]") from None
            return [imported.OneHotView] if extra == "minigrid" else []
    return []


def _function(env_id: str) -> Callable[..., Any] | None:
    """What `module:function` names; None for an id, which no function's name can be where it has a version."""
    module, colon, name = env_id.partition(":")
    if not (colon and name.isidentifier()):
        return None
    found = getattr(importlib.import_module(module), name, None)
    return found if callable(found) else None


def _chosen_wrappers(chosen: Any) -> list[Wrapping]:
    """Wrappers by their names, with their arguments; EnvError on what is none."""
    known = {
        name: wrapper
        for name, wrapper in vars(gymnasium.wrappers).items()
        if isinstance(wrapper, type) and issubclass(wrapper, gymnasium.Wrapper)
    }
    found: list[Wrapping] = []
    for entry in chosen if isinstance(chosen, list) else [chosen]:
        if not (isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict)):
            raise EnvError(f"wrappers: expected a list of {{name: {{argument: value}}}}, got {entry!r}")
        ((name, arguments),) = entry.items()
        if ":" in str(name):
            known[name] = _own_wrapper(name)
        elif name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise EnvError(f"wrappers: Gymnasium has no wrapper {name!r}{hint}")
        found.append(functools.partial(known[name], **arguments))
    return found


def _own_wrapper(name: str) -> Any:
    """The class `module:Wrapper`."""
    try:
        found = import_object(name)
    except ValueError as error:
        raise EnvError(f"wrappers: {error}") from None
    if not (isinstance(found, type) and issubclass(found, gymnasium.Wrapper)):
        raise EnvError(f"wrappers: {name!r} is {found!r}, expected a subclass of gymnasium.Wrapper")
    return found


def _suggestion(env_id: str) -> str:
    """The registered ids most like an unknown one."""
    module, _, name = env_id.rpartition(":")
    known = {name: name for name in gymnasium.registry} | dict(zip(TASKS, names(), strict=True))
    close = difflib.get_close_matches(name, known, n=3)
    prefix = f"{module}:" if module and module != "envs" else ""
    return f"; did you mean {', '.join(prefix + known[match] for match in close)}?" if close else ""


def _module_hint(env_id: str) -> str:
    """What registers an id must be imported in every process that makes it, not in the caller's alone."""
    return "" if ":" in env_id else f"; an id that a module registers is written with it, as in module:{env_id}"


def _keyword_hint(error: Exception, arguments: dict[str, Any]) -> str:
    """What to do about an argument that the environment does not take."""
    found = re.search(r"unexpected keyword argument '(\w+)'|takes no arguments", str(error))
    if not (isinstance(error, TypeError) and found and arguments):
        return ""
    name = found[1] or [*arguments][-1]
    if name == "render_mode":
        return "; it gives no pictures, for which it would take a render_mode"
    return f"; {name} is set in env.kwargs, perhaps for another environment: env.kwargs={{}} sets none"


def _origin(error: Exception) -> str:
    """Where in the environment's own code the error arose, if it was not Gymnasium's."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    return "" if "gymnasium" in last.filename else f" ({last.filename}:{last.lineno})"
