"""All that the collector's core asks of the machine and of the receiver: parts that are real, recorded or played."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daemon.usage import resident_bytes
from kernel_collector.workloads import cgroup_tree, runit
from kernel_collector.workloads.processes import read_origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_collector.agreement import Agreement
    from kernel_collector.bpf.load import Load
    from kernel_collector.concern import Identifier
    from kernel_collector.concerns import Concerns
    from kernel_collector.encoders import Client
    from kernel_collector.machine.cloud_metadata import CloudMetadata
    from kernel_collector.options import Settings
    from kernel_collector.replay.recording import Player, Tape
    from kernel_collector.tcp.hidden_sockets import HiddenSockets
    from kernel_collector.tcp.probe import TcpProbe
    from kernel_collector.tcp.sockets import SocketTable
    from kernel_collector.workloads.cgroup_probe import CgroupProbe
    from kernel_collector.workloads.docker import Docker
    from kernel_collector.workloads.execs import ExecProbe
    from kernel_collector.workloads.processes import Origin

# What `ProcessTable.identify` needs of a record.
OWNER = np.dtype([("process_start_ns", "<u8"), ("pid", "<u4"), ("comm", "S16")])

_LOGGER = logging.getLogger(__name__)


class Outside(NamedTuple):
    """The parts; *open_concerns* is called once, with the core's tables of processes and of TCP sockets."""

    tcp: TcpProbe
    execs: ExecProbe
    cgroup_events: CgroupProbe
    hidden: HiddenSockets
    files: Files
    docker: Docker
    cloud: CloudMetadata
    clock: Clock
    load: Load
    agreement: Agreement
    client: Client
    open_concerns: Callable[[Identifier, SocketTable], Concerns]


class Clock:
    """The clocks of this machine, and what this process has taken of it; all but the last in nanoseconds."""

    def boot_ns(self) -> int:
        """Return the time by the clock of the kernel's records."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def unix_ns(self) -> int:
        """Return the time by the clock that other machines share."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return the time by a clock that nobody sets."""
        return time.monotonic_ns()

    def thread_ns(self) -> int:
        """Return the processor time of this thread."""
        return time.thread_time_ns()

    def process_ns(self) -> int:
        """Return the processor time of this process."""
        return time.process_time_ns()

    def resident_bytes(self) -> int:
        """Return the resident memory of this process."""
        return resident_bytes()


class Files:
    """What the machine's file systems say of processes and cgroups."""

    def __init__(self, settings: Settings) -> None:
        self._proc = settings.proc
        self._service_of = runit.finder(settings.proc, settings.host_directory)
        self._has_v1 = cgroup_tree.has_v1(Path("/proc/self/cgroup").read_bytes())
        try:
            self._hierarchy: Path | None = cgroup_tree.v2_hierarchy(settings.proc)
        except OSError:
            self._hierarchy = None
        if self._hierarchy and not cgroup_tree.is_whole(self._hierarchy):
            _LOGGER.warning(
                "packets and containers outside of %s are not seen: it is a part of the machine's cgroups; "
                "start the container with --cgroupns host or --volume /sys/fs/cgroup:/sys/fs/cgroup:ro",
                self._hierarchy,
            )

    def origin(self, pid: int, start_ns: int, name: bytes) -> Origin:
        """Return what is known of a process; see `read_origin`."""
        return read_origin(self._proc, pid, start_ns, name)

    def service(self, pid: int) -> str:
        """Return the service of runit that a process is in."""
        return self._service_of(pid)

    def cgroup_paths(self, pid: int) -> list[str]:
        """Return the cgroups of a process where cgroup v1 is in use; none else: there sockets tell their own."""
        return list(cgroup_tree.paths_of_process(self._proc, pid)) if self._has_v1 else []

    def cgroups(self) -> dict[int, str]:
        """Return the paths of the cgroups of v2, by id."""
        return cgroup_tree.walk(self._hierarchy) if self._hierarchy else {}


def recorded(outside: Outside, tape: Tape) -> Outside:
    """Return the parts with all answers recorded."""

    def open_concerns(processes: Identifier, sockets: SocketTable) -> Concerns:
        opened: list[Concerns] = []
        identify = _InwardCalls(tape.inside("identify", processes.identify))
        tape.ask("concerns.open", lambda: opened.append(outside.open_concerns(identify, sockets)), ())
        concerns: Concerns = tape.outside("concerns", opened[0])
        return concerns

    parts = (tape.outside(name, part) for name, part in zip(outside._fields[:-1], outside[:-1], strict=True))
    return Outside._make([*parts, open_concerns])


def played(player: Player, submit: Callable[..., None]) -> Outside:
    """Return the parts as a recording has them; *submit* is given what the core submits."""

    def open_concerns(processes: Identifier, _: SocketTable) -> Concerns:
        player.inside("identify", processes.identify)
        player.answer("concerns.open", ())
        concerns: Concerns = player.outside("concerns")
        return concerns

    parts: dict[str, Any] = {name: player.outside(name) for name in Outside._fields[:-1]}
    parts["client"] = _PlayedClient(parts["client"], submit)
    return Outside(**parts, open_concerns=open_concerns)


class _InwardCalls:
    def __init__(self, identify: Callable[[np.ndarray], np.ndarray]) -> None:
        self._identify = identify

    def identify(self, records: np.ndarray) -> np.ndarray:
        owners = np.empty(len(records), OWNER)
        for name in OWNER.names or ():
            owners[name] = records[name]
        return self._identify(owners)


class _PlayedClient:
    """Answers as the client did, and takes what is submitted."""

    def __init__(self, part: Any, submit: Callable[..., None]) -> None:
        self._part = part
        self._submit = submit

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._part, attribute)

    def submit(self, *arguments: Any) -> int:
        self._submit(*arguments)
        number: int = self._part.submit(*arguments)
        return number
