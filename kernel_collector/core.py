"""The collector without I/O: what it knows, and what it makes of what the outside answers.

The outside calls `begin` first, then `poll` at intervals and the others when there is something for them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from kernel_collector.columns.structured import concatenated
from kernel_collector.machine.host import in_cloud
from kernel_collector.tcp.sockets import SocketTable
from kernel_collector.workloads.cgroups import CgroupTable
from kernel_collector.workloads.processes import ProcessTable

if TYPE_CHECKING:
    from intake.columns import Tables
    from kernel_collector.outside import Outside

_LOGGER = logging.getLogger(__name__)
WALK_INTERVAL_NS = 60 * SECOND_NS
# No socket is orphaned for so long: the kernel gives up sending after 8 tries (tcp_orphan_retries).
ABANDONED_NS = 15 * 60 * SECOND_NS
# At most a fiftieth of one core goes into polls: where they take long, they come less often.
POLL_BUDGET = 50


class CollectorCore:
    """The tables of a collector.

    Args:
        outside: is asked.
        host: that is described; it may come to say more.
        longest_command_line: see `ProcessTable`.
        every_container: see `CgroupTable`.

    Attributes:
        polled_ns: when it was polled last, by the clock of the kernel's records.

    """

    def __init__(
        self, outside: Outside, host: intake_pb2.Host, *, longest_command_line: int, every_container: bool
    ) -> None:
        self._tcp, self._execs, self._cgroup_events = outside.tcp, outside.execs, outside.cgroup_events
        self._hidden, self._clock, self._cloud = outside.hidden, outside.clock, outside.cloud
        self._load, self._agreement, self._client = outside.load, outside.agreement, outside.client
        self._outside = outside
        self._host = host
        self._cgroups = CgroupTable(
            outside.files.cgroups, outside.docker, self._clock.monotonic_ns, every_container=every_container
        )
        self._processes = ProcessTable(
            outside.files.origin,
            self._clock.unix_ns() - self._clock.boot_ns(),
            lambda pid: self._cgroups.of_process(outside.files.cgroup_paths(pid)),
            outside.files.service,
            longest_command_line=longest_command_line,
        )
        self._events_lost = 0
        self._poll_cost_ns = 0
        self._told_slow = False
        self.polled_ns = self._walked_ns = 0

    def begin(self) -> None:
        """Read what is there: it was before the collector."""
        self.polled_ns = self._walked_ns = self._clock.boot_ns()
        live = self._tcp.poll()
        walk = self._hidden.walk(live, np.empty(0, np.uint32))
        self._sockets = SocketTable(baseline_ns=self._clock.boot_ns())
        self._concerns = self._outside.open_concerns(self._processes, self._sockets)
        self._tcp.settle()  # a socket that is shown and whose events are missing would be one from before
        self._submit_tcp([live, *walk.records])
        self._submit_concerns()
        _LOGGER.info("watching %s: %d sockets are open", self._host.name, len(self._sockets))

    def interval_ns(self, wanted: int) -> int:
        """Return how long after one poll the next is to come, where the receiver *wanted* so long."""
        least = self._poll_cost_ns * POLL_BUDGET
        if least > wanted and not self._told_slow:
            self._told_slow = True
            _LOGGER.warning(
                "a poll takes %.3f s of CPU: to stay below 2%% of a core, it comes each %.2f s instead of %.2f s",
                *(ns / SECOND_NS for ns in (self._poll_cost_ns, least, wanted)),
            )
        return max(least, wanted)

    def poll(self) -> None:
        """Read all that the probes have, and submit the rows; now and then look for what polls cannot see."""
        started_ns, cpu_ns = self._clock.boot_ns(), self._clock.thread_ns()
        self._concerns.gather()
        live = [self._tcp.poll()]
        self._poll_cost_ns = self._clock.thread_ns() - cpu_ns
        if started_ns - self._walked_ns < WALK_INTERVAL_NS:
            self._submit_tcp(live)
            self._submit_concerns()
        else:
            self._walked_ns = started_ns
            walk = self._hidden.walk(live[0], self._sockets.missing(self.polled_ns))
            live += walk.records
            self._submit_tcp(live)
            self._submit_concerns()
            self._submit({"tcp": self._sockets.retire(walk.namespaces, self.polled_ns, started_ns - ABANDONED_NS)})
            acknowledged = self._client.acknowledged
            owners = _united([self._sockets.processes(), *self._concerns.processes()])
            self._processes.retire(owners, acknowledged)
            in_use = self._processes.cgroups() | _united([self._sockets.cgroups(), *self._concerns.cgroups()])
            self._cgroups.retire(in_use, acknowledged)
        self.polled_ns = started_ns

    def drain(self) -> None:
        """Make room in a ring that fills between two polls."""
        self._concerns.drain()
        self._submit(self._take([]) | self._concerns.early())

    def take_cgroups(self) -> None:
        """Take the cgroups that were made, and ask about their containers at once."""
        self._cgroups.created(self._cgroup_events.drain())

    def drain_concern(self, number: int) -> None:
        """Have a concern take what would not find room until the next poll."""
        self._concerns.drain_one(number)

    def _submit_tcp(self, live: list[np.ndarray]) -> None:
        """Submit the rows of TCP alone, so that they are gone from memory when those of concerns are made.

        The statistics come with the others: how totals agree with the kernel's is known when all are counted.
        """
        self._submit(self._take(live), with_statistics=False)

    def _submit_concerns(self) -> None:
        """Submit the rows of the concerns, where they are many in several batches of which the last has statistics."""
        more = True
        while more:
            cpu_ns = self._clock.thread_ns()
            tables = self._concerns.read()
            self._poll_cost_ns += self._clock.thread_ns() - cpu_ns
            more = self._concerns.more
            self._submit(tables, with_statistics=not more)
            del tables  # before the next are made

    def _take(self, live: list[np.ndarray]) -> Tables:
        """Return the TCP rows of what iterators gave, which is taken out of *live*, and of the events since."""
        events = self._tcp.drain()
        self.take_cgroups()
        self._processes.executed(self._execs.drain())  # after the events: what they tell of was executed before
        if self._tcp.events_lost > self._events_lost:
            self._events_lost = self._tcp.events_lost
            self._sockets.roles_uncertain_until_ns = self._clock.boot_ns() + 2 * self.interval_ns(
                self._client.poll_interval_ns
            )
        live.insert(0, events)
        del events
        records = concatenated(live)
        live.clear()
        return {"tcp": self._sockets.update(records, self._processes.identify(records), self._clock.boot_ns())}

    def _submit(self, tables: Tables, *, with_statistics: bool = True) -> None:
        tables = self._concerns.rewrite(tables)
        self._agreement.count(tables)
        statistics = self._statistics() if with_statistics else None
        referred_cgroups = _referred(tables, "cgroup")
        self._cgroups.refer(referred_cgroups)
        entities = intake_pb2.Entities()
        self._concerns.announce(entities)
        processes, retired_processes = self._processes.take_changes()
        cgroups, retired_cgroups = self._cgroups.take_changes()
        entities.processes.extend(processes)
        entities.retired_processes.extend(retired_processes)
        entities.cgroups.extend(cgroups)
        entities.retired_cgroups.extend(retired_cgroups)
        if cloud := self._cloud.take():
            in_cloud(self._host, cloud)
            entities.host.CopyFrom(self._host)
        number = self._client.submit(self._clock.unix_ns(), entities, tables, statistics)
        self._processes.submitted(_referred(tables, "process").tolist(), number)
        self._cgroups.submitted(referred_cgroups.tolist(), number)

    def _statistics(self) -> intake_pb2.CollectorStatistics:
        """Return what the outside tells of itself, with what is known here added."""
        statistics = intake_pb2.CollectorStatistics()
        self._concerns.fill(statistics)
        self._load.fill(statistics)
        self._agreement.fill(statistics)
        statistics.events_lost += sum(probe.events_lost for probe in (self._tcp, self._execs, self._cgroup_events))
        statistics.sockets_untracked += self._sockets.untracked
        statistics.sockets_tracked += len(self._sockets)
        statistics.processes_tracked = len(self._processes)
        statistics.processes_untracked = self._processes.untracked
        statistics.cgroups_tracked = len(self._cgroups)
        statistics.cgroups_untracked = self._cgroups.untracked
        statistics.containers_undescribed = self._cgroups.undescribed
        statistics.poll_duration_ns = self._poll_cost_ns
        statistics.cpu_time_ns = self._clock.process_ns()
        statistics.resident_bytes = self._clock.resident_bytes()
        return statistics

    def snapshot(self) -> list[intake_pb2.Entities]:
        """Return all entities that batches which are not acknowledged, and later rows, may refer to."""
        entities = intake_pb2.Entities()
        self._concerns.remind(entities)
        entities.processes.extend(self._processes.messages())
        entities.cgroups.extend(self._cgroups.messages())
        entities.host.CopyFrom(self._host)
        return [entities]


def _referred(tables: Tables, column: str) -> np.ndarray:
    """Return the ids in *column* of the tables that have it, each once."""
    return np.unique(
        np.concatenate([np.empty(0, np.uint64), *(rows[column] for rows in tables.values() if column in rows)])
    )


def _united(parts: list[np.ndarray]) -> set[int]:
    """Return the ids that are in any of *parts*."""
    return set(np.unique(np.concatenate(parts)).tolist())
