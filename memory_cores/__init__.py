"""Memory cores: maps (B, T, D) + state -> (B, T, D) + state that serve agents, text and speech alike.

`build` makes a core from its name in `names()`; `options` and `describe` say what it takes and what it is.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable

from memory_cores.compressive.core import Compressive
from memory_cores.core import CoreOutput, MemoryCore, State, Stream
from memory_cores.feedforward import Feedforward
from memory_cores.infinity.core import Infinity
from memory_cores.lstm.core import LSTM
from memory_cores.transformer_xl import TransformerXL
from memory_cores.universal.core import Universal

__all__ = ["CORES", "CoreOutput", "MemoryCore", "State", "Stream", "build", "describe", "names", "options"]

CORES: dict[str, type[MemoryCore]] = {
    "compressive": Compressive,
    "feedforward": Feedforward,
    "infinity": Infinity,
    "lstm": LSTM,
    "transformer_xl": TransformerXL,
    "universal": Universal,
}
# The audio baseline is a core too, but `audio` stands above this package: its module is imported when it is asked for.
ELSEWHERE = {"wavenet": ("audio.wavenet", "WaveNet")}


def names() -> tuple[str, ...]:
    """The names of all cores, in alphabetical order."""
    return tuple(sorted({*CORES, *ELSEWHERE}))


def build(name: str, *, d_model: int, **core_options: object) -> MemoryCore:
    """A new core of width `d_model`, with its defaults for every option not given.

    Raises ValueError for an unknown name or option, with the nearest known one, and for options that do not
    fit, all of them at once.
    """
    known = options(name)
    unknown = [option for option in core_options if option not in known]
    if unknown:
        raise ValueError("; ".join(f"core {name!r} has no option {guess(option, known)}" for option in unknown))
    return core_class(name)(d_model=d_model, **core_options)


def options(name: str) -> dict[str, inspect.Parameter]:
    """The keyword options of a core beside d_model, with defaults and types (`Parameter.annotation`)."""
    parameters = inspect.signature(core_class(name), eval_str=True).parameters
    return {option: parameter for option, parameter in parameters.items() if option != "d_model"}


def describe(name: str) -> str:
    """One line on what a core is."""
    return (inspect.getdoc(core_class(name)) or "").partition("\n")[0]


def core_class(name: str) -> type[MemoryCore]:
    """The class of a core; raises ValueError for an unknown name."""
    if name in ELSEWHERE:
        module, attribute = ELSEWHERE[name]
        found: type[MemoryCore] = getattr(importlib.import_module(module), attribute)
        return found
    if name not in CORES:
        raise ValueError(f"there is no core {guess(name, names())}")
    return CORES[name]


def guess(name: str, known: Iterable[str]) -> str:
    """`name` quoted, with the nearest of `known`, or all of them where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"{name!r}, did you mean {near[0]!r}?"
    return f"{name!r}, expected one of {', '.join(known)}" if known else f"{name!r}, it has none"
