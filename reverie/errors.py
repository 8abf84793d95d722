"""The errors that are the user's to mend: shown as one message, without a traceback."""


class UserError(Exception):
    """A failure that its message explains completely."""

    exit_code = 2
