"""Errors that end a daemon with one line that says what to do."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")


class StartupError(Exception):
    """The daemon cannot run here; the message says why and what to do."""


def exits_on_startup_error(main: Callable[P, None]) -> Callable[P, None]:
    """Make *main* print a `StartupError` as one line on standard error and exit with status 1."""

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except StartupError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(1)

    return wrapper
