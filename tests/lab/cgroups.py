"""Cgroups that a test makes, and programs in them; nothing is left behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = f"ebpfnet-{os.getpid()}"


class Hierarchy:
    """The part of a mounted hierarchy that belongs to this test run."""

    def __init__(self, mount: Path) -> None:
        self._root = mount / _NAME

    def make(self, path: str) -> Path:
        """Make a cgroup, and those above it."""
        directory = self._root / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def close(self) -> None:
        """Remove all of it, when what runs there has ended."""
        for directory, _, _ in os.walk(self._root, topdown=False):
            remove(Path(directory))


def remove(cgroup: Path) -> None:
    """Remove a cgroup when its last process is gone."""

    def gone() -> bool:
        with contextlib.suppress(OSError):
            cgroup.rmdir()
        return not cgroup.exists()

    wait_until(gone, 60, f"{cgroup} to be empty")


def inside(cgroup: Path, *command: str) -> tuple[str, ...]:
    """Return the command that runs *command* in a cgroup."""
    return ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(cgroup), *command)


@contextlib.contextmanager
def hierarchy(kind: str) -> Iterator[Hierarchy]:
    """Open the hierarchy that is mounted with this type or v1 controller.

    Raises:
        LookupError: this machine has none.

    """
    for line in Path("/proc/mounts").read_text().splitlines():
        _, path, of, options, *_ = line.split()
        if of == kind or (of == "cgroup" and kind in options.split(",")):
            with contextlib.closing(Hierarchy(Path(path))) as opened:
                yield opened
            return
    raise LookupError(f"no cgroup hierarchy {kind} is mounted")
