"""Text of files on a terminal."""


def printable(text: str) -> str:
    r"""Text with escapes for what could steer a terminal, or turn its lines round: all but letters, tabs and new lines.

    >>> print(printable("a \x1b[31m key"))
    a \x1b[31m key
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
