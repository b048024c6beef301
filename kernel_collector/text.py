"""Text from whoever wrote it: what a process, a path or a service says of itself, made fit to be shown."""

from __future__ import annotations


def printable(hostile: bytes | str) -> str:
    """Return it in characters that can be printed, on one line."""
    text = hostile.decode(errors="replace") if isinstance(hostile, bytes) else hostile
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    return " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
