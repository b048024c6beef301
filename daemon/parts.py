"""Imports the parts of the package that a command needs, some of which are extras of pyproject.toml."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextlib.contextmanager
def part(extra: str = "") -> Iterator[None]:
    """Import a part within; where a library of it is missing, exit with one line that says how to get it.

    *extra* is the part's name in pyproject.toml, empty for what needs no extra.

    To import takes a second or so: who ends the program by Ctrl-C meanwhile gets no traceback, and who stops the
    container need not wait.
    """
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        # The first process of a container gets no signal that it has no handler for: pid_namespaces(7).
        signal.signal(signal.SIGTERM, _exit)
    # An exception would not do: libraries in C make others of it.
    raises = signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, _exit)
    try:
        yield
    except ModuleNotFoundError as error:
        what = f"'.[{extra}]'" if extra else "."
        sys.exit(f"error: the package {error.name} is not installed: run ./build.sh setup, or pip install {what}")
    finally:
        if raises:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
