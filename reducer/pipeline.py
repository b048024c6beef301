"""The reducer without I/O: batches and the time in, the series of windows out.

`take` and its like are called by the thread that receives, `seal` by one other if wanted: `seal` takes the window and
all else that both touch out under a lock, and the rest of its work is on what nobody else has.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from reducer.columns.series import FLOWS, LEVELS, SealedWindow
from reducer.knowledge.directory import Directory, DirectoryView
from reducer.knowledge.dns_names import Answers, DnsNames
from reducer.knowledge.owners import Owners, OwnersView
from reducer.knowledge.realms import as_others_see, realms_of
from reducer.matching import balances
from reducer.matching.docker_proxy import DockerProxies
from reducer.matching.drops import DropReasons
from reducer.matching.flows import MOST_FLOWS
from reducer.matching.grouping import in_loopback
from reducer.matching.handover import handover_in
from reducer.matching.memory import Matcher
from reducer.naming.name import Names
from reducer.naming.parties import Parties
from reducer.pipeline_statistics import PipelineStatistics
from reducer.rolling_up.budget import MOST_SERIES
from reducer.rolling_up.levels import Levels
from reducer.session import MOST_BEHIND_NS
from reducer.windows.rows import SOCKETS, TABLE_OF, times, uniform_rows
from reducer.windows.window import Window, Windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from intake.columns import Columns, Tables
    from reducer.knowledge.autonomous_systems import AutonomousSystems
    from reducer.live import LiveView

_LOGGER = logging.getLogger(__name__)
# A collector that was not heard for as many windows will not come back.
_GONE_WINDOWS = 3
# 150 bytes each.
MOST_ROWS = 4_000_000


@dataclass(frozen=True)
class _Closed:
    """What is taken out to seal a window."""

    window: Window
    tables: dict[str, list[Columns]]
    later: dict[str, list[Columns]]
    owners: OwnersView
    heard: np.ndarray
    gone: np.ndarray
    away: np.ndarray
    directory: DirectoryView
    dns_names: list[Answers]
    acknowledge: dict[bytes, int]


class Pipeline:
    """Window, match, name, roll up; at most *most_series* series a level.

    Attributes:
        live: also given each row, while it is set.

    """

    def __init__(
        self,
        window_ns: int,
        grace_ns: int,
        poll_interval_ns: int,
        levels: Sequence[str] = ("az_az",),
        *,
        keep_loopback: bool = False,
        node_ip: bool = True,
        system_ip: bool = False,
        systems: AutonomousSystems | None = None,
        use_interfaces: bool = False,
        most_flows: int = MOST_FLOWS,
        most_series: int = MOST_SERIES,
    ) -> None:
        if not set(levels) <= {*LEVELS, FLOWS}:
            raise ValueError(f"levels {levels}: known are {LEVELS} and {FLOWS}")
        self.live: LiveView | None = None
        self._window_ns = window_ns
        self._delay_ns = poll_interval_ns + grace_ns
        self._keep_loopback = keep_loopback
        self._lock = threading.Lock()
        self._windows = Windows(window_ns, self._delay_ns)
        self._owners = Owners()
        self._directory = Directory(slack_ns=poll_interval_ns)
        self._matcher = Matcher(most_flows)
        self._proxies = DockerProxies()
        self._dns_names = DnsNames()
        self._parties = Parties(self._dns_names, systems, use_interfaces=use_interfaces)
        self._names = Names(node_ip=node_ip, system_ip=system_ip)
        self._levels = Levels(levels, self._parties, self._names, self._matcher.seed, most_series)
        self._drop_reasons = DropReasons()
        self._active = False
        self._restored = False
        self._not_before_ns = 0
        self._windows_back = 0  # by how many the clock was set back
        self._rows = self._loopback_rows = self._sealed = self._lag_ns = 0

    def hello(self, session: bytes, host: intake_pb2.Host, kind: int = intake_pb2.COLLECTOR_KIND_KERNEL) -> None:
        """Note the host of a session, and the kind of its collector."""
        with self._lock:
            self._owners.hello(session, host)
            self._directory.hello(session, host, kind)

    def snapshot(
        self, session: bytes, entities: intake_pb2.Entities, now_ns: int = 0, *, partial: bool = False
    ) -> None:
        """Replace the entities of a session; where it is *partial*, more snapshots follow that add to it."""
        with self._lock:
            self._owners.snapshot(session, entities, partial=partial)
            environment = self._owners.environment(session)
            self._directory.snapshot(session, environment, entities, now_ns, partial=partial)
            self._dns_names.learn(self._owners.scope(session), entities.dns_names, now_ns)
            self._drop_reasons.learn(session, entities.drop_reasons)

    def closed(self, session: bytes, now_ns: int) -> None:
        """Note that the session has no connection any more."""
        with self._lock:
            self._directory.closed(session, now_ns)

    def forget(self, session: bytes) -> None:
        """Keep nothing of a session that is not needed for the rows that it sent."""
        with self._lock:
            self._owners.forget(session)

    def heard(self, session: bytes, event_time_ns: int) -> None:
        """Note that the collector has told all until then."""
        with self._lock:
            self._owners.heard(session, event_time_ns)

    def take(self, session: bytes, number: int, event_time_ns: int, batch: intake_pb2.Batch, tables: Tables) -> None:
        """Take a batch and its rows; the time is by the reducer's clock."""
        with self._lock:
            self._owners.learn(session, batch.entities)
            self._directory.learn(session, self._owners.environment(session), batch.entities, event_time_ns)
            # They were answered after the batch before, and perhaps before connections of this one opened.
            answered_ns = self._owners.last_batch(session, event_time_ns) + 1
            self._dns_names.learn(self._owners.scope(session), batch.entities.dns_names, answered_ns)
            self._drop_reasons.learn(session, batch.entities.drop_reasons)
            self._windows.take(session, number, event_time_ns, None)
            for name, columns in tables.items():
                rows = self._owned(session, name, columns, event_time_ns)
                if rows is not None:
                    self._windows.take(session, number, event_time_ns, rows, TABLE_OF[name])
                    if self.live is not None and TABLE_OF[name] == SOCKETS:
                        self.live.take(event_time_ns, rows)
            self._owners.retire(session, batch.entities)
            self._owners.heard(session, event_time_ns)

    @property
    def overloaded(self) -> bool:
        """Whether no more batches should be taken until windows are sealed."""
        with self._lock:
            return self._windows.rows > MOST_ROWS

    def next_due(self, now_ns: int) -> int:
        """Return when the next window is to be sealed; windows begin with the first time that is told."""
        with self._lock:
            return self._due_ns(now_ns)

    def seal(self, now_ns: int) -> SealedWindow | None:
        """Return the oldest window if it is due; the first one without series is told as well.

        Windows are sealed one by one, each after the one before is encoded: the table of ends may be cleared between.
        """
        while True:
            with self._lock:
                self._follow_clock(now_ns)
                if now_ns < self._due_ns(now_ns):
                    return None
                window = self._windows.close(now_ns, idle=not (self._matcher.pending or self._active))
                if window is None:
                    return None
                closed = self._take_out(window, window.end_ns)
            self._lag_ns = now_ns - window.end_ns
            sealed = self._seal(closed)
            was_active, self._active = self._active, any(len(level.source) for level in sealed.levels)
            if sealed.acknowledge or self._active or was_active:
                return sealed

    def finish(self, now_ns: int) -> Iterator[SealedWindow]:
        """Yield all open windows, the last one ending now; each must be encoded before the next is asked for."""
        with self._lock:
            self._windows.end(now_ns)
        while True:
            with self._lock:
                window = self._windows.close_next()
                if window is None:
                    return
                closed = self._take_out(window, min(window.end_ns, now_ns - self._delay_ns))
            yield self._seal(closed)

    def restore(self, data: bytes) -> None:
        """Go on after the last stored window, given its `SealedWindow.balances`; called before anything else.

        The first window is sealed no earlier than a window's length from now: until then collectors come back.

        Raises:
            BalancesError: *data* is damaged, or of another version.

        """
        self._windows.sealed_until_ns = balances.load(data, self._matcher, self._window_ns)
        self._restored = True

    def statistics(self) -> PipelineStatistics:
        """Return the counters."""
        with self._lock:
            return PipelineStatistics(
                rows=self._rows,
                rows_late=self._windows.late_rows,
                rows_refused=self._windows.refused_rows,
                rows_loopback=self._loopback_rows,
                rows_open=self._windows.rows,
                windows=self._sealed,
                flows=len(self._matcher.flows),
                flows_untracked=self._matcher.flows.untracked,
                balances_cut=self._matcher.limit.cut,
                addresses_unwatched=self._matcher.addresses_unwatched,
                flows_of_docker_proxy=self._proxies.flows,
                ends_unknown=self._parties.counts(),
                ends_rolled_up=self._names.ends_rolled_up,
                series_rolled_up=self._levels.series_rolled_up,
                flows_without_ports=self._levels.flows_without_ports,
                processes_refused=self._owners.processes_refused,
                cgroups_refused=self._owners.cgroups_refused,
                entities_refused=self._directory.refused,
                entities=len(self._directory),
                dns_names=len(self._dns_names),
                dns_names_refused=self._dns_names.refused,
                request_balances=len(self._matcher.requests),
                request_balances_forgotten=self._matcher.requests.forgotten,
                receivers_forgotten=self._matcher.receivers.forgotten,
                bytes_of_both=self._matcher.agreement.bytes_of_both,
                bytes_apart=self._matcher.agreement.bytes_apart,
                sessions=self._owners.sessions,
                window_lag_ns=self._lag_ns,
            )

    def view_owners(self) -> OwnersView:
        """Return what the owners in rows mean now."""
        with self._lock:
            return self._owners.view()

    def _follow_clock(self, now_ns: int) -> None:
        """Go on at the present where the clock was set back, as at the start of a machine whose own was wrong."""
        back = self._windows.follow_back(now_ns)
        if back:
            _LOGGER.warning(
                "the clock was set back by %.0f s: windows go on from now", back * self._window_ns / SECOND_NS
            )
            self._windows_back += back
            self._not_before_ns = min(self._not_before_ns, now_ns + self._window_ns)
            self._owners.follow_back(now_ns)

    def _due_ns(self, now_ns: int) -> int:
        if self._restored:
            self._not_before_ns = now_ns + self._window_ns
            self._restored = False
            # However long nobody sealed a window: collectors come back one after the other.
            self._matcher.flows.seen_in(now_ns // self._window_ns)
        return max(self._windows.due_ns(now_ns), self._not_before_ns)

    def _owned(self, session: bytes, table: str, told: Columns, event_time_ns: int) -> Columns | None:
        """Return the rows to count, with owners as `process`."""
        self._rows += len(told["socket"])
        rows = uniform_rows(table, told)
        if "time" in rows:
            rows["time"] = times(told, event_time_ns)
        nobody = np.zeros(len(told["socket"]), np.uint32)
        rows["process"] = self._owners.of(
            session, told.get("process", nobody), told.get("cgroup", nobody.astype("<u8"))
        )
        public = self._owners.public_pairs(session)
        if len(public):
            local, remote = rows["local_address"], rows["remote_address"]
            rows["local_address"] = as_others_see(local, remote, public)
            rows["remote_address"] = as_others_see(remote, local, public)
        if table == "drops":
            rows["reason"] = self._drop_reasons.of(session, told["reason"])
        if self._keep_loopback:
            return rows
        loopback = in_loopback(rows)
        if not loopback.any():
            return rows
        self._loopback_rows += int(np.count_nonzero(loopback))
        return {name: column[~loopback] for name, column in rows.items()} if not loopback.all() else None

    def _take_out(self, window: Window, heard_until_ns: int) -> _Closed:
        tables, later = window.tables(), self._windows.later()
        self._owners.collect(self._owners_in_use([*tables.values(), *later.values()]))
        self._directory.collect(window.end_ns)
        directory = self._directory.view()
        owners = self._owners.view()
        owners = replace(owners, realms=realms_of(owners.hosts, directory))
        heard = owners.heard(heard_until_ns)
        return _Closed(
            window,
            tables,
            later,
            owners,
            heard,
            owners.gone(heard_until_ns - _GONE_WINDOWS * self._window_ns),
            # What it would tell of later would not be believed to be of then.
            (owners.session != 0) & ~heard & ~owners.gone(heard_until_ns - MOST_BEHIND_NS),
            directory,
            self._dns_names.take(),
            self._windows.acknowledge(window),
        )

    def _owners_in_use(self, tables: list[list[Columns]]) -> Iterator[np.ndarray]:
        yield self._matcher.flows.owner
        yield self._proxies.in_use()
        yield from (rows["process"] for table in tables for rows in table)
        if self.live is not None:
            yield from self.live.owners()

    def _seal(self, closed: _Closed) -> SealedWindow:
        window, owners = closed.window, closed.owners
        parts = self._matcher.match(
            (window.end_ns - 1) // self._window_ns + self._windows_back,
            closed.tables,
            closed.later,
            owners,
            heard=closed.heard,
            gone=closed.gone,
            away=closed.away,
            handover=handover_in(closed.directory, owners, window.start_ns - self._delay_ns),
        )
        self._dns_names.begin_window(closed.dns_names)
        self._parties.begin_window(owners, closed.directory)
        self._names.begin_window(self._parties)
        levels = self._levels.of_window(self._proxies.see_through(parts, owners), window.end_ns)
        self._sealed += 1
        return SealedWindow(
            window.start_ns,
            window.end_ns,
            levels,
            self._names.ends,
            closed.acknowledge,
            balances.dump(self._matcher, window.end_ns),
            self._drop_reasons.names,
        )
