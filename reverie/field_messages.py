"""The parts of a message about one field: what it may hold, what it holds, and which word was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

import annotated_types
from pydantic.fields import FieldInfo


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the known words, or all of them if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(known)}" if known else "none are known"


def describe_value(value: object) -> str:
    """What a field got: `got '8' (str)`; a long value is cut."""
    text = repr(value)
    return f"got {text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def number_hint(value: object, annotation: Any) -> str:
    """How to write a number that was given as text, or an integer that was given as a float; otherwise empty."""
    kinds = scalar_kinds(annotation)
    if isinstance(value, str) and kinds & {int, float}:
        try:
            float(value)
        except ValueError:
            return ""
        return "; write the number without quotes or underscores"
    if isinstance(value, float) and int in kinds and value.is_integer() and abs(value) < 1e18:
        return f"; write {int(value)}"
    return ""


def describe_type(annotation: Any) -> str:
    """What a field may hold, in words: `an integer >= 1`, `one of 'adam', 'rmsprop'`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        base, *metadata = typing.get_args(annotation)
        return describe_type(base) + describe_bounds(metadata)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe_type(member) for member in typing.get_args(annotation))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
    if dataclasses.is_dataclass(annotation):
        return "a mapping with " + ", ".join(item.name for item in dataclasses.fields(annotation))
    if origin in (list, tuple) and typing.get_args(annotation):
        return f"a list, each {describe_type(typing.get_args(annotation)[0])}"
    plain = {int: "an integer", float: "a finite number", str: "text", bool: "true or false"}
    containers = {dict: "a mapping", list: "a list", tuple: "a list", None: "null", type(None): "null"}
    return plain.get(annotation) or containers.get(origin or annotation) or str(annotation)


def describe_bounds(metadata: Iterable[Any]) -> str:
    """The limits in the metadata of an `Annotated` type, with a space in front: ` >= 1 and < 10`; empty without any."""
    limits: list[str] = []
    flat = [item for entry in metadata for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    for limit in flat:
        match limit:
            case annotated_types.Ge(ge=bound):
                limits.append(f">= {bound}")
            case annotated_types.Gt(gt=bound):
                limits.append(f"> {bound}")
            case annotated_types.Le(le=bound):
                limits.append(f"<= {bound}")
            case annotated_types.Lt(lt=bound):
                limits.append(f"< {bound}")
            case annotated_types.MinLen(min_length=length):
                limits.append(f"of at least {length} characters")
            case annotated_types.MaxLen(max_length=length):
                limits.append(f"of at most {length} characters")
    return " " + " and ".join(limits) if limits else ""


def scalar_kinds(annotation: Any) -> set[Any]:
    """Which of int, float, str and bool an annotation allows, at any depth."""
    if annotation in (int, float, str, bool):
        return {annotation}
    return set().union(*(scalar_kinds(member) for member in typing.get_args(annotation)), set())
