"""Cgroups as the file system shows them: the paths of ids of the v2 hierarchy, and the cgroups of a process.

A cgroup's id is the inode number of its directory. So a walk finds paths from the root of the machine's hierarchy even
where the collector has a cgroup namespace of its own, in which /proc shows others' cgroups as /../NAME.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from pathlib import Path

MOST_DIRECTORIES = 20_000
ROOT_ID = 1
"""Id of the root cgroup of v2: the sockets of a machine without containers, or with cgroup v1 alone, are all in it."""

_LONGEST_FILE = 65_536
_ESCAPED = re.compile(rb"\\([0-7]{3})")  # space, tab, newline, backslash: proc_mounts(5)
# Of all architectures but alpha; Linux 5.2, include/uapi/asm-generic/unistd.h and linux/mount.h.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOSE_ON_EXEC = 1
_CONFIG_CREATE = 6
_READ_ONLY = 1


class NotMountedError(OSError):
    """There is no cgroup v2 on this machine."""


def v2_hierarchy(proc: Path) -> Path:
    """Return where the v2 hierarchy is mounted: the whole of it, if that can be seen, rather than a part.

    In a container this process's own mounts may show a part, or, where there is v1 as well, nothing; those of the
    machine's first process show all. Where they may not be looked at, it is mounted for this process alone.

    Args:
        proc: the machine's /proc.

    Raises:
        NotMountedError: cgroup v2 is not among the mounts.
        OSError: the mounts cannot be read.

    """
    try:
        root = proc / "1" / "root"
        found = [root / path.relative_to("/") for path in _mounted(proc / "1" / "mounts")]
    except OSError:  # CAP_SYS_PTRACE is missing
        found = []
    found = [path for path in found if _inode(path)] + _mounted(proc / "self" / "mounts")
    if not any(map(is_whole, found)) and (own := _own_mount()):
        found.append(own)
    if not found:
        raise NotMountedError(f"cgroup v2 is not mounted, says {proc / 'self' / 'mounts'}")
    return min(found, key=lambda path: not is_whole(path))


def is_whole(hierarchy: Path) -> bool:
    """Return whether a hierarchy is the machine's, not the part that a container is shown."""
    return _inode(hierarchy) == ROOT_ID


def has_v1(cgroups_of_a_process: bytes) -> bool:
    """Return whether what /proc/PID/cgroup holds tells of a v1 hierarchy."""
    return any(line and not line.startswith(b"0:") for line in cgroups_of_a_process.split(b"\n"))


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
    # Names may hold all else that ends lines in text.
    return [line.split(":", 2)[2] for line in text.split("\n") if line.count(":") >= 2]  # noqa: PLR2004


def _mounted(mounts: Path) -> list[Path]:
    """Return the directories on which cgroup v2 is mounted."""
    # Names of directories may hold anything: bytes that are no text, and whatever else separates words in text.
    lines = (line.split(b" ") for line in mounts.read_bytes().split(b"\n"))
    paths = [fields[1] for fields in lines if len(fields) > 2 and fields[2] == b"cgroup2"]  # noqa: PLR2004
    return [Path(os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), path))) for path in paths]


@functools.cache
def _own_mount() -> Path | None:
    """Return the v2 hierarchy of this process's cgroup namespace at a place of its own; None where it may not mount."""
    opened: list[int] = []

    def call(*arguments: int | bytes | None) -> int:
        result = ctypes.CDLL(None, use_errno=True).syscall(*arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), "cgroup v2 cannot be mounted")
        return int(result)

    try:
        opened.append(call(_FSOPEN, b"cgroup2", _CLOSE_ON_EXEC))
        call(_FSCONFIG, opened[0], _CONFIG_CREATE, None, None, 0)
        return Path(f"/proc/self/fd/{call(_FSMOUNT, opened[0], _CLOSE_ON_EXEC, _READ_ONLY)}")
    except OSError:  # CAP_SYS_ADMIN is missing
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
