"""The daemon: reads the probes at intervals, and has the rows sent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ebpf_net.v1 import intake_pb2

from daemon.errors import StartupError
from daemon.signals import stop_event
from daemon.usage import resident_bytes
from daemon.version import VERSION
from intake.clock import SECOND_NS
from kernel_collector import cgroup_tree, dns, preflight, runit
from kernel_collector.agreement import Agreement
from kernel_collector.btf import BtfError
from kernel_collector.cgroup_probe import CgroupProbe
from kernel_collector.cgroups import CgroupTable
from kernel_collector.cloud_metadata import CloudMetadata
from kernel_collector.concern import Surroundings
from kernel_collector.concerns import Concerns, watched_on_packets
from kernel_collector.docker import Docker
from kernel_collector.encoders import client
from kernel_collector.execs import ExecProbe
from kernel_collector.hidden_sockets import HiddenSockets
from kernel_collector.host import describe_host, in_cloud
from kernel_collector.libbpf import LibbpfError
from kernel_collector.load import Load
from kernel_collector.network_namespaces import NetworkNamespace, named_network_namespaces
from kernel_collector.packets import Packets
from kernel_collector.processes import ProcessTable
from kernel_collector.sockets import SocketTable
from kernel_collector.structured import concatenated
from kernel_collector.tcp import TcpProbe

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake.columns import Tables
    from kernel_collector.options import Settings

_LOGGER = logging.getLogger(__name__)
# The second poll comes soon after the first, which only says what was there before.
FIRST_INTERVAL_NS = SECOND_NS // 2
WALK_INTERVAL_NS = 60 * SECOND_NS
# No socket is orphaned for so long: the kernel gives up sending after 8 tries (tcp_orphan_retries).
ABANDONED_NS = 15 * 60 * SECOND_NS
# At most a fiftieth of one core goes into polls: where they take long, they come less often.
POLL_BUDGET = 50
FINISH_TIMEOUT_S = 5.0
# How soon a new poll interval in the reducer's welcome takes effect.
LONGEST_SLEEP_NS = SECOND_NS // 2
_M_TRIM_THRESHOLD = -1  # malloc.h
_KEPT_BYTES = 256 << 10
DOCKER_SOCKETS = ("run/docker.sock", "var/run/docker.sock")


async def collect(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; a second one ends it at once.

    Raises:
        StartupError: this machine does not allow it; the message says why and what to do.

    """
    _give_memory_back()
    stopping = stop_event()
    with contextlib.ExitStack() as stack:
        named = [stack.enter_context(each) for each in named_network_namespaces(settings.network_namespaces)]
        inodes = frozenset(each.inode for each in named)
        try:
            execs = stack.enter_context(ExecProbe())
            cgroups = stack.enter_context(CgroupProbe())
            tcp = stack.enter_context(TcpProbe(inodes))
        except (LibbpfError, BtfError) as error:
            raise StartupError(preflight.required_failures(preflight.checks()) or str(error)) from error
        packets = stack.enter_context(Packets(settings.proc, watched_on_packets(settings), inodes, dns.constants()))
        collector = KernelCollector(settings, Probes(tcp, execs, cgroups, packets), named)
        stack.enter_context(contextlib.closing(collector))
        await collector.run(stopping)


class Probes(NamedTuple):
    """What is attached, *tcp* after *execs* and *cgroups*."""

    tcp: TcpProbe
    execs: ExecProbe
    cgroups: CgroupProbe
    packets: Packets


