"""From a YAML file and `key=value` overrides to a checked experiment, with all mistakes reported at once."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import agents.config
import audio.config
import lm.config
from reverie import yaml_loader
from reverie.field_messages import describe_type, describe_value, did_you_mean, number_hint
from reverie.paths import Experiment
from reverie.yaml_loader import KeyPath, YamlError
from training.errors import UserError

RENAMED = lm.config.RENAMED | audio.config.RENAMED
RUN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_CORE_FIELDS = ("name", "d_model")


class ConfigError(UserError, ValueError):
    """A configuration that cannot be run; `problems` holds one sentence a mistake."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def load_experiment(path: Path | str, overrides: Sequence[str] = (), granted: Collection[str] = ()) -> Experiment:
    """The experiment of a YAML file with dotted overrides (`agent.unroll_length=32`) applied.

    `granted` are the modules, or their packages, that it may import beyond this program and its environment's.
    Raises ConfigError with all problems of the file, the overrides, the fields and the memory core.
    """
    data, problems, lines = read_experiment(path, overrides)
    config, wrong = validate(_nest_core_options(data), lines)
    problems += wrong
    from reverie.core_check import check_core  # imports torch

    core = data.get("core")
    if isinstance(core, dict) and isinstance(core.get("name"), str):
        options, wrong = check_core(core, config, granted)
        problems += [_add_line(problem, lines) for problem in wrong]
        if config is not None:
            typed: Any = dataclasses.replace(config.core, options=options)
            config = dataclasses.replace(config, core=typed)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def read_experiment(
    path: Path | str, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str], dict[KeyPath, int]]:
    """The plain data of a YAML file with overrides applied, the problems found, and the line of each key.

    Raises ConfigError if the file cannot be read or holds no mapping.
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
    """The schema of a configuration, chosen by its sections and by the fields of `data`.

    `env` stands for reinforcement learning; `data` for language modelling: on a synthetic task if it has the field
    `task`, otherwise on text or audio, whichever knows more of the fields.
    """
    if "data" not in data or "env" in data:
        return agents.config.ExperimentConfig
    given = set(data["data"]) if isinstance(data["data"], dict) else set()
    if "task" in given:
        return lm.config.TaskExperimentConfig
    text, sound = (len(given & set(_fields(schema))) for schema in (lm.config.DataConfig, audio.config.DataConfig))
    return audio.config.ExperimentConfig if sound > text else lm.config.TextExperimentConfig


def validate(data: Mapping[str, Any], lines: Mapping[KeyPath, int]) -> tuple[Experiment | None, list[str]]:
    """The configuration, None if a field is wrong, and a sentence for each wrong field and each broken rule."""
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
        return None, [_add_line(problem, lines) for problem in found]
    found = [*config.problems(), *_name_problems(config.run.name), *_root_problems(config.run.root)]
    return config, [_add_line(problem, lines) for problem in found]


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
    """Move the core's own options from beside its name, as in YAML, to the mapping `options` of CoreConfig."""
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
            return f"{dotted}: missing; expected {describe_type(annotation)}"
        value = value[key]
    return f"{dotted}: expected {describe_type(annotation)}, {describe_value(value)}{number_hint(value, annotation)}"


def _add_line(problem: str, lines: Mapping[KeyPath, int]) -> str:
    dotted, colon, rest = problem.partition(":")
    line = lines.get(tuple(dotted.split(".")))
    return f"{dotted} (line {line}):{rest}" if colon and line else problem


def _name_problems(name: str) -> list[str]:
    if RUN_NAME.fullmatch(name):
        return []
    return [
        f"run.name: expected 1 to 100 of the characters A-Z a-z 0-9 . _ - and no dot in front, {describe_value(name)}"
    ]


def _root_problems(root: str) -> list[str]:
    if root and root.isprintable() and len(root) <= 4096:
        return []
    return [f"run.root: expected the path of a folder, {describe_value(root)}"]
