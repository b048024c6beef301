from __future__ import annotations

import os
from pathlib import Path

from kernel_collector.cgroup_tree import has_v1, paths_of_process, v2_hierarchy, walk


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


def test_the_hierarchy_under_the_host_directory_comes_first(tmp_path):
    for name in ("own", "hostfs/cgroup", "hostfs/elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    mounts = "\n".join(
        f"cgroup2 {tmp_path / name} {kind} rw 0 0"
        for name, kind in (("hostfs/elsewhere", "tmpfs"), ("own", "cgroup2"), ("hostfs/cgroup", "cgroup2"))
    )
    assert v2_hierarchy(mounts, tmp_path / "hostfs") == tmp_path / "hostfs/cgroup"
    assert v2_hierarchy(mounts, Path("/nowhere")) == tmp_path / "hostfs/cgroup"
    assert v2_hierarchy("tmpfs /run tmpfs rw 0 0\nbroken", Path("/")) is None


def test_the_whole_hierarchy_comes_before_a_part_of_it(monkeypatch):
    inodes = {Path("/hostfs/part"): 77, Path("/whole"): 1}
    monkeypatch.setattr("kernel_collector.cgroup_tree._inode", inodes.__getitem__)
    mounts = "cgroup2 /hostfs/part cgroup2 rw 0 0\ncgroup2 /whole cgroup2 rw 0 0\n"
    assert v2_hierarchy(mounts, Path("/hostfs")) == Path("/whole")


def test_v1_is_told_from_v2():
    assert not has_v1("0::/\n")
    assert has_v1("9:name=systemd:/\n0::/\n")


def test_paths_of_a_process(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_bytes(b"4:memory,cpu:/docker/a:b\n0::/x\xff\nbroken\n")
    assert paths_of_process(tmp_path, 7) == ["/docker/a:b", "/x\udcff"]
    assert paths_of_process(tmp_path, 8) == []
    assert paths_of_process(Path("/proc"), os.getpid())
