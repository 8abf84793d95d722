"""The sentences under the fields of a dataclass, as data."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring below each annotated field of a class and of its bases, in one line, by the name of the field.

    A field that a subclass declares again without a docstring keeps that of the base. Fields without any are left out.
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ == "builtins" or "__annotations__" not in vars(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(sentence))),
                ):
                    docs[name] = " ".join(sentence.split())
    return docs
