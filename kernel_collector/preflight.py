"""What this machine allows, check by check: the command `preflight` shows it, and start-up errors use its words."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.btf import BtfError
from kernel_collector.bpf.libbpf import LibbpfError, library, takes_maps
from kernel_collector.concerns import KINDS
from kernel_collector.objects import OBJECTS
from kernel_collector.tcp import probe as tcp
from kernel_collector.workloads import cgroup_probe, execs
from kernel_collector.workloads.cgroup_tree import NotMountedError, is_whole, v2_hierarchy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kernel_collector.concern import Kind

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
HOOKS = (
    (tcp.OBJECT, tcp.EVENTS, "TCP connect, listen, close"),
    (tcp.OBJECT, tcp.RESETS, "TCP resets sent"),
    (tcp.OBJECT, tcp.PROCESSES, "TCP sockets of processes"),
    (tcp.OBJECT, tcp.NETWORK_NAMESPACE, "TCP sockets without file descriptor"),
    (execs.OBJECT, execs.EVENTS, "programs executed"),
    (cgroup_probe.OBJECT, cgroup_probe.EVENTS, "cgroups made"),
)
# Bits of CapEff, include/uapi/linux/capability.h.
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_SYS_ADMIN": 21, "CAP_SYS_PTRACE": 19, "CAP_NET_BROADCAST": 11}
LEAST_OPEN_FILES = 256  # it has 110 open, for maps, programs and links mostly, and more for a moment
_HOST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_NO_PROC = "mount procfs on /proc"
_CGROUPS_SHOWN = "--volume /sys/fs/cgroup:/sys/fs/cgroup:ro"
_PRIVILEGED = "run it as root; in a container give the capabilities that docs/kernel-collector.md lists"


class Result(Enum):
    """The answer of a check."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "could not tell"


@dataclass(frozen=True)
class Check:
    """One check and its answer.

    Attributes:
        name: what is asked for.
        result: whether it is there.
        detail: what was seen.
        remedy: what to do where the result is not YES; empty where it is.
        required: whether the collector cannot run without it.

    """

    name: str
    result: Result
    detail: str
    remedy: str = ""
    required: bool = True


def checks(proc: Path = Path("/proc"), objects: Path = OBJECTS) -> list[Check]:
    """Try everything that the collector uses, for real: it takes about 0.1 s, and leaves nothing behind."""
    capabilities = _effective_capabilities(proc)
    found = [open_files(), _libbpf(), _kernel_btf(KERNEL_BTF), _may_load(capabilities)]
    hindrance = _hindrance(found)
    if not hindrance:
        found.append(_bpf_is_allowed())
        hindrance = _hindrance(found)
    return [
        *found,
        *(_hook(objects / file, program, name, hindrance) for file, program, name in HOOKS),
        *(_concern(kind, proc, objects, hindrance) for kind in KINDS),
        *_optional_capabilities(capabilities),
        host_pid_namespace(proc),
        _cgroup_v2(proc),
    ]


def render(found: Iterable[Check]) -> str:
    """Return the checks as an aligned table, with what to do below each that is not YES."""
    lines = []
    found = list(found)
    width = max(len(check.name) for check in found)
    for check in found:
        lines.append(f"{check.result.value:<14}  {check.name:<{width}}  {check.detail}")
        if check.remedy:
            need = "required" if check.required else "optional"
            lines.append(f"{'':<14}  {'':<{width}}  -> {need}: {check.remedy}")
    return "\n".join(lines)


def required_failures(found: Iterable[Check]) -> str:
    """Return why the collector cannot run and what to do, as one line for a `StartupError`; empty if it can."""
    failed = [check for check in found if check.required and check.result is Result.NO]
    return "; ".join(f"{check.name}: {check.detail}: {check.remedy}" for check in failed)


