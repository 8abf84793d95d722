"""The two errors of this package."""


class EnvError(ValueError):
    """An environment that cannot be made, or whose spaces no agent can use."""


class EnvFault(RuntimeError):
    """An environment that broke its contract, or raised, while it ran."""
