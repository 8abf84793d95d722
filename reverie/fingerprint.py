"""How the fingerprint of a checkpoint differs from that of an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Fingerprint = Mapping[str, Any]
"""JSON data: whatever a checkpoint and the experiment that continues it must have in common."""


def differences(saved: Fingerprint, wanted: Fingerprint) -> list[str]:
    """A sentence for each value that a checkpoint and an experiment do not share, led by its dotted path."""
    return list(_differences(as_json(saved), as_json(wanted)))


def as_json(data: Mapping[str, Any]) -> Any:
    """The data as JSON gives it back: a tuple becomes a list."""
    return json.loads(json.dumps(dict(data), allow_nan=False))


def _differences(saved: Any, wanted: Any, path: str = "") -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in sorted({*saved, *wanted}):
            here = f"{path}.{key}" if path else key
            if key not in saved or key not in wanted:
                side = "this experiment" if key not in saved else "the checkpoint"
                yield f"{here}: only in {side}"
            else:
                yield from _differences(saved[key], wanted[key], here)
    elif saved != wanted or type(saved) is not type(wanted):
        yield f"{path}: the checkpoint has {_short(saved)}, this experiment {_short(wanted)}"


def _short(value: Any) -> str:
    """A value for an error message, cut because a vocabulary may be megabytes long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:190]}... ({len(text)} characters)"