class KernelCollector:
    """The probes, the tables and the client, put together.

    Args:
        settings: of the operator.
        probes: attached.
        named: the network namespaces to which the probes of sockets are limited; none: they see all.

    """

    def __init__(self, settings: Settings, probes: Probes, named: list[NetworkNamespace]) -> None:
        tcp, self._execs, self._cgroup_events, packets = probes
        self._tcp = tcp
        self._rings = (tcp, self._execs, self._cgroup_events)
        self._hidden = HiddenSockets(tcp, settings.proc, named)
        self._cgroups = _cgroup_table(settings)
        self._processes = ProcessTable(
            settings.proc,
            time.time_ns() - _now_ns(),
            _cgroup_finder(self._cgroups, settings.proc),
            runit.finder(settings.proc, settings.host_directory),
            longest_command_line=settings.command_line_length,
        )
        hello = intake_pb2.Hello(
            kind=intake_pb2.COLLECTOR_KIND_KERNEL,
            version=VERSION,
            host=describe_host(settings.labels, [each.fd for each in named], settings.host_directory),
        )
        self._host = hello.host  # the same message: a later connection says what is known by then
        self._cloud = CloudMetadata()
        self._client = client(settings, hello, self._snapshot)
        self._load = Load(time.monotonic_ns, count=settings.bpf_stats)
        self._agreement = Agreement(settings.proc, named, time.monotonic_ns, udp=settings.udp_metrics)
        self._events_lost = 0
        self._poll_cost_ns = 0
        self._told_slow = False
        self._polled_ns = self._walked_ns = _now_ns()
        live = tcp.poll()
        walk = self._hidden.walk(live, np.empty(0, np.uint32))
        self._sockets = SocketTable(baseline_ns=_now_ns())
        self._concerns = Concerns(
            Surroundings(settings, frozenset(each.inode for each in named), packets, self._processes, self._sockets)
        )
        self._submit(self._take([live, *walk.records]) | self._concerns.read())
        _LOGGER.info("watching %s: %d sockets are open", hello.host.name, len(self._sockets))

    async def run(self, stopping: asyncio.Event) -> None:
        """Poll at intervals until *stopping*; then once more, and give the receiver some seconds to take all."""
        loop = asyncio.get_running_loop()
        connection = asyncio.create_task(self._client.run())
        connection.add_done_callback(lambda _: stopping.set())
        for probe in (self._tcp, self._execs):
            loop.add_reader(probe.wakeup_fd, self._drain)
        loop.add_reader(self._cgroup_events.wakeup_fd, self._take_cgroups)
        for concern in self._concerns:
            if concern.wakeup_fd is not None:
                loop.add_reader(concern.wakeup_fd, concern.drain)
        await self._pause(stopping, lambda: FIRST_INTERVAL_NS)
        while not stopping.is_set():
            self._poll()
            await self._pause(stopping, self._interval_ns)
        for fd in (watched.wakeup_fd for watched in (*self._rings, *self._concerns)):
            if fd is not None:
                loop.remove_reader(fd)
        if connection.done():
            connection.result()
        self._agreement.hasten()
        self._poll()
        if not await self._client.finish(FINISH_TIMEOUT_S):
            _LOGGER.warning("the receiver did not take all within %.0f s: what it did not is lost", FINISH_TIMEOUT_S)
        connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)

    async def _pause(self, stopping: asyncio.Event, interval_ns: Callable[[], int]) -> None:
        """Wait until the interval since the last poll, which may change meanwhile, has passed, or until *stopping*."""
        while not stopping.is_set() and (left_ns := self._polled_ns + interval_ns() - _now_ns()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), min(left_ns, LONGEST_SLEEP_NS) / SECOND_NS)

    def _interval_ns(self) -> int:
        wanted, least = self._client.poll_interval_ns, self._poll_cost_ns * POLL_BUDGET
        if least > wanted and not self._told_slow:
            self._told_slow = True
            _LOGGER.warning(
                "a poll takes %.3f s of CPU: to stay below 2%% of a core, it comes each %.1f s instead of %.1f s",
                *(ns / SECOND_NS for ns in (self._poll_cost_ns, least, wanted)),
            )
        return max(least, wanted)

    def _poll(self) -> None:
        """Read all that the probes have, and submit the rows; now and then look for what polls cannot see."""
        started_ns, cpu_ns = _now_ns(), time.thread_time_ns()
        self._concerns.gather()
        live = self._tcp.poll()
        self._poll_cost_ns = time.thread_time_ns() - cpu_ns
        if started_ns - self._walked_ns < WALK_INTERVAL_NS:
            self._submit(self._take([live]) | self._read_concerns())
        else:
            self._walked_ns = started_ns
            walk = self._hidden.walk(live, self._sockets.missing(self._polled_ns))
            self._submit(self._take([live, *walk.records]) | self._read_concerns())
            self._submit({"tcp": self._sockets.retire(walk.namespaces, self._polled_ns, started_ns - ABANDONED_NS)})
            acknowledged = self._client.acknowledged
            owners = _united([self._sockets.processes(), *self._concerns.processes()])
            self._processes.retire(owners, acknowledged)
            in_use = self._processes.cgroups() | _united([self._sockets.cgroups(), *self._concerns.cgroups()])
            self._cgroups.retire(in_use, acknowledged)
        self._polled_ns = started_ns

    def _drain(self) -> None:
        """Make room in a ring that fills between two polls."""
        self._concerns.drain()
        self._submit(self._take([]) | self._concerns.early())

    def _take_cgroups(self) -> None:
        self._cgroups.created(self._cgroup_events.drain())

    def _take(self, live: list[np.ndarray]) -> Tables:
        """Return the TCP rows of what iterators gave and of the events since."""
        events = self._tcp.drain()
        self._take_cgroups()
        self._processes.executed(self._execs.drain())  # after the events: what they tell of was executed before
        if self._tcp.events_lost > self._events_lost:
            self._events_lost = self._tcp.events_lost
            self._sockets.roles_uncertain_until_ns = _now_ns() + 2 * self._interval_ns()
        records = concatenated([events, *live])
        return {"tcp": self._sockets.update(records, self._processes.identify(records))}

    def _read_concerns(self) -> Tables:
        """Return the rows of the concerns, whose reading is a part of the poll."""
        cpu_ns = time.thread_time_ns()
        tables = self._concerns.read()
        self._poll_cost_ns += time.thread_time_ns() - cpu_ns
        return tables

    def _submit(self, tables: Tables) -> None:
        tables = self._concerns.rewrite(tables)
        statistics = intake_pb2.CollectorStatistics(
            events_lost=sum(probe.events_lost for probe in self._rings),
            sockets_untracked=self._sockets.untracked,
            sockets_tracked=len(self._sockets),
            processes_tracked=len(self._processes),
            cgroups_tracked=len(self._cgroups),
            cgroups_untracked=self._cgroups.untracked,
            containers_undescribed=self._cgroups.undescribed,
            poll_duration_ns=self._poll_cost_ns,
            cpu_time_ns=time.process_time_ns(),
            resident_bytes=resident_bytes(),
        )
        self._concerns.fill(statistics)
        self._load.fill(statistics)
        self._agreement.count(tables)
        self._agreement.fill(statistics)
        referred_cgroups = _referred(tables, "cgroup")
        self._cgroups.refer(referred_cgroups)
        processes, retired_processes = self._processes.take_changes()
        cgroups, retired_cgroups = self._cgroups.take_changes()
        entities = intake_pb2.Entities(
            processes=processes,
            retired_processes=retired_processes,
            cgroups=cgroups,
            retired_cgroups=retired_cgroups,
        )
        self._concerns.announce(entities)
        if cloud := self._cloud.take():
            in_cloud(self._host, cloud)
            entities.host.CopyFrom(self._host)
        number = self._client.submit(time.time_ns(), entities, tables, statistics)
        self._processes.submitted(_referred(tables, "process").tolist(), number)
        self._cgroups.submitted(referred_cgroups.tolist(), number)

    def _snapshot(self) -> list[intake_pb2.Entities]:
        entities = intake_pb2.Entities(
            processes=self._processes.messages(), cgroups=self._cgroups.messages(), host=self._host
        )
        self._concerns.remind(entities)
        return [entities]

    def close(self) -> None:
        """Close the concerns; the probes are their owner's."""
        self._concerns.close()
        self._load.close()


