"""How many files and connections a process may have open."""

from __future__ import annotations

import contextlib
import resource


def allow_open_files() -> None:
    """Let this process open as many as it may: systemd and shells start it with 1,024, for the sake of select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the machine's own limit, fs.nr_open, may be lower
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
