"""The two errors of this package."""

from training.errors import UserError


class EnvError(UserError, ValueError):
    """An environment that cannot be made, or whose spaces no agent can use."""


class EnvFault(UserError, RuntimeError):
    """An environment that broke its contract, or raised, while it ran."""

    exit_code = 1
