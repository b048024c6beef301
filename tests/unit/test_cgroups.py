"""Where the root cgroup is, by mounts of our making."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel_collector.cgroups import NotMountedError, cgroup2_root

MOUNTS = "cgroup /sys/fs/cgroup/memory cgroup rw 0 0\ncgroup2 {} cgroup2 rw 0 0\n"


@pytest.fixture
def proc(tmp_path):
    """A machine whose first process sees the tree elsewhere than we, in a container, see a part of it."""
    for process, directory in (("self", "/in/container"), ("1", "/sys/fs/cgroup/unified")):
        (tmp_path / process / "root" / directory[1:]).mkdir(parents=True)
        (tmp_path / process / "mounts").write_text(MOUNTS.format(directory))
    return tmp_path


def test_as_the_first_process_sees_it(proc):
    assert cgroup2_root(proc) == proc / "1/root/sys/fs/cgroup/unified"


def test_as_this_process_sees_it_where_it_may_not_look_further(proc):
    (proc / "1" / "root" / "sys/fs/cgroup/unified").rmdir()
    assert cgroup2_root(proc) == Path("/in/container")


def test_only_version_1(proc):
    (proc / "1" / "mounts").write_text("cgroup /sys/fs/cgroup/memory cgroup rw 0 0\n")
    with pytest.raises(NotMountedError, match="cgroup v2 is not mounted"):
        cgroup2_root(proc)
