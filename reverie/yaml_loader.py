"""YAML for configuration files: plain data only, YAML 1.2 scalars, bounded in size and depth.

PyYAML's own loader reads `1e-4` as a string, `on` as true and `010` as 8, keeps the last of two equal keys,
and expands aliases without a bound. Here its event stream is read directly, and each value is checked before it is
built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from training.files import open_regular

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_NODES = 10_000

KeyPath = tuple[str, ...]
"""The keys that lead to a value."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
}


@dataclass(frozen=True)
class Document:
    """The content of a YAML text."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    """The line of each key, counted from 1."""
    problems: list[str] = field(default_factory=list)
    """Mistakes that do not stop the reading: repeated keys, ambiguous numbers."""


class YamlError(ValueError):
    """A text that cannot be read; the message gives the place and the reason."""


def scalar(text: str) -> Any:
    """The value of an unquoted scalar by the core schema of YAML 1.2 (section 10.3.2).

    Raises ValueError for a number with leading zeros, which YAML 1.1 reads as octal and 1.2 as decimal.

    >>> scalar("1e-4"), scalar("on"), scalar("true"), scalar("~")
    (0.0001, 'on', True, None)
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _LEADING_ZERO.fullmatch(text):
        raise ValueError(f"{text} has leading zeros; write it without them, or in quotes if it is text")
    if _INTEGER.fullmatch(text):
        if len(text) > 40:
            raise ValueError(f"an integer of {len(text)} characters is too long")
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def read(path: Path) -> Document:
    """Read a YAML file of at most MAX_BYTES; raises YamlError."""
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise YamlError(f"cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise YamlError(f"is larger than {MAX_BYTES // 1024} KiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(f"is not UTF-8 text (byte {error.start})") from error
    return parse(text)


def parse(text: str) -> Document:
    """Read one YAML document; raises YamlError."""
    reader = _Reader(text)
    try:
        value = reader.document()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError(f"{line}{error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise YamlError(f"character {error.position} is not allowed in YAML") from error
    except (ValueError, OverflowError) as error:
        raise error if isinstance(error, YamlError) else YamlError(str(error)) from error
    return Document(value, reader.lines, reader.problems)


class _Reader:
    """Builds plain data from PyYAML's events; refuses aliases, tags and whatever else a configuration does not need."""

    def __init__(self, text: str) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.nodes = 0
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[str] = []

    def document(self) -> Any:
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.node(next(self.events), ())
        next(self.events)  # the document's end
        if not isinstance(next(self.events), yaml.StreamEndEvent):
            raise YamlError("holds more than one document")
        return value

    def node(self, event: yaml.Event, path: KeyPath) -> Any:
        line = _line(event)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise YamlError(f"line {line}: more than {MAX_NODES} values")
        if len(path) > MAX_DEPTH:
            raise YamlError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YamlError(f"line {line}: anchors and aliases (& and *) are not supported; in text, use quotes")
        if getattr(event, "tag", None) is not None:
            raise YamlError(f"line {line}: tags (!) are not supported; in text, use quotes")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, path, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path)
        return self.mapping(path)

    def scalar(self, event: yaml.ScalarEvent, path: KeyPath, line: int) -> Any:
        try:
            event.value.encode()
        except UnicodeEncodeError as error:
            raise YamlError(f"line {line}: half of a surrogate pair is not text") from error
        if event.style is not None:
            return event.value
        try:
            return scalar(event.value)
        except ValueError as error:
            self.problems.append(f"{'.'.join(path) or 'value'} (line {line}): {error}")
            return event.value

    def sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, str(len(items)))))
        return items

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            key = self.node(event, (*path, "key"))
            if not isinstance(key, str):
                raise YamlError(f"line {line}: a key must be text, got {key!r}")
            here = (*path, key)
            if key in items:
                self.problems.append(f"{'.'.join(here)} (line {line}): repeated; it was set on line {self.lines[here]}")
                self.node(next(self.events), here)
                continue
            self.lines[here] = line
            items[key] = self.node(next(self.events), here)
        return items


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        plain = isinstance(scalar(text), str) and text.isprintable()
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)


def dump(value: Any) -> str:
    """YAML text that `parse` reads back as the same plain data (tuples come back as lists)."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
