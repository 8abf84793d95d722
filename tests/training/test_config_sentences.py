"""Every field of every section of a configuration is explained beneath it."""

from __future__ import annotations

import dataclasses
import typing

import pytest

import agents.config
import audio.config
import lm.config
from memory_cores.options import field_sentences
from training.config import BaseTrainConfig, ScheduleConfig

EXPERIMENTS = (
    agents.config.ExperimentConfig,
    lm.config.ExperimentConfig,
    lm.config.TextExperimentConfig,
    lm.config.TaskExperimentConfig,
    audio.config.ExperimentConfig,
)


def sections(annotation: object) -> set[type]:
    """The dataclasses in an annotation, and in the annotations of their fields."""
    if not isinstance(annotation, type) or not dataclasses.is_dataclass(annotation):
        return set().union(*(sections(part) for part in typing.get_args(annotation)))
    hints = typing.get_type_hints(annotation, include_extras=True)
    return {annotation}.union(*(sections(hint) for hint in hints.values()))


ALL = sorted(set().union(*map(sections, EXPERIMENTS)), key=lambda cls: (cls.__module__, cls.__name__))


def test_the_sections_are_found() -> None:
    names = {cls.__name__ for cls in ALL}
    assert {"AgentConfig", "StepScheduleConfig", "TaskConfig", "AccumulationConfig", "AudioSamplesConfig"} <= names


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_field_has_its_sentence(cls: type) -> None:
    docs = field_sentences(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        assert docs.get(field.name, "").endswith("."), f"{cls.__name__}.{field.name} has no sentence beneath it"


def test_sentences_of_bases_are_those_of_a_subclass_too() -> None:
    assert field_sentences(lm.config.TrainConfig).items() > field_sentences(BaseTrainConfig).items()
    assert list(field_sentences(ScheduleConfig)) == ["initial", "final", "shape"]
    assert field_sentences(lm.config.TaskExperimentConfig) == field_sentences(lm.config.ExperimentConfig)
