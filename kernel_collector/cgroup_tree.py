"""Cgroups as the file system shows them: the paths of ids of the v2 hierarchy, and the cgroups of a process.

A cgroup's id is the inode number of its directory. So a walk finds paths from the root of the machine's hierarchy even
where the collector has a cgroup namespace of its own, in which /proc shows others' cgroups as /../NAME.
"""

from __future__ import annotations

import os
from pathlib import Path

MOST_DIRECTORIES = 20_000
ROOT_ID = 1
"""Id of the root cgroup of v2: the sockets of a machine without containers, or with cgroup v1 alone, are all in it."""

_LONGEST_FILE = 65_536


def v2_hierarchy(mounts: str, host_directory: Path) -> Path | None:
    """Return where the v2 hierarchy is mounted: the whole of it rather than a part, under the host directory first.

    Args:
        mounts: what /proc/self/mounts holds.
        host_directory: where the machine's root directory is.

    """
    found = [
        Path(fields[1])
        for line in mounts.splitlines()
        if len(fields := line.split()) > 2 and fields[2] == "cgroup2"  # noqa: PLR2004
    ]
    found.sort(key=lambda path: (_inode(path) != ROOT_ID, not path.is_relative_to(host_directory), path))
    return found[0] if found else None


def has_v1(cgroups_of_a_process: str) -> bool:
    """Return whether what /proc/PID/cgroup holds tells of a v1 hierarchy."""
    return any(not line.startswith("0:") for line in cgroups_of_a_process.splitlines())


def walk(hierarchy: Path, most: int = MOST_DIRECTORIES) -> dict[int, str]:
    """Return the path, from the root of the hierarchy, of each cgroup by id; *most* of them, the upper ones first."""
    paths = {_inode(hierarchy): "/"}
    level = [""]
    while level:
        deeper = []
        for above in level:
            try:
                entries = os.scandir(f"{hierarchy}{above}")
            except OSError:
                continue  # it is gone
            with entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if len(paths) >= most:
                            return paths
                        deeper.append(f"{above}/{entry.name}")
                        paths[entry.inode()] = deeper[-1]
        level = deeper
    return paths


def paths_of_process(proc: Path, pid: int) -> list[str]:
    """Return the paths of a process's cgroups in all hierarchies; none if it has ended."""
    try:
        with (proc / str(pid) / "cgroup").open("rb") as file:
            text = os.fsdecode(file.read(_LONGEST_FILE))
    except OSError:
        return []
    return [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]  # noqa: PLR2004


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
