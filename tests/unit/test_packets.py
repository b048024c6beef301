"""Which concerns the programs on packets are opened with, where the kernel takes some of them and not others."""

from __future__ import annotations

import pytest

from kernel_collector import packets
from kernel_collector.bpf.libbpf import LibbpfError
from kernel_collector.packets import Packets
from kernel_collector.workloads import cgroup_tree


class Opened:
    """Stands for a loaded object."""

    def __init__(self, watched):
        self.watched = tuple(watched)
        self.closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A kernel that refuses some concerns; what it loaded, in order."""
    monkeypatch.setattr(packets, "v2_hierarchy", lambda _: tmp_path)
    loaded = []

    def open_with(refused, watched):
        def opened(_path, _cgroup, taken, *_):
            if bad := refused & set(taken):
                raise LibbpfError(1, f"no {sorted(bad)}")
            loaded.append(Opened(taken))
            return loaded[-1]

        monkeypatch.setattr(packets, "_opened", opened)
        return Packets(tmp_path, watched), loaded

    return open_with


def test_all_at_once_where_all_are_taken(kernel):
    opened, loaded = kernel(set(), ("a", "b", "c"))
    assert opened.require("b") is loaded[-1]
    assert [each.watched for each in loaded] == [("a", "b", "c")]


@pytest.mark.parametrize(
    ("refused", "left"), [({"a"}, ("b", "c")), ({"b"}, ("a", "c")), ({"c"}, ("a", "b")), ({"a", "c"}, ("b",))]
)
def test_a_refused_one_does_not_take_the_others_along(kernel, refused, left):
    opened, loaded = kernel(refused, ("a", "b", "c"))
    assert loaded[-1].watched == left
    assert {opened.require(concern) for concern in left} == {loaded[-1]}
    for concern in refused:
        with pytest.raises(LibbpfError, match=f"no .*{concern}"):
            opened.require(concern)
    assert all(each.closed for each in loaded[:-1])
    opened.close()
    assert loaded[-1].closed


def test_where_none_is_taken_each_says_why(kernel):
    opened, loaded = kernel({"a", "b"}, ("a", "b"))
    assert not loaded
    for concern in ("a", "b"):
        with pytest.raises(LibbpfError, match=f"no .'{concern}'"):
            opened.require(concern)
    opened.close()


def test_without_any_nothing_is_loaded(kernel):
    opened, loaded = kernel(set(), ())
    opened.close()
    assert not loaded


def test_without_cgroup_v2_each_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup_tree, "_own_mount", lambda: None)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mounts").write_text("proc /proc proc rw 0 0\n")
    with Packets(tmp_path, ("udp",)) as opened, pytest.raises(OSError, match="cgroup v2 is not mounted"):
        opened.require("udp")
