"""The daemon: opens what the core needs of the machine, calls it at intervals, and has its rows sent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ebpf_net.v1 import intake_pb2

from daemon.errors import StartupError
from daemon.events import set_within
from daemon.open_files import allow_open_files
from daemon.signals import stop_event
from daemon.version import VERSION
from intake.clock import SECOND_NS
from kernel_collector import preflight
from kernel_collector.agreement import Agreement
from kernel_collector.bpf.btf import BtfError
from kernel_collector.bpf.libbpf import LibbpfError
from kernel_collector.bpf.load import Load
from kernel_collector.concern import Surroundings
from kernel_collector.concerns import Concerns, watched_on_packets
from kernel_collector.core import CollectorCore
from kernel_collector.dns import probe as dns
from kernel_collector.encoders import client
from kernel_collector.machine.cloud_metadata import CloudMetadata
from kernel_collector.machine.host import describe_host
from kernel_collector.machine.network_namespaces import NetworkNamespace, named_network_namespaces
from kernel_collector.outside import Clock, Files, Outside, recorded
from kernel_collector.packets import Packets
from kernel_collector.replay.recording import Tape
from kernel_collector.replay.transcript import TranscriptWriter
from kernel_collector.tcp.hidden_sockets import HiddenSockets
from kernel_collector.tcp.probe import TcpProbe
from kernel_collector.workloads.cgroup_probe import CgroupProbe
from kernel_collector.workloads.docker import Docker
from kernel_collector.workloads.execs import ExecProbe

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernel_collector.concern import Identifier
    from kernel_collector.options import Settings
    from kernel_collector.tcp.sockets import SocketTable

_LOGGER = logging.getLogger(__name__)
# The second poll comes soon after the first, which only says what was there before.
FIRST_INTERVAL_NS = SECOND_NS // 2
FINISH_TIMEOUT_S = 5.0
# How soon a new poll interval in the reducer's welcome takes effect.
LONGEST_SLEEP_NS = SECOND_NS // 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# A page that comes from the kernel costs 2 us: what a portion of a poll takes, which comes again with the next, stays.
_KEPT_BYTES = 2 << 20
# Larger blocks do not share the heap, where a small one at its end keeps all below it.
_MAPPED_BYTES = 512 << 10
DOCKER_SOCKETS = ("run/docker.sock", "var/run/docker.sock")


async def collect(settings: Settings) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP; another SIGTERM or SIGINT ends it at once.

    Raises:
        StartupError: this machine does not allow it; the message says why and what to do.

    """
    _give_memory_back()
    allow_open_files()
    if too_few := preflight.required_failures([preflight.open_files()]):
        raise StartupError(too_few)
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
        processes = preflight.host_pid_namespace(settings.proc)
        if processes.result is preflight.Result.NO:
            _LOGGER.warning("%s; %s", processes.detail, processes.remedy)
        packets = stack.enter_context(Packets(settings.proc, watched_on_packets(settings), inodes, dns.constants()))
        tape = None
        if settings.record:
            writer = stack.enter_context(contextlib.closing(TranscriptWriter(settings.record, settings.record_limit)))
            tape = Tape(writer)
        collector = KernelCollector(settings, Probes(tcp, execs, cgroups, packets), named, tape)
        stack.enter_context(contextlib.closing(collector))
        await collector.run(stopping)


class Probes(NamedTuple):
    """What is attached, *tcp* after *execs* and *cgroups*."""

    tcp: TcpProbe
    execs: ExecProbe
    cgroups: CgroupProbe
    packets: Packets


