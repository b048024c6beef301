"""The checks before the start, on a /proc of our making where what they read is not this machine's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_collector import preflight
from kernel_collector.bpf import libbpf
from kernel_collector.preflight import Check, Result, checks, render, required_failures
from kernel_collector.workloads import cgroup_tree

ALL, NETWORK_ADMINISTRATOR = (1 << 41) - 1, 1 << 12
BPF_AND_PERFMON = 1 << 39 | 1 << 38


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc of a privileged process, with cgroup v2, in a pid namespace that is not the host's."""
    own = tmp_path / "self"
    (own / "ns").mkdir(parents=True)
    (own / "ns" / "pid").touch()
    (own / "mounts").write_text("proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    capabilities(tmp_path, ALL)
    monkeypatch.setattr(cgroup_tree, "_own_mount", lambda: None)
    monkeypatch.setattr(preflight, "takes_maps", lambda: True)
    return tmp_path


def capabilities(proc, bits):
    (proc / "self" / "status").write_text(f"Name:\tx\nCapPrm:\t{ALL:016x}\nCapEff:\t{bits:016x}\n")


def by_name(found):
    return {check.name: check for check in found}


def test_without_capabilities_nothing_is_tried_and_one_line_says_why(proc):
    capabilities(proc, NETWORK_ADMINISTRATOR)
    found = checks(proc)
    tried = [check for check in found if check.name in {name for _, _, name in preflight.HOOKS}]
    assert {check.result for check in tried} == {Result.UNKNOWN}
    assert required_failures(found) == (
        "capabilities for BPF: CAP_BPF and CAP_PERFMON missing: run it as root; "
        "in a container give the capabilities that docs/kernel-collector.md lists"
    )


@pytest.mark.parametrize("bits", [1 << 21, BPF_AND_PERFMON])
def test_old_and_new_capabilities_suffice(proc, bits):
    capabilities(proc, bits)
    assert by_name(checks(proc))["capabilities for BPF"].result is Result.YES


def test_capabilities_that_only_narrow_the_view_are_no_failure(proc, monkeypatch):
    monkeypatch.setattr(preflight, "HOOKS", ())
    capabilities(proc, BPF_AND_PERFMON)
    found = by_name(checks(proc))
    assert found["CAP_SYS_ADMIN"].result is Result.NO
    assert found["CAP_SYS_PTRACE"].result is Result.NO
    assert found["CAP_NET_BROADCAST"].result is Result.NO
    assert required_failures(found.values()) == ""


def test_without_cgroup_v2(proc):
    (proc / "self" / "mounts").write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n")
    found = by_name(checks(proc))["cgroup v2"]
    assert (found.result, found.required) == (Result.NO, False)
    assert "UDP, HTTP and DNS are not watched" in found.detail
    assert "mount -t cgroup2" in found.remedy


def test_a_part_of_cgroup_v2_is_told(proc):
    (proc / "self" / "mounts").write_text(f"cgroup2 {proc} cgroup2 rw 0 0\n")
    found = by_name(checks(proc))["cgroup v2"]
    assert (found.result, found.required) == (Result.NO, False)
    assert f"{proc} is a part of the machine's" in found.detail
    assert "--cgroupns host" in found.remedy


def test_without_proc_no_guess_is_made(tmp_path):
    found = by_name(checks(tmp_path / "missing"))
    for name in ("capabilities for BPF", "CAP_SYS_ADMIN", "pid namespace of the host", "cgroup v2"):
        assert found[name].result is Result.UNKNOWN
        assert found[name].remedy == "mount procfs on /proc"


def test_another_pid_namespace_is_told(proc):
    found = by_name(checks(proc))["pid namespace of the host"]
    assert (found.result, found.required) == (Result.NO, False)
    assert "--pid host" in found.remedy


def test_without_kernel_btf_the_hooks_are_not_tried(proc, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "KERNEL_BTF", tmp_path / "vmlinux")
    found = checks(proc)
    assert required_failures(found).startswith(f"types of the kernel (BTF): {tmp_path}/vmlinux cannot be read on Linux")
    assert by_name(found)["TCP connect, listen, close"].detail == "not tried: first see to types of the kernel (BTF)"


def test_without_sysfs_one_line_says_so(proc, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "KERNEL_BTF", tmp_path / "nothing" / "btf" / "vmlinux")
    assert required_failures(checks(proc)) == (
        f"types of the kernel (BTF): {tmp_path}/nothing is not there: mount sysfs on /sys"
    )


def test_where_bpf_is_refused_one_line_says_so(proc, monkeypatch):
    monkeypatch.setattr(preflight, "takes_maps", lambda: False)
    failures = required_failures(checks(proc))
    assert failures.startswith("bpf(2): no map can be made: seccomp, or a security module, refuses it: run it as root")
    assert "TCP" not in failures


def test_too_few_open_files_are_told_before_anything_is_opened():
    said = subprocess.run(
        ["prlimit", "--nofile=64:64", Path(sys.executable).with_name("kernel-collector"), "--no-log-file"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "error: open files: 64 at most: allow 256 (ulimit -Hn, LimitNOFILE= of systemd)\n"


def test_without_libbpf(proc, monkeypatch):
    monkeypatch.setattr(libbpf, "SONAME", "libnothing.so.1")
    libbpf.library.cache_clear()
    try:
        found = by_name(checks(proc))
    finally:
        libbpf.library.cache_clear()
    assert found["libbpf"].result is Result.NO
    assert "libnothing.so.1 is missing" in found["libbpf"].detail
    assert "apt-get install libbpf1" in found["libbpf"].remedy


def test_a_missing_object_is_told_for_each_hook(proc, tmp_path):
    failures = required_failures(checks(proc, objects=tmp_path))
    assert failures.count("cannot open") == len(preflight.HOOKS)


def test_the_table_is_aligned_and_has_the_remedy_below():
    table = render(
        [
            Check("one", Result.YES, "here"),
            Check("another", Result.NO, "gone", "fetch it"),
            Check("third", Result.UNKNOWN, "dark", "make light", required=False),
        ]
    )
    assert table.splitlines() == [
        "yes             one      here",
        "no              another  gone",
        "                         -> required: fetch it",
        "could not tell  third    dark",
        "                         -> optional: make light",
    ]


def test_a_process_without_the_capabilities_is_told_so_by_the_real_proc():
    lose = ["setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin"] if os.geteuid() == 0 else []
    program = "from kernel_collector.preflight import *; print(required_failures(checks()))"
    environment = {"PYTHONPATH": f"{Path.cwd()}:{Path.cwd() / 'proto'}", "PATH": os.environ["PATH"]}
    said = subprocess.run(
        [*lose, sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    told = "capabilities for BPF: CAP_BPF and CAP_PERFMON missing: run it as root; in a container give the capabilities"
    assert told in said.stdout


def test_without_cgroup_v2_udp_alone_is_not_counted(proc, monkeypatch):
    monkeypatch.setattr(preflight, "HOOKS", ())
    (proc / "self" / "mounts").write_text("proc /proc proc rw 0 0\n")
    udp = by_name(checks(proc))["UDP"]
    assert udp.result is not Result.YES
    assert not udp.required
    if udp.result is Result.NO:  # as root
        assert "cgroup v2 is not mounted" in udp.detail
        assert "--disable-udp-metrics" in udp.remedy
