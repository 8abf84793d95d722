"""The two errors of this package."""

import traceback

from training.errors import UserError

TRACEBACK_LIMIT = 4000
"""Characters kept of the end of a fault's traceback."""


class EnvError(UserError, ValueError):
    """An environment that cannot be made, or whose spaces no agent can use."""


class EnvFault(UserError, RuntimeError):
    """An environment that broke its contract, or raised, while it ran."""

    exit_code = 1


def traceback_of(fault: EnvFault) -> str:
    """The end of the traceback of what caused a fault."""
    return "".join(traceback.format_exception(fault.__cause__ or fault))[-TRACEBACK_LIMIT:]