def _referred(tables: Tables, column: str) -> np.ndarray:
    """Return the ids in *column* of the tables that have it, each once."""
    return np.unique(
        np.concatenate([np.empty(0, np.uint64), *(rows[column] for rows in tables.values() if column in rows)])
    )


def _united(parts: list[np.ndarray]) -> set[int]:
    """Return the ids that are in any of *parts*."""
    return set(np.unique(np.concatenate(parts)).tolist())


def _cgroup_table(settings: Settings) -> CgroupTable:
    docker = Docker(
        [settings.host_directory / name for name in DOCKER_SOCKETS],
        settings.docker_ns_label,
        nomad=not settings.disable_nomad_metadata,
    )
    return CgroupTable(
        _cgroup_walk(settings), docker, time.monotonic_ns, every_container=settings.force_docker_metadata
    )


def _cgroup_walk(settings: Settings) -> Callable[[], dict[int, str]]:
    try:
        hierarchy = cgroup_tree.v2_hierarchy(settings.proc)
    except OSError:
        return dict
    return lambda: cgroup_tree.walk(hierarchy)


def _cgroup_finder(cgroups: CgroupTable, proc: Path) -> Callable[[int], int]:
    """Return what finds the cgroup of a process where cgroup v1 is in use; else sockets tell their own."""
    if cgroup_tree.has_v1(Path("/proc/self/cgroup").read_text()):
        return lambda pid: cgroups.of_process(cgroup_tree.paths_of_process(proc, pid))
    return lambda _: 0


def _give_memory_back() -> None:
    """Have what a poll's arrays took go back to the kernel: glibc by itself soon keeps up to 64 MiB (mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and no such habit
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _now_ns() -> int:
    """Return the time by the clock of the kernel's records."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
