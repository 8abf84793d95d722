"""The errors whose message explains them completely: the command line prints it, without a traceback."""


class UserError(Exception):
    """A failure that its message explains completely, and the exit code that it ends the program with."""

    exit_code = 2


class InputError(UserError):
    """Data, weights or a prompt that cannot be used; the message names it, where it is, and what was expected."""


class TrainingError(UserError):
    """The run cannot go on; the message says why."""

    exit_code = 1


class DivergenceError(TrainingError):
    """Several updates in a row had a loss or a gradient that is not finite."""

    exit_code = 3
