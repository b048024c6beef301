"""Services of runit: a descendant of `runsv NAME` belongs to the service NAME."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONGEST_NAME = 128
# Ancestors that are looked at: services that start sub-processes of sub-processes are rare.
MOST_ANCESTORS = 8
_DIRECTORIES = ("etc/runit", "etc/service", "service", "var/service")
_PARENT_FIELD = 1  # of /proc/PID/stat, after the name


def finder(proc: Path, host_directory: Path) -> Callable[[int], str]:
    """Return what finds the service of a pid; on a machine without runit it costs nothing."""
    if any((host_directory / name).exists() for name in _DIRECTORIES):
        return lambda pid: service_of(proc, pid)
    return lambda _: ""


def service_of(proc: Path, pid: int) -> str:
    """Return the service that a process descends from; empty where there is none, or it has ended."""
    for _ in range(MOST_ANCESTORS):
        try:
            pid = int((proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[_PARENT_FIELD])
            if pid <= 1:
                return ""
            arguments = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError, ValueError):
            return ""
        if arguments[0].rpartition(b"/")[2] == b"runsv" and len(arguments) > 1:
            return printable(arguments[1])[:LONGEST_NAME]
    return ""