class KernelCollector:
    """The core, the outside and the client, put together.

    Args:
        settings: of the operator.
        probes: attached.
        named: the network namespaces to which the probes of sockets are limited; none: they see all.
        tape: on which the outside's answers are recorded; None: they are not.

    """

    def __init__(
        self, settings: Settings, probes: Probes, named: list[NetworkNamespace], tape: Tape | None = None
    ) -> None:
        self._probes = probes
        self._concerns: Concerns | None = None
        self._tape = tape
        hello = intake_pb2.Hello(
            kind=intake_pb2.COLLECTOR_KIND_KERNEL,
            version=VERSION,
            host=describe_host(settings.labels, [each.fd for each in named], settings.host_directory),
        )
        self._client = client(settings, hello, self._snapshot)
        self._load = Load(time.monotonic_ns, count=settings.bpf_stats)
        self._agreement = Agreement(settings.proc, named, time.monotonic_ns, udp=settings.udp_metrics)

        def open_concerns(processes: Identifier, sockets: SocketTable) -> Concerns:
            inodes = frozenset(each.inode for each in named)
            self._concerns = Concerns(Surroundings(settings, inodes, probes.packets, processes, sockets))
            return self._concerns

        self._docker = _docker(settings)
        outside = Outside(
            tcp=probes.tcp,
            execs=probes.execs,
            cgroup_events=probes.cgroups,
            hidden=HiddenSockets(probes.tcp, settings.proc, named),
            files=Files(settings),
            docker=self._docker,
            cloud=CloudMetadata(),
            clock=Clock(),
            load=self._load,
            agreement=self._agreement,
            client=self._client,
            open_concerns=open_concerns,
        )
        if tape:
            tape.begin(hello.host, settings.command_line_length, every_container=settings.force_docker_metadata)
            outside = recorded(outside, tape)
        # The host is the same message as in hello: a later connection says what is known by then.
        self._core = CollectorCore(
            outside,
            hello.host,
            longest_command_line=settings.command_line_length,
            every_container=settings.force_docker_metadata,
        )
        self._call("begin", self._core.begin)

    async def run(self, stopping: asyncio.Event) -> None:
        """Poll at intervals until *stopping*; then once more, and give the receiver some seconds to take all."""
        loop = asyncio.get_running_loop()
        connection = asyncio.create_task(self._client.run())
        connection.add_done_callback(lambda _: stopping.set())
        wakeups = self._wakeups()
        for descriptor, (name, function) in wakeups.items():
            loop.add_reader(descriptor, self._call, name, function)
        await self._pause(stopping, lambda: FIRST_INTERVAL_NS)
        while not stopping.is_set():
            self._call("poll", self._core.poll)
            await self._pause(stopping, self._interval_ns)
        for descriptor in wakeups:
            loop.remove_reader(descriptor)
        if connection.done():
            connection.result()
        self._agreement.hasten()
        self._call("poll", self._core.poll)
        if not await self._client.finish(FINISH_TIMEOUT_S):
            _LOGGER.warning("the receiver did not take all within %.0f s: what it did not is lost", FINISH_TIMEOUT_S)
        connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)

    def close(self) -> None:
        """Close the concerns, and what follows Docker; the probes are their owner's."""
        self._docker.close()
        if self._concerns:
            self._concerns.close()
        self._load.close()

    def _call(self, moment: str, function: Callable[[], None]) -> None:
        """Call the core; the name of the moment is what a replay goes by."""
        if self._tape:
            self._tape.moment(moment, function)
        else:
            function()

    def _snapshot(self) -> list[intake_pb2.Entities]:
        return self._core.snapshot()

    def _wakeups(self) -> dict[int, tuple[str, Callable[[], None]]]:
        """Return what is to be called when a file descriptor is readable, and the name of that moment."""
        wakeups: dict[int, tuple[str, Callable[[], None]]] = {
            probe.wakeup_fd: ("drain", self._core.drain) for probe in (self._probes.tcp, self._probes.execs)
        }
        wakeups[self._probes.cgroups.wakeup_fd] = ("take_cgroups", self._core.take_cgroups)
        for number, concern in enumerate(self._concerns or ()):
            if concern.wakeup_fd is not None:
                wakeups[concern.wakeup_fd] = (f"drain_concern {number}", partial(self._core.drain_concern, number))
        return wakeups

    async def _pause(self, stopping: asyncio.Event, interval_ns: Callable[[], int]) -> None:
        """Wait until the interval since the last poll, which may change meanwhile, has passed, or until *stopping*."""
        while not stopping.is_set() and (left_ns := self._core.polled_ns + interval_ns() - Clock().boot_ns()) > 0:
            await set_within(stopping, min(left_ns, LONGEST_SLEEP_NS) / SECOND_NS)

    def _interval_ns(self) -> int:
        return self._core.interval_ns(self._client.poll_interval_ns)


def _docker(settings: Settings) -> Docker:
    return Docker(
        [settings.host_directory / name for name in DOCKER_SOCKETS],
        settings.docker_ns_label,
        nomad=not settings.disable_nomad_metadata,
    )


def _give_memory_back() -> None:
    """Have what a poll's arrays took go back to the kernel: glibc by itself soon keeps up to 64 MiB (mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and no such habit
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
