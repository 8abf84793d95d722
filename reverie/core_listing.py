"""What `reverie list cores` prints."""

from __future__ import annotations

import inspect
import textwrap

import memory_cores
from reverie.field_messages import describe_type
from training.errors import UserError

WIDTH = 100


def list_cores() -> str:
    """The cores, each with what it is on one line and its options with their defaults."""
    lines = []
    for name in memory_cores.names():
        try:
            lines.append(f"{name:<20} {memory_cores.describe(name)}")
            lines += [f"    {option} = {found.default!r}" for option, found in memory_cores.options(name).items()]
        except ValueError as error:  # of an installed package that is broken; the others are listed all the same
            lines.append(f"{name:<20} {error}")
    return "\n".join([*lines, "", "reverie list cores NAME explains the options of one."])


def explain_core(name: str) -> str:
    """What a core is and does, and each of its options: its type, its default, and its sentence."""
    try:
        found = memory_cores.core_class(name)
    except ValueError as error:
        raise UserError(f"list cores: {error}") from None
    lines = [f"{name}: {found.__module__}:{found.__qualname__}", "", inspect.getdoc(found) or "", "", "Options:"]
    for option, (annotation, default, sentence) in memory_cores.options(name).items():
        lines.append(f"  {option} = {default!r}  ({describe_type(annotation)})")
        lines += textwrap.wrap(sentence, WIDTH, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)
