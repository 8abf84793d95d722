"""Which code a configuration may import: a file may come from anywhere, so the user names the modules it may run."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from training.errors import UserError

ENV_ID, ENV_ARGUMENTS = "env.id", "env.kwargs"
OUR_MODULES = ("envs",)
"""What a configuration may import unasked."""


def module_of(name: str) -> str | None:
    """The module of `module:Name`; None for a name without one."""
    module, colon, _ = name.partition(":")
    return module if colon else None


def is_granted(module: str, granted: Collection[str]) -> bool:
    """Whether a module, or a package that it is in, was named by `--import`."""
    return any(module == name or module.startswith(f"{name}.") for name in granted)


def refusal(field: str, module: str) -> str:
    """What is wrong with a field that names a module without leave."""
    package = module.partition(".")[0]
    does = "gives arguments to" if field == ENV_ARGUMENTS else "imports"
    return f"{field}: {does} the module {module!r}; if you trust that code, add --import {package}"


def require_grants(named: Iterable[tuple[str, str]], granted: Collection[str], where: str) -> None:
    """Raise UserError, which lists all, for fields whose `module:Name` is of a module that is not granted."""
    refused = [
        refusal(field, module)
        for field, name in named
        if (module := module_of(name)) is not None and not is_granted(module, [*OUR_MODULES, *granted])
    ]
    if refused:
        raise UserError("\n".join(f"{where}: {problem}" for problem in refused))
