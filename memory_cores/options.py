"""Options of a core: one dataclass for each core, whose fields are explained where they are declared.

Building a core, checking a configuration, listing options and the documentation all read that one place.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import textwrap
import typing
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class CoreOptions:
    """The options of a core other than its width.

    Every field has a default, and below it a string that says what the option means, in which unit, where it comes from
    and when to change it.
    """

    def problems(self, d_model: int) -> list[str]:
        """What is wrong with the options for a core of width `d_model`; each problem begins with an option's name."""
        return at_least(1, d_model=d_model)

    def check(self, core: str, d_model: int) -> None:
        """Raise one OptionsError that lists all problems, if there are any."""
        problems = self.problems(d_model)
        if problems:
            raise OptionsError(core, problems)


class OptionsError(ValueError):
    """Options that are not valid for a core; `problems` holds a sentence for each, which begins with its name."""

    def __init__(self, core: str, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(f"options of {core}: " + "; ".join(problems))


class Option(NamedTuple):
    """One option of a core, or one field of a configuration."""

    annotation: Any
    """Its type, with its bounds if it is `Annotated`."""
    default: Any
    """Its default; `dataclasses.MISSING` if a value must be given."""
    sentence: str
    """What it means; empty if the field is not explained."""


def describe_fields(schema: type) -> dict[str, Option]:
    """The fields of a dataclass with their types, defaults and sentences, in the order in which they are declared."""
    annotations = typing.get_type_hints(schema, include_extras=True)
    sentences = field_sentences(schema)
    return {
        field.name: Option(
            annotations[field.name],
            field.default if field.default_factory is dataclasses.MISSING else field.default_factory(),
            sentences.get(field.name, ""),
        )
        for field in dataclasses.fields(schema)
    }


@functools.cache
def field_sentences(schema: type) -> dict[str, str]:
    """The string below each annotated field of a class and of its base classes, joined to one line."""
    found: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, TypeError, SyntaxError):  # a class made at run time has no source
            continue
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(sentence))),
                ):
                    found[name] = " ".join(sentence.split())
    return found


def at_least(minimum: int, **options: object) -> list[str]:
    """The problems of integer options that must be `minimum` or more."""
    return [
        f"{name} is {value!r}, expected an integer >= {minimum}"
        for name, value in options.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum
    ]


def one_of(choices: Any, **options: object) -> list[str]:
    """The problems of options that must be one of the values of the Literal type `choices`."""
    known = typing.get_args(choices)
    return [
        f"{name} is {value!r}, expected one of {', '.join(known)}"
        for name, value in options.items()
        if value not in known
    ]


def multiple_of(divisor: int, of: str, **options: int) -> list[str]:
    """The problems of integer options that must be multiples of `divisor`, the value of the option `of`."""
    return [
        f"{name} is {value}, expected a multiple of {of}, {divisor}"
        for name, value in options.items()
        if value % divisor
    ]


def probability(**options: object) -> list[str]:
    """The problems of options that must lie in [0, 1)."""
    return [
        f"{name} is {value!r}, expected a number in [0, 1)"
        for name, value in options.items()
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1
    ]


def positive(**options: object) -> list[str]:
    """The problems of options that must be finite numbers above 0."""
    return [
        f"{name} is {value!r}, expected a finite number above 0"
        for name, value in options.items()
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf
    ]
