"""Importing what a configuration names as `module:Name`."""

from __future__ import annotations

import importlib


def import_object(name: str) -> object:
    """What `module:Name` names; raises ValueError, which says why, where it cannot be imported.

    Importing a module runs its code: whoever takes the name from a file asks for permission first.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything
        raise ValueError(f"{name!r} cannot be imported: {type(error).__name__}: {error}") from error
