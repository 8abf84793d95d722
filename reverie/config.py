"""From a YAML file and `key=value` overrides to a checked experiment, all mistakes reported at once.

The sections at the top choose the schema: `env` is reinforcement learning, `data` is language modelling: on a
synthetic task if it has a `task`, else on text or on audio, whichever has more of the fields that are in it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

import agents.config
import audio.config
import lm.config
from reverie import yaml_loader
from reverie.yaml_loader import KeyPath, YamlError
from training.errors import UserError

RENAMED = lm.config.RENAMED | audio.config.RENAMED
RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_CORE_FIELDS = ("name", "d_model")

Experiment = agents.config.ExperimentConfig | lm.config.ExperimentConfig | audio.config.ExperimentConfig


class ConfigError(UserError, ValueError):
    """A configuration that cannot be run; `problems` holds one sentence for each mistake."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def load_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a YAML file with dotted overrides (`agent.unroll_length=32`) applied.

    Raises ConfigError with all problems of the file, the overrides, the fields and the memory core.
    """
    data, problems, lines = read_experiment(path, overrides)
    config, wrong = validate(_nest_core_options(data), lines)
    problems += wrong
    from reverie.core_check import check_core  # imports torch

    core = data.get("core")
    if isinstance(core, dict) and isinstance(core.get("name"), str):
        options, wrong = check_core(core, config)
        problems += [_with_line(problem, lines) for problem in wrong]
        if config is not None:
            typed: Any = dataclasses.replace(config.core, options=options)
            config = dataclasses.replace(config, core=typed)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def read_experiment(
    path: Path | str, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str], dict[KeyPath, int]]:
    """The plain data of a YAML file with overrides applied, the problems met, and the line of each key.

    Raises ConfigError where there is no mapping to go on with.
    """
    try:
        document = yaml_loader.read(Path(path))
    except YamlError as error:
        raise ConfigError([f"{path}: {error}"]) from error
    if not isinstance(document.value, dict):
        raise ConfigError([f"{path}: expected a mapping with env or data, core, train and run at the top"])
    problems, lines = list(document.problems), dict(document.lines)
    for override in overrides:
        problems += _apply_override(document.value, lines, override)
    return document.value, problems, lines


def dump(config: Experiment) -> str:
    """YAML that `load_experiment` reads back as the same configuration."""
    data = dataclasses.asdict(config)
    data["core"] |= data["core"].pop("options")
    return yaml_loader.dump(data)


def schema_of(data: Mapping[str, Any]) -> type[Experiment]:
    """The schema that the sections at the top, and the fields of `data`, choose."""
    if "data" not in data or "env" in data:
        return agents.config.ExperimentConfig
    given = set(data["data"]) if isinstance(data["data"], dict) else set()
    if "task" in given:
        return lm.config.TaskExperimentConfig
    text, sound = (len(given & set(_fields(schema))) for schema in (lm.config.DataConfig, audio.config.DataConfig))
    return audio.config.ExperimentConfig if sound > text else lm.config.TextExperimentConfig


def validate(data: Mapping[str, Any], lines: Mapping[KeyPath, int]) -> tuple[Experiment | None, list[str]]:
    """The configuration, or None, and a sentence for each wrong field and each broken rule across fields."""
    schema = schema_of(data)
    try:
        config: Experiment = TypeAdapter(schema).validate_json(json.dumps(data))
    except ValidationError as error:
        problems: dict[str, str] = {}
        failures = [_schema_path(schema, failure["loc"]) for failure in error.errors(include_url=False)]
        for path in failures:
            deeper = any(len(other) > len(path) and other[: len(path)] == path for other in failures)
            if not deeper:
                problems[".".join(path)] = _describe(schema, path, data)
        run = data.get("run")
        name = run.get("name") if isinstance(run, dict) else None
        for new in [RENAMED.get(dotted) for dotted in problems]:
            if new is not None and problems.get(new, "").startswith(f"{new}: missing"):
                del problems[new]  # it is there, under its old name
        found = [*problems.values(), *(_name_problems(name) if isinstance(name, str) else [])]
        return None, [_with_line(problem, lines) for problem in found]
    found = [*config.problems(), *_name_problems(config.run.name), *_root_problems(config.run.root)]
    return config, [_with_line(problem, lines) for problem in found]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the known words, or all of them if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(known)}" if known else "none are known"


def got(value: object) -> str:
    """A value as it is shown in an error, with its type."""
    text = repr(value)
    return f"got {text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def number_hint(value: object, annotation: Any) -> str:
    """How to write a number that was written as something else, or nothing."""
    kinds = _scalar_kinds(annotation)
    if isinstance(value, str) and kinds & {int, float}:
        try:
            float(value)
        except ValueError:
            return ""
        return "; write the number without quotes or underscores"
    if isinstance(value, float) and int in kinds and value.is_integer() and abs(value) < 1e18:
        return f"; write {int(value)}"
    return ""


def expected(annotation: Any) -> str:
    """A plain sentence part for what a field may hold: `an integer >= 1`, `one of 'adam', 'rmsprop'`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        base, *metadata = typing.get_args(annotation)
        return expected(base) + _bounds(metadata)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(expected(member) for member in typing.get_args(annotation))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
    if dataclasses.is_dataclass(annotation):
        return "a mapping with " + ", ".join(item.name for item in dataclasses.fields(annotation))
    if origin in (list, tuple) and typing.get_args(annotation):
        return f"a list, each {expected(typing.get_args(annotation)[0])}"
    plain = {int: "an integer", float: "a finite number", str: "text", bool: "true or false"}
    containers = {dict: "a mapping", list: "a list", tuple: "a list", None: "null", type(None): "null"}
    return plain.get(annotation) or containers.get(origin or annotation) or str(annotation)


