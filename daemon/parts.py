"""Parts of the package whose libraries need not be installed, as the extras of pyproject.toml."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def part(extra: str) -> Iterator[None]:
    """Import a part within; where a library of it is missing, exit with one line that says how to get it.

    To import takes a second or so: who ends the program by Ctrl-C meanwhile gets no traceback, and who stops the
    container need not wait.
    """
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        # The first process of a container gets no signal that it has no handler for: pid_namespaces(7).
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"error: the package {error.name} is not installed: run ./build.sh setup, or pip install '.[{extra}]'")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
