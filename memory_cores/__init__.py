"""Memory cores: maps (B, T, D) + state -> (B, T, D) + state, for agents, text and speech alike.

`build` makes a core from its name: one of `names()`, or `module:Class` for a core of your own. `options` lists its
options, and `describe` says in one line what it is.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Iterable
from importlib.metadata import EntryPoints, entry_points

from memory_cores.compressive.core import Compressive
from memory_cores.core import CoreOutput, MemoryCore, State, Stream
from memory_cores.evolved.core import Evolved
from memory_cores.feedforward import Feedforward
from memory_cores.importing import import_object
from memory_cores.infinity.core import Infinity
from memory_cores.lstm.core import LSTM
from memory_cores.options import CoreOptions, Option, OptionsError, describe_fields
from memory_cores.reformer.core import Reformer
from memory_cores.routing.core import Routing
from memory_cores.sparse.core import Sparse
from memory_cores.transformer_xl import TransformerXL
from memory_cores.universal.core import Universal

__all__ = [
    "CORES",
    "CoreOptions",
    "CoreOutput",
    "MemoryCore",
    "Option",
    "OptionsError",
    "State",
    "Stream",
    "build",
    "core_class",
    "describe",
    "guess",
    "names",
    "options",
]

CORES: dict[str, type[MemoryCore]] = {
    "compressive": Compressive,
    "evolved": Evolved,
    "feedforward": Feedforward,
    "infinity": Infinity,
    "lstm": LSTM,
    "reformer": Reformer,
    "routing": Routing,
    "sparse": Sparse,
    "transformer_xl": TransformerXL,
    "universal": Universal,
}
ENTRY_POINTS = "reverie.cores"
"""The entry point group through which installed packages provide cores, as this project's `audio` provides WaveNet."""


@functools.cache
def provided(group: str) -> EntryPoints:
    """What installed packages provide in an entry point group; read once, as it is a file of every package."""
    return entry_points(group=group)


def names() -> tuple[str, ...]:
    """The names of all cores, built-in and from installed packages, in alphabetical order."""
    return tuple(sorted({*CORES, *provided(ENTRY_POINTS).names}))


def build(name: str, *, d_model: int, **core_options: object) -> MemoryCore:
    """A new core of width `d_model`; options that are not given have their defaults.

    Raises ValueError for an unknown name or option, naming the nearest known one, and OptionsError, which lists all
    problems, for options that are not valid.
    """
    known = options(name)
    unknown = [option for option in core_options if option not in known]
    if unknown:
        raise ValueError("; ".join(f"core {name!r} has no option {guess(option, known)}" for option in unknown))
    found = core_class(name)
    try:
        return found(d_model, found.Options(**core_options))
    except OptionsError as error:
        raise OptionsError(f"core {name!r}", error.problems) from None


def options(name: str) -> dict[str, Option]:
    """The options of a core other than d_model, with their types, defaults and sentences."""
    return describe_fields(core_class(name).Options)


def describe(name: str) -> str:
    """One line on what a core is."""
    return (inspect.getdoc(core_class(name)) or "").partition("\n")[0]


def core_class(name: str) -> type[MemoryCore]:
    """The class of a core; raises ValueError for an unknown name and for a `module:Class` that is not a core.

    The module of `module:Class` is imported, which runs its code (`importing.import_object`).
    """
    if name in CORES:
        return CORES[name]
    place = name
    if ":" not in name:
        points = provided(ENTRY_POINTS).select(name=name)
        if not points:
            raise ValueError(f"there is no core {guess(name, names())}")
        place = next(iter(points)).value
    found = import_object(place)
    if not (isinstance(found, type) and issubclass(found, MemoryCore)):
        raise ValueError(f"the core {name!r} is {found!r}, expected a subclass of memory_cores.MemoryCore")
    return found


def guess(name: str, known: Iterable[str]) -> str:
    """`name` in quotes and a hint: the nearest of `known`, or all of them if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"{name!r}, did you mean {near[0]!r}?"
    return f"{name!r}, expected one of {', '.join(known)}" if known else f"{name!r}, it has none"
