"""The DNS as a concern of the collector: probe, rows, names and the sockets' owners put together."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import numpy as np

from intake.clock import SECOND_NS
from kernel_collector.concern import Concern
from kernel_collector.dns.answers import MalformedAnswerError, read_answer
from kernel_collector.dns.named_addresses import NamedAddresses
from kernel_collector.dns.probe import DnsProbe
from kernel_collector.dns.rows import described, traffic_rows, with_timeouts

if TYPE_CHECKING:
    from ebpf_net.v1 import intake_pb2

    from intake.columns import Columns, Tables
    from kernel_collector.concern import Surroundings
    from kernel_collector.dns.probe import DnsTraffic, Message

# At most a fiftieth of one core goes into reading answers.
READING_BUDGET = 50
_LEAST_READING_NS = SECOND_NS // 100
_FORGET_INTERVAL_NS = 60 * SECOND_NS


class DnsConcern(Concern):
    """What sockets ask and answer in the DNS, and what the names mean that they asked for."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._probe = DnsProbe(surroundings.packets)
        self._processes = surroundings.processes
        self._sockets = surroundings.sockets
        self._namespaces = np.array(sorted(surroundings.network_namespaces), np.uint32)
        self._names = NamedAddresses()
        self._malformed = self._unread = 0
        self._read_ns = self._forgot_ns = time.monotonic_ns()
        self._gathered: tuple[DnsTraffic, np.ndarray] | None = self._probe.drain(), self._probe.expire()

    def gather(self) -> None:
        """Take what the kernel counted, the queries that had no answer in time, and new answers."""
        self._gathered = self._probe.drain(), self._probe.expire()
        now_ns = time.monotonic_ns()
        budget_ns = max(_LEAST_READING_NS, (now_ns - self._read_ns) // READING_BUDGET)
        self._read_ns = now_ns
        self._learn(self._probe.answers(), budget_ns)
        if now_ns - self._forgot_ns > _FORGET_INTERVAL_NS:
            self._forgot_ns = now_ns
            self._names.forget(_now_s())

    def read(self) -> Tables:
        """Return the rows of what was gathered, or some of them where they are many."""
        traffic, expired = self._gathered or (self._probe.drain(), self._probe.nothing()[1])
        self._gathered = None
        ends = self._owned(described(traffic.peers, traffic.counts, self._processes.identify(traffic.counts["owner"])))
        late = self._owned(described(expired["peer"], expired, self._processes.identify(expired["owner"])))
        tables = {table: self._watched(rows) for table, rows in traffic_rows(traffic, ends).items()}
        tables["dns"] = with_timeouts(tables["dns"], self._watched(late))
        return tables

    @property
    def more(self) -> bool:
        """Whether `read` has left rows."""
        return self._probe.more

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Say what was not counted, and why."""
        statistics.dns_messages_malformed = self._probe.counter("dns_messages_malformed") + self._malformed
        statistics.dns_messages_untracked = self._probe.counter("dns_messages_untracked")
        statistics.dns_answers_unmatched = self._probe.counter("dns_answers_unmatched")
        statistics.dns_answers_unread = self._probe.counter("dns_answers_lost") + self._unread
        statistics.dns_streams_lost = self._probe.counter("dns_streams_lost")
        statistics.dns_queries_open = self._probe.queries_open
        statistics.dns_addresses_named = len(self._names)
        statistics.dns_addresses_forgotten = self._names.forgotten

    def announce(self, entities: intake_pb2.Entities) -> None:
        """Add the names that were answered since the call before."""
        entities.dns_names.extend(self._names.take_changes())

    def remind(self, entities: intake_pb2.Entities) -> None:
        """Add all names whose answers hold."""
        entities.dns_names.extend(self._names.messages(_now_s()))

    def close(self) -> None:
        """Let go of the ring."""
        self._probe.close()

    def _learn(self, messages: list[Message], budget_ns: int) -> None:
        """Read answers, as many as may be."""
        now_s, until_ns = _now_s(), time.thread_time_ns() + budget_ns
        for number, message in enumerate(messages):
            if time.thread_time_ns() > until_ns:
                self._unread += len(messages) - number
                return
            try:
                answer = read_answer(message.content, whole=message.whole)
            except MalformedAnswerError:
                self._malformed += 1
                continue
            if answer:
                self._names.learn(answer, now_s)

    def _owned(self, ends: Columns) -> Columns:
        """Return *ends* with the owners of TCP's sockets, which are known from their own records."""
        tcp = np.flatnonzero(ends["transport"] == socket.IPPROTO_TCP)
        if len(tcp):
            ends["process"], ends["network_namespace"] = ends["process"].copy(), ends["network_namespace"].copy()
            ends["process"][tcp], ends["network_namespace"][tcp] = self._sockets.owners(ends["socket"][tcp])
        return ends

    def _watched(self, rows: Columns) -> Columns:
        """Return the rows of the network namespaces that are watched: those of TCP are known only here."""
        if not len(self._namespaces):
            return rows
        watched = np.isin(rows["network_namespace"], self._namespaces)
        return rows if watched.all() else {name: column[watched] for name, column in rows.items()}


def _now_s() -> int:
    return int(time.monotonic())
