"""A daemon's command: its options, put together, and what becomes of its output."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


def options(*added: Callable[[Callable[..., Any]], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds options, or several of them at once, to a click command; its help has them in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(added):
            command = option(command)
        return command

    return add


class Command(click.Command):
    """A command that ends with one line on standard error, and status 1, where its output cannot be written."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command, as click does."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            *_, (frame, _) = traceback.walk_tb(error.__traceback__)
            if frame.f_code is not click.echo.__code__:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered is written once more
            sys.exit(f"error: cannot write the output: {error.strerror}; make room, or write it elsewhere")


class Group(Command, click.Group):
    """A `Command` with commands of its own."""
