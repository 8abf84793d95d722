"""The errors whose message explains them completely."""


class InputError(Exception):
    """Data, weights or a prompt that cannot be used; the message names it, where it is, and what was expected."""


class TrainingError(Exception):
    """The run cannot go on; the message says why."""
