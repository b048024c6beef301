"""Hypothesis strategies for hosts, processes, sockets and what collectors see of them, and a world that plays them.

A world runs in steps of one second. Connections carry bytes, collectors poll the sockets of their host and send what
changed, now and then they are cut off; the truth is known to the byte.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2
from hypothesis import strategies as st

from intake.clock import SECOND_NS
from tests.rows import session_id, table_of

if TYPE_CHECKING:
    from intake.columns import Columns, Tables

WINDOW_S = 4
GRACE_S = 1
POLL_S = 2
START_S = 1_000_000
STEPS = 30
PROCESSES = 3
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class HostPlan:
    """A host; its collector, if any, starts at a step, polls at a phase, and is cut off for some steps."""

    address: str
    collected: bool
    starts: int = 0
    phase: int = 0
    cut_from: int = STEPS
    cut_for: int = 0

    def cut(self, step: int) -> bool:
        return self.cut_from <= step < self.cut_from + self.cut_for


@dataclass(frozen=True)
class ConnectionPlan:
    """A connection between two hosts (or on one): from its first step on, bytes up and down at each step.

    UDP is no connection: nothing opens or closes, and what a collector that starts late says of it is never whole.
    """

    client: int
    server: int
    client_port: int
    server_port: int
    first: int
    traffic: tuple[tuple[int, int], ...]
    lag: int  # steps that bytes take to be received
    processes: tuple[int, int]  # of the client and of the server
    udp: bool

    @property
    def last(self) -> int:
        return self.first + len(self.traffic)


@dataclass(frozen=True)
class WorldPlan:
    """Hosts, connections, and the steps at which the reducer is killed and started again."""

    hosts: tuple[HostPlan, ...]
    connections: tuple[ConnectionPlan, ...]
    restarts: frozenset[int] = frozenset()


@st.composite
def hosts(draw, *, late: bool, cut: bool):
    """Two or three hosts, at least one with a collector."""
    count = draw(st.integers(2, 3))
    plans = [
        HostPlan(
            address=f"10.0.0.{index + 1}" if draw(st.booleans()) else f"fd00::{index + 1}",
            collected=index == 0 or draw(st.booleans()) or draw(st.booleans()),
            starts=draw(st.integers(0, 12)) if late else 0,
            phase=draw(st.integers(0, POLL_S - 1)),
            cut_from=draw(st.integers(0, STEPS)) if cut else STEPS,
            cut_for=draw(st.integers(0, 20)) if cut else 0,
        )
        for index in range(count)
    ]
    return tuple(plans)


@st.composite
def connections(draw, hosts_count: int, *, reuse: bool):
    """Up to five connections; their ports are used again one after the other only where *reuse* says so."""
    plans: list[ConnectionPlan] = []
    free_from: dict[tuple, int] = {}
    for index in range(draw(st.integers(1, 5))):
        client = draw(st.integers(0, hosts_count - 1))
        server = draw(st.integers(0, hosts_count - 1))
        port = 40000 if reuse else 40000 + index
        key = (client, server, port)
        first = free_from.get(key, 0) + draw(st.integers(1, 6))
        amounts = st.integers(0, 3) | st.integers(0, 100_000)
        traffic = tuple(draw(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=12)))
        if first + len(traffic) + 2 >= STEPS:
            continue
        processes = (draw(st.integers(1, PROCESSES)), draw(st.integers(1, PROCESSES)))
        plan = ConnectionPlan(
            client, server, port, 80, first, traffic, draw(st.integers(0, 1)), processes, draw(st.booleans())
        )
        free_from[key] = plan.last + 1
        plans.append(plan)
    return tuple(plans)


@st.composite
def worlds(draw, *, late: bool = False, cut: bool = False, reuse: bool = False, restarts: bool = False):
    """Worlds with these troubles."""
    plan_hosts = draw(hosts(late=late, cut=cut))
    plan_connections = draw(connections(len(plan_hosts), reuse=reuse))
    when = draw(st.frozensets(st.integers(1, STEPS + 20), max_size=3)) if restarts else frozenset()
    return WorldPlan(plan_hosts, plan_connections, when)


COUNTERS = (
    "bytes_sent",
    "bytes_received",
    "segments_sent",
    "segments_received",
    "opened",
    "closed",
    "requests",
    "errors",
)


@dataclass
class Socket:
    """One end of a connection, with the counters that the kernel would have at a step."""

    cookie: int
    plan: ConnectionPlan
    connector: bool

    def counters(self, step: int) -> dict[str, int]:
        plan = self.plan
        age = step - plan.first
        own, theirs = (0, 1) if self.connector else (1, 0)
        sent = sum(moved[own] for moved in plan.traffic[: max(0, age + 1)])
        received = sum(moved[theirs] for moved in plan.traffic[: max(0, age + 1 - plan.lag)])
        asked = plan.traffic[: max(0, age + 1 - (0 if self.connector else plan.lag))]
        return {
            "bytes_sent": sent,
            "bytes_received": received,
            "segments_sent": -(-sent // 1000),
            "segments_received": -(-received // 1000),
            "opened": int(age >= 0 and not plan.udp),
            "closed": int(step > plan.last and not plan.udp),
            "requests": sum(up % 3 for up, _ in asked),
            "errors": sum(up % 3 for up, down in asked if down % 2),
        }


@dataclass
class Collector:
    """Polls the sockets of a host; keeps each batch until it is acknowledged."""

    number: int
    host: HostPlan
    sockets: list[Socket]
    reported: dict[int, dict[str, int]] = field(default_factory=dict)
    baselines: set[int] = field(default_factory=set)
    unacknowledged: list[tuple[int, int, Tables]] = field(default_factory=list)
    unsent: list[tuple[int, int, Tables]] = field(default_factory=list)
    taken: int = 0

    @property
    def session(self) -> bytes:
        return session_id(self.number)

    def hello(self) -> intake_pb2.Host:
        return intake_pb2.Host(name=f"host-{self.number}", zone="zone", environment="test")

    def entities(self) -> intake_pb2.Entities:
        processes = [intake_pb2.Process(id=number, name=f"process-{number}") for number in range(1, PROCESSES + 1)]
        return intake_pb2.Entities(processes=processes)

    def start(self, step: int) -> None:
        for socket in self.sockets:
            if socket.plan.first < step <= socket.plan.last:
                self.reported[socket.cookie] = socket.counters(step)
                self.baselines.add(socket.cookie)
            elif step > socket.plan.last:
                self.reported[socket.cookie] = socket.counters(STEPS * 2)

    def poll(self, step: int) -> None:
        tables: Tables = {}
        for name, udp in (("tcp", False), ("udp", True)):
            rows = [self._row(socket, step) for socket in self.sockets if socket.plan.udp == udp]
            told = [row for row in rows if row]
            asked = [request_row(row, udp=udp) for row in told if row["requests"]]
            if told:
                tables[name] = table_of(name, *told)
            if asked:
                tables["dns" if udp else "http"] = table_of("dns" if udp else "http", *asked)
                bins = [row for request in asked for row in bin_rows(request, udp=udp)]
                tables["bins"] = merged(tables.get("bins"), table_of("bins", *bins))
        self.taken += 1
        batch = (self.taken, (START_S + step) * SECOND_NS, tables)
        self.unacknowledged.append(batch)
        self.unsent.append(batch)

    def _row(self, socket: Socket, step: int) -> dict | None:
        plan = socket.plan
        now = socket.counters(step)
        before = self.reported.get(socket.cookie, dict.fromkeys(COUNTERS, 0))
        changes = {name: now[name] - before[name] for name in COUNTERS}
        if not any(changes.values()):
            return None
        self.reported[socket.cookie] = now
        baseline = socket.cookie in self.baselines
        if plan.udp:
            changes |= {"packets_sent": changes["segments_sent"], "packets_received": changes["segments_received"]}
        else:
            self.baselines.discard(socket.cookie)
        return changes | {
            "socket": socket.cookie,
            "process": plan.processes[0 if socket.connector else 1],
            "network_namespace": 7,
            "role": intake_pb2.ROLE_CONNECTOR if socket.connector else intake_pb2.ROLE_ACCEPTOR,
            "baseline": int(baseline),
            **endpoints(plan, self.host_addresses, connector=socket.connector),
        }

    host_addresses: tuple[str, ...] = ()


LATENCY_BIN, LATENCY_US = 200, 31
OK, UNAVAILABLE = 200, 503


def request_row(row: dict, *, udp: bool) -> dict:
    """Return the row of DNS or HTTP that goes with a row of a socket."""
    good = row["requests"] - row["errors"]
    told = {"latency_count": row["requests"], "latency_sum_us": LATENCY_US * row["requests"]}
    if udp:
        told |= {"transport": 17, "queries": row["requests"], "noerror": good, "servfail": row["errors"]}
    else:
        told |= {"transport": 6, "status_2xx": good, "status_5xx": row["errors"]}
        if not (good and row["errors"]):
            told |= {"status": OK if good else UNAVAILABLE}
    # What is all in one bin may be told by the row itself, or by bins.
    if row["requests"] % 2:
        told |= {"latency_bin": LATENCY_BIN + 1}
    return row | told


def bin_rows(request: dict, *, udp: bool) -> list[dict]:
    """Return the bins that go with a row of DNS or HTTP."""
    kind = intake_pb2.BIN_KIND_DNS_LATENCY if udp else intake_pb2.BIN_KIND_HTTP_LATENCY
    told = [] if "latency_bin" in request else [{"kind": kind, "bin": LATENCY_BIN, "count": request["requests"]}]
    if not udp and "status" not in request:
        codes = ((OK, request["status_2xx"]), (UNAVAILABLE, request["status_5xx"]))
        told += [{"kind": intake_pb2.BIN_KIND_HTTP_STATUS, "bin": code, "count": count} for code, count in codes]
    return [request | each for each in told]


def merged(one: Columns | None, two: Columns) -> Columns:
    """Return the rows of both tables."""
    return two if one is None else {name: np.concatenate((one[name], two[name])) for name in two}


def endpoints(plan: ConnectionPlan, addresses: tuple[str, ...], *, connector: bool) -> dict:
    """Return the local and remote columns of one end; a connection of a host with itself is on loopback."""
    client, server = addresses[plan.client], addresses[plan.server]
    if plan.client == plan.server:
        client = server = LOOPBACK
    one, two = (client, plan.client_port), (server, plan.server_port)
    local, remote = (one, two) if connector else (two, one)
    return {"local_address": local[0], "local_port": local[1], "remote_address": remote[0], "remote_port": remote[1]}


def collectors_of(plan: WorldPlan) -> list[Collector]:
    """Return the collectors with the sockets of their hosts."""
    addresses = tuple(host.address for host in plan.hosts)
    collectors = []
    for number, host in enumerate(plan.hosts):
        if not host.collected:
            continue
        sockets = []
        for index, connection in enumerate(plan.connections):
            sockets += [Socket(2 * index + 1, connection, connector=True)] if connection.client == number else []
            sockets += [Socket(2 * index + 2, connection, connector=False)] if connection.server == number else []
        collectors.append(Collector(number, host, sockets, host_addresses=addresses))
    return collectors


@dataclass
class Truth:
    """What the series must add up to: bytes by (source address, dest address), and connections."""

    bytes: Counter = field(default_factory=Counter)
    opened: int = 0
    closed: int = 0
    requests: Counter = field(default_factory=Counter)  # by (client address, server address)
    counts: Counter = field(default_factory=Counter)  # by value column, and by kind and bin


def truth_of(plan: WorldPlan) -> Truth:
    """Return what happened, as far as any collector was there to see it."""
    truth = Truth()
    for connection in plan.connections:
        ends = [Socket(0, connection, connector=True), Socket(0, connection, connector=False)]
        hosts_of = [plan.hosts[connection.client], plan.hosts[connection.server]]
        addresses = [endpoints(connection, tuple(h.address for h in plan.hosts), connector=c) for c in (True, False)]
        whole = [h.collected and h.starts <= connection.first for h in hosts_of]
        seen = [h.collected and h.starts <= connection.last for h in hosts_of]
        for sender, receiver in ((0, 1), (1, 0)):
            everything = sum(moved[sender] for moved in connection.traffic)
            by_sender = everything - ends[sender].counters(hosts_of[sender].starts)["bytes_sent"]
            by_receiver = everything - ends[receiver].counters(hosts_of[receiver].starts)["bytes_received"]
            parts = [part for end, part in ((sender, by_sender), (receiver, by_receiver)) if seen[end]]
            key = (addresses[sender]["local_address"], addresses[sender]["remote_address"])
            truth.bytes[key] += everything if any(whole) else max(parts, default=0)
        addresses_of_ends = (addresses[0]["local_address"], addresses[0]["remote_address"])
        totals = ends[0].counters(STEPS * 2)
        told = [
            Counter(totals) - Counter({} if everything else end.counters(host.starts)) if here else Counter()
            for end, host, everything, here in zip(ends, hosts_of, whole, seen, strict=True)
        ]
        requests, errors = (totals[n] if any(whole) else max(t[n] for t in told) for n in ("requests", "errors"))
        good = requests - errors if any(whole) else max(t["requests"] - t["errors"] for t in told)
        truth.requests[addresses_of_ends] += requests
        truth.counts += Counter(_requests_truth(requests, errors, good, *told, udp=connection.udp))
        if not connection.udp:
            truth.opened += any(whole)
            truth.closed += any(seen)
    return truth


def _requests_truth(requests: int, errors: int, good: int, client: Counter, server: Counter, *, udp: bool) -> dict:
    group, names = (
        ("dns", ("queries", "noerror", "servfail")) if udp else ("http", ("requests", "status_2xx", "status_5xx"))
    )
    counts = dict(zip((f"{group}_{name}" for name in names), (requests, good, errors), strict=True))
    for name, told in (("client", client), ("server", server)):
        counts[f"{group}_{name}_count"] = told["requests"]
        counts[f"{group}_{name}_sum_us"] = LATENCY_US * told["requests"]
        counts[f"{group}_{name}".upper(), LATENCY_BIN] = told["requests"]
    if not udp:
        counts |= {("HTTP_STATUS", 200): good, ("HTTP_STATUS", 503): errors}
    return counts