def _bounds(metadata: Iterable[Any]) -> str:
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


def _scalar_kinds(annotation: Any) -> set[Any]:
    if annotation in (int, float, str, bool):
        return {annotation}
    return set().union(*(_scalar_kinds(member) for member in typing.get_args(annotation)), set())


def _apply_override(data: dict[str, Any], lines: dict[KeyPath, int], override: str) -> list[str]:
    key, equals, text = override.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(path):
        return [f"override {override!r}: expected section.field=value"]
    if len(path) > yaml_loader.MAX_DEPTH:
        return [f"override {override[:60]!r}...: nested deeper than {yaml_loader.MAX_DEPTH} levels"]
    try:
        document = yaml_loader.parse(text)
    except YamlError as error:
        return [f"override {override!r}: {error}"]
    section = data
    for depth, name in enumerate(path[:-1], start=1):
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            parent = ".".join(path[:depth])
            return [f"override {override!r}: {parent} is {section!r}, not a mapping"]
    section[path[-1]] = document.value
    for known in [known for known in lines if known[: len(path)] == path]:
        del lines[known]  # the value no longer comes from the file
    return [f"override {override!r}: {problem}" for problem in document.problems]


def _nest_core_options(data: Mapping[str, Any]) -> dict[str, Any]:
    """The core's own options stand beside its name in YAML and in a mapping of their own in CoreConfig."""
    core = data.get("core")
    if not isinstance(core, dict):
        return dict(data)
    nested = {key: core[key] for key in _CORE_FIELDS if key in core}
    nested["options"] = {key: value for key, value in core.items() if key not in _CORE_FIELDS}
    return {**data, "core": nested}


def _schema_path(schema: type[Experiment], location: Sequence[int | str]) -> KeyPath:
    """The keys of a pydantic location, without the tags it adds for the members of a union."""
    path: list[str] = []
    annotation: Any = schema
    for part in location:
        fields = _fields(annotation)
        if fields and part not in fields and part in _union_tags(annotation):
            continue
        if not fields and isinstance(part, str) and typing.get_origin(annotation) is not dict:
            continue
        path.append(str(part))
        annotation = fields.get(str(part))
    return tuple(path)


def _union_tags(annotation: Any) -> set[str]:
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return set()
    members = typing.get_args(annotation)
    return {"constrained-float", "constrained-int", "float", "int", "str", "none"} | {
        member.__name__ for member in members if isinstance(member, type) and dataclasses.is_dataclass(member)
    }


def _fields(annotation: Any) -> dict[str, Any]:
    """The fields of a dataclass, or of the dataclasses in a union, with their annotations."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return typing.get_type_hints(annotation, include_extras=True)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        found: dict[str, Any] = {}
        for member in typing.get_args(annotation):
            found |= _fields(member)
        return found
    return {}


def _describe(schema: type[Experiment], path: KeyPath, data: Mapping[str, Any]) -> str:
    dotted = ".".join(path) or "configuration"
    annotation: Any = schema
    value: Any = data
    for depth, key in enumerate(path):
        if isinstance(value, list):
            dotted = ".".join(path[:depth])
            break
        fields = _fields(annotation)
        if fields and key not in fields:
            new = RENAMED.get(dotted)
            return f"{dotted}: renamed; write {new}" if new else f"{dotted}: unknown key; {did_you_mean(key, fields)}"
        annotation = fields.get(key)
        if not isinstance(value, dict) or key not in value:
            return f"{dotted}: missing; expected {expected(annotation)}"
        value = value[key]
    return f"{dotted}: expected {expected(annotation)}, {got(value)}{number_hint(value, annotation)}"


def _with_line(problem: str, lines: Mapping[KeyPath, int]) -> str:
    dotted, colon, rest = problem.partition(":")
    line = lines.get(tuple(dotted.split(".")))
    return f"{dotted} (line {line}):{rest}" if colon and line else problem


def _name_problems(name: str) -> list[str]:
    if RUN_NAME.fullmatch(name):
        return []
    return [f"run.name: expected 1 to 100 of the characters A-Z a-z 0-9 . _ - and no dot in front, {got(name)}"]


def _root_problems(root: str) -> list[str]:
    if root and root.isprintable() and len(root) <= 4096:
        return []
    return [f"run.root: expected the path of a folder, {got(root)}"]
