from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel_collector.workloads import cgroup_tree
from kernel_collector.workloads.cgroup_tree import (
    NotMountedError,
    has_v1,
    is_whole,
    paths_of_process,
    v2_hierarchy,
    walk,
)


@pytest.fixture
def no_own_mount(monkeypatch):
    monkeypatch.setattr(cgroup_tree, "_own_mount", lambda: None)


def make(root, *paths):
    for path in paths:
        (root / path).mkdir(parents=True)
        (root / path / "cgroup.procs").touch()


def test_a_walk_finds_each_cgroup_by_its_inode(tmp_path):
    make(tmp_path, "a/b/c", "d")
    (tmp_path / "link").symlink_to("a")
    paths = walk(tmp_path)
    assert {path: (tmp_path / path[1:]).stat().st_ino for path in ("/", "/a", "/a/b", "/a/b/c", "/d")} == {
        path: inode for inode, path in paths.items()
    }


def test_a_walk_is_bounded_and_finds_the_upper_ones(tmp_path):
    make(tmp_path, *(f"{name}/deep/deeper" for name in "abcde"))
    assert sorted(walk(tmp_path, most=6).values()) == ["/", "/a", "/b", "/c", "/d", "/e"]


def test_a_walk_of_what_is_not_there(tmp_path):
    assert list(walk(tmp_path / "gone").values()) == ["/"]


MOUNTS = "tmpfs /run tmpfs rw 0 0\nbroken\ncgroup /sys/fs/cgroup/memory cgroup rw 0 0\n"


@pytest.fixture
def proc(tmp_path, no_own_mount):
    """A machine whose first process sees the hierarchy elsewhere than we, in a container, see a part of it."""
    for process, directory in (("self", "/in/container"), ("1", "/sys/fs/cgroup/unified")):
        (tmp_path / process / "root" / directory[1:]).mkdir(parents=True)
        (tmp_path / process / "mounts").write_text(f"{MOUNTS}cgroup2 {directory} cgroup2 rw 0 0\n")
    return tmp_path


def test_the_hierarchy_as_the_first_process_sees_it(proc):
    assert v2_hierarchy(proc) == proc / "1/root/sys/fs/cgroup/unified"


def test_the_hierarchy_as_this_process_sees_it_where_it_may_not_look_further(proc):
    (proc / "1" / "root" / "sys/fs/cgroup/unified").rmdir()
    assert v2_hierarchy(proc) == Path("/in/container")
    (proc / "1" / "mounts").unlink()
    assert v2_hierarchy(proc) == Path("/in/container")


def test_the_whole_hierarchy_comes_before_a_part_of_it(proc, monkeypatch):
    inodes = {proc / "1/root/sys/fs/cgroup/unified": 77, Path("/in/container"): 78, Path("/whole"): 1}
    monkeypatch.setattr("kernel_collector.workloads.cgroup_tree._inode", inodes.__getitem__)
    with (proc / "self" / "mounts").open("a") as mounts:
        mounts.write("cgroup2 /whole cgroup2 rw 0 0\n")
    assert v2_hierarchy(proc) == Path("/whole")


def test_names_of_mounts_may_hold_anything(proc):
    forged = "/home/u/\u2028cgroup2\u2003/tmp\u2003cgroup2\u2003rw".encode()
    (proc / "1" / "mounts").unlink()
    (proc / "self" / "mounts").write_bytes(
        b"fuse %b fuse rw 0 0\nfuse /media/\xff fuse rw 0 0\ncgroup2 /of\\040all\\134 cgroup2 rw 0 0\n" % forged
    )
    assert v2_hierarchy(proc) == Path("/of all\\")


def test_only_version_1(proc):
    for process in ("self", "1"):
        (proc / process / "mounts").write_text(MOUNTS)
    with pytest.raises(NotMountedError, match="cgroup v2 is not mounted"):
        v2_hierarchy(proc)


def test_where_no_mount_shows_it_all_it_is_mounted_for_this_process(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mounts").write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    found = v2_hierarchy(tmp_path)
    if found == tmp_path:
        pytest.skip("cgroup v2 may not be mounted, or only a part of it")
    assert is_whole(found)
    assert set(walk(found)) == set(walk(v2_hierarchy(Path("/proc"))))
    assert v2_hierarchy(tmp_path) == found


def test_v1_is_told_from_v2():
    assert not has_v1(b"0::/x\xff\ry\n")
    assert has_v1(b"9:name=systemd:/\n0::/\n")


def test_paths_of_a_process(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_bytes(b"4:memory,cpu:/docker/a:b\n0::/x\xff\r/\xe2\x80\xa8y\nbroken\n")
    assert paths_of_process(tmp_path, 7) == ["/docker/a:b", "/x\udcff\r/\u2028y"]
    assert paths_of_process(tmp_path, 8) == []
    assert paths_of_process(Path("/proc"), os.getpid())
