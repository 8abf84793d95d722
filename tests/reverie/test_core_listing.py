"""The pages that explain every option: docs/cores.md and docs/configuration.md say what the code says."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agents.config
import audio.config
import lm.config
import memory_cores
from memory_cores.options import Option, describe_fields
from reverie.core_listing import explain_core
from reverie.field_messages import describe_type

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.reverie.test_core_listing"
WRITTEN = f"<!-- Written by {COMMAND} from the code; edit the docstrings there. -->"
OURS = [
    name
    for name in memory_cores.names()
    if memory_cores.core_class(name).__module__.partition(".")[0] in ("memory_cores", "audio")
]
PATHS = {
    "agents": agents.config.ExperimentConfig,
    "text": lm.config.ExperimentConfig,
    "sound": audio.config.ExperimentConfig,
}
CORES = """\
Every core with its equations, its state and its options, as `reverie list cores NAME` prints them. Options are given in
the section `core` of a configuration, beside `name` and `d_model`, or as arguments of `memory_cores.build`. Letters of
shapes are those of the [glossary](glossary.md). How to write a core of your own: [own_parts.md](own_parts.md)."""
CONFIGURATION = """\
Every field of a configuration file. A file has the sections of one path: agents, text or sound. Any field can be set on
the command line by its dotted name, as in `train.seed=2`. The options of each core, which stand beside `core.name`, are
in [cores.md](cores.md)."""
Section = type[Any]


def escape(text: str) -> str:
    """A sentence as a cell of a Markdown table: outside of code, < begins no tag."""
    parts = text.replace("|", r"\|").split("`")
    return "`".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


def spell_default(default: object) -> str:
    """A default as YAML has it."""
    if default is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(default):
        return "that of each field"
    return f"`{json.dumps(default)}`"


def option_table(options: dict[str, Option]) -> list[str]:
    """The lines of a table of options or fields."""
    rows = [
        f"| `{name}` | {escape(describe_type(annotation))} | {escape(spell_default(default))} | {escape(sentence)} |"
        for name, (annotation, default, sentence) in options.items()
    ]
    return ["| name | type | default | meaning |", "| --- | --- | --- | --- |", *rows]


def core_page() -> str:
    """docs/cores.md."""
    lines = ["# Cores", "", WRITTEN, "", CORES]
    for name in OURS:
        core = memory_cores.core_class(name)
        explanation = (inspect.getdoc(core) or "").partition(">>>")[0].rstrip()
        source = f"{core.__module__.replace('.', '/')}.py"
        lines += ["", f"## {name}", "", f"[{core.__module__}:{core.__qualname__}](../{source})", "", explanation, ""]
        lines += option_table(memory_cores.options(name))
    return "\n".join(lines) + "\n"


def sections_in(annotation: Any) -> Iterator[Section]:
    """The dataclasses that a field's type names, at any depth."""
    if dataclasses.is_dataclass(annotation):
        yield typing.cast(Section, annotation)
    for member in typing.get_args(annotation):
        yield from sections_in(member)


def places_of(section: Section, place: str = "") -> Iterator[tuple[Section, str]]:
    """The dataclasses below one, each with the dotted names under which it stands in a configuration."""
    for name, option in describe_fields(section).items():
        for found in sections_in(option.annotation):
            yield found, f"{place}{name}"
            yield from places_of(found, f"{place}{name}.")


def configuration_page() -> str:
    """docs/configuration.md."""
    places: dict[Section, dict[str, None]] = {}
    paths: dict[Section, list[str]] = {}
    for path, experiment in PATHS.items():
        for section, place in places_of(experiment):
            places.setdefault(section, {})[place] = None
            if path not in paths.setdefault(section, []):
                paths[section].append(path)
    lines = ["# Configuration", "", WRITTEN, "", CONFIGURATION]
    groups = {tuple(users) for users in paths.values()}
    for users in sorted(groups, key=lambda users: (-len(users), [*PATHS].index(users[0]))):
        lines += ["", "## All paths" if len(users) == len(PATHS) else f"## {' and '.join(users).capitalize()}"]
        for section in (section for section, found in paths.items() if tuple(found) == users):
            names = ", ".join(f"`{place}`" for place in places[section])
            lines += ["", f"### {names}", "", escape(inspect.getdoc(section) or ""), ""]
            lines += option_table(describe_fields(section))
    return "\n".join(lines) + "\n"


PAGES = {"docs/cores.md": core_page, "docs/configuration.md": configuration_page}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_the_code_says(page: str) -> None:
    assert (ROOT / page).read_text() == PAGES[page](), f"write {page} anew: {COMMAND}"


@pytest.mark.parametrize("page", PAGES)
def test_tables_have_four_columns(page: str) -> None:
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("|")]
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != 5] == []


@pytest.mark.parametrize("name", OURS)
def test_the_listing_of_a_core_has_every_sentence(name: str) -> None:
    listed = "".join(explain_core(name).split())
    for option, (annotation, _, sentence) in memory_cores.options(name).items():
        assert "".join(f"({describe_type(annotation)}) {sentence}".split()) in listed, option


def test_every_field_is_on_the_page() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    sections = {section for experiment in PATHS.values() for section, _ in places_of(experiment)}
    fields = [name for section in sections for name in describe_fields(section)]
    assert [name for name in fields if f"\n| `{name}` |" not in page] == []


if __name__ == "__main__":
    for page, text in PAGES.items():
        (ROOT / page).write_text(text())
