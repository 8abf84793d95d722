"""Imports what a configuration names as `module:Name`."""

from __future__ import annotations

import importlib


def import_object(name: str) -> object:
    """The object that `module:Name` names; raises ValueError with the reason if it cannot be imported.

    Importing a module runs its code, so callers that take the name from a file must ask for permission first.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything
        raise ValueError(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from error
