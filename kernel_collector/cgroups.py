"""Control groups: where their root is."""

from __future__ import annotations

from pathlib import Path


class NotMountedError(OSError):
    """There is no cgroup v2 on this machine."""


def cgroup2_root(proc: Path = Path("/proc")) -> Path:
    """Return the directory of the machine's root cgroup, version 2, given the machine's /proc.

    Raises:
        NotMountedError: cgroup v2 is not among the mounts.
        OSError: the mounts cannot be read.

    """
    try:
        # In a container this process's own mounts show a part of the tree; those of the machine's first process all.
        root = proc / "1" / "root" / _mounted_on(proc / "1" / "mounts").relative_to("/")
        root.stat()
    except (PermissionError, FileNotFoundError):  # CAP_SYS_PTRACE is missing
        return _mounted_on(proc / "self" / "mounts")
    return root


def _mounted_on(mounts: Path) -> Path:
    for line in mounts.read_text().splitlines():
        _, directory, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(directory)
    raise NotMountedError(f"cgroup v2 is not mounted, says {mounts}")