def open_files() -> Check:
    """Return whether the collector may have as many files open as it needs; it raises a soft limit by itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    name, detail = "open files", "no limit" if most == resource.RLIM_INFINITY else f"{most} at most"
    if most == resource.RLIM_INFINITY or most >= LEAST_OPEN_FILES:
        return Check(name, Result.YES, detail)
    return Check(name, Result.NO, detail, f"allow {LEAST_OPEN_FILES} (ulimit -Hn, LimitNOFILE= of systemd)")


def _hindrance(found: Iterable[Check]) -> Check | None:
    return next((check for check in found if check.result is Result.NO), None)


def _libbpf() -> Check:
    name = "libbpf"
    try:
        version = library().libbpf_version_string().decode()
    except LibbpfError as error:
        return Check(name, Result.NO, str(error), "install it: apt-get install libbpf1, or dnf install libbpf")
    return Check(name, Result.YES, version)


def _kernel_btf(path: Path) -> Check:
    name = "types of the kernel (BTF)"
    if os.access(path, os.R_OK):
        return Check(name, Result.YES, str(path))
    if not path.parents[1].is_dir():
        return Check(name, Result.NO, f"{path.parents[1]} is not there", "mount sysfs on /sys")
    return Check(
        name,
        Result.NO,
        f"{path} cannot be read on Linux {os.uname().release}",
        "use a kernel of Linux 5.12 or later that is built with CONFIG_DEBUG_INFO_BTF=y",
    )


def _effective_capabilities(proc: Path) -> frozenset[str] | None:
    try:
        lines = (proc / "self" / "status").read_text().splitlines()
        bits = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    except (OSError, StopIteration, ValueError):
        return None
    return frozenset(name for name, bit in _CAPABILITIES.items() if bits >> bit & 1)


def _may_load(capabilities: frozenset[str] | None) -> Check:
    name = "capabilities for BPF"
    if capabilities is None:
        return Check(name, Result.UNKNOWN, "/proc/self/status cannot be read", _NO_PROC)
    missing = {"CAP_BPF", "CAP_PERFMON"} - capabilities
    if not missing or "CAP_SYS_ADMIN" in capabilities:
        return Check(name, Result.YES, ", ".join(sorted(capabilities)))
    return Check(name, Result.NO, f"{' and '.join(sorted(missing))} missing", _PRIVILEGED)


def _bpf_is_allowed() -> Check:
    name = "bpf(2)"
    if takes_maps():
        return Check(name, Result.YES, "a map can be made")
    remedy = "run it as root, with a seccomp profile that allows bpf(2) (Docker's does where CAP_BPF is given)"
    return Check(name, Result.NO, "no map can be made: seccomp, or a security module, refuses it", remedy)


def _optional_capabilities(capabilities: frozenset[str] | None) -> Iterator[Check]:
    uses = {
        "CAP_SYS_ADMIN": "without it, sockets that no process holds are told only when they close",
        "CAP_SYS_PTRACE": "without it, network namespaces of other users' processes are not found",
        "CAP_NET_BROADCAST": "without it, what containers translate in their own network namespaces is not known",
    }
    for name, without in uses.items():
        if capabilities is None:
            yield Check(name, Result.UNKNOWN, "/proc/self/status cannot be read", _NO_PROC, required=False)
        elif name in capabilities:
            yield Check(name, Result.YES, "effective", required=False)
        else:
            yield Check(name, Result.NO, without, _PRIVILEGED, required=False)


def _hook(path: Path, program: str, name: str, hindrance: Check | None) -> Check:
    if hindrance:
        return Check(name, Result.UNKNOWN, f"not tried: first see to {hindrance.name}")
    try:
        with BpfObject(path) as candidate:
            candidate.load(only=program)
            candidate.attach(program)
    except (LibbpfError, BtfError) as error:
        release = os.uname().release
        return Check(name, Result.NO, str(error), f"Linux 5.12 or later is needed, this is {release}; {_PRIVILEGED}")
    return Check(name, Result.YES, f"{program} loaded and attached")


def _concern(kind: Kind, proc: Path, objects: Path, hindrance: Check | None) -> Check:
    if hindrance:
        return Check(kind.name, Result.UNKNOWN, f"not tried: first see to {hindrance.name}", required=False)
    try:
        detail = kind.tried(proc, objects)
    except (OSError, BtfError) as error:
        return Check(kind.name, Result.NO, f"not watched: {error}", f"{_PRIVILEGED}; {kind.remedy}", required=False)
    return Check(kind.name, Result.YES, detail, required=False)


def host_pid_namespace(proc: Path) -> Check:
    """Return whether the collector sees the processes of the whole machine."""
    name = "pid namespace of the host"
    try:
        inode = (proc / "self" / "ns" / "pid").stat().st_ino
    except OSError as error:
        return Check(name, Result.UNKNOWN, f"{error.filename}: {error.strerror}", _NO_PROC, required=False)
    if inode == _HOST_PID_NAMESPACE:
        return Check(name, Result.YES, f"pid:[{inode}]", required=False)
    return Check(
        name,
        Result.NO,
        f"processes outside of pid:[{inode}] have no names, and their sockets are told only when they close",
        "start the container with --pid host (hostPID: true)",
        required=False,
    )


def _cgroup_v2(proc: Path) -> Check:
    name = "cgroup v2"
    try:
        root = v2_hierarchy(proc)
    except NotMountedError:
        without = (
            "without it UDP, HTTP and DNS are not watched, and sockets are known by their processes' cgroups alone"
        )
        remedy = f"mount -t cgroup2 none /sys/fs/cgroup; start a container with --cap-add SYS_ADMIN or {_CGROUPS_SHOWN}"
        return Check(name, Result.NO, f"not mounted: {without}", remedy, required=False)
    except OSError as error:
        return Check(name, Result.UNKNOWN, f"{error.filename}: {error.strerror}", _NO_PROC, required=False)
    if not is_whole(root):
        part = f"{root} is a part of the machine's: packets and containers outside of it are not seen"
        return Check(
            name, Result.NO, part, f"start the container with --cgroupns host or {_CGROUPS_SHOWN}", required=False
        )
    return Check(name, Result.YES, f"all of it, on {root}", required=False)
