"""Whatever lives sockets lead, and however reading them falls between: their rows add up to what they did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kernel_collector.bpf.records import TcpRecordKind
from kernel_collector.tcp.sockets import SocketTable
from kernel_collector.tcp.states import TcpState
from tests.tcp_records import NAMESPACE, tcp_records

COUNTED = ("bytes_sent", "bytes_received", "segments_sent", "retransmits")
TOLD = ("opened", "closed", "failed", "connect_count", "syn_timeouts")
ENDS = [
    TcpState.ESTABLISHED,
    TcpState.FIN_WAIT1,
    TcpState.FIN_WAIT2,
    TcpState.CLOSE_WAIT,
    TcpState.LAST_ACK,
    TcpState.CLOSING,
]


@dataclass
class Socket:
    """A socket of the kernel, and what the collector has to say of it in the end."""

    cookie: int
    before: bool = (
        False  # this life of it may be older than the collector: what it did until it was first seen does not count
    )
    untold: bool = False  # it was open before, and found no room
    state: TcpState = TcpState.CLOSE
    connects: bool = False
    seen: bool = False
    lossy: bool = False
    counters: dict = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    retransmitted: int = 0
    fin_received: int = 0
    truth: dict = field(default_factory=lambda: dict.fromkeys((*COUNTED, *TOLD), 0))

    def moves(self, name, amount):
        self.counters[name] += amount
        if self.seen or not self.before:
            self.truth[name] += amount

    def record(self, **values):
        return values | {
            "cookie": self.cookie,
            "bytes_sent": self.counters["bytes_sent"] + self.retransmitted,
            "bytes_retrans": self.retransmitted,
            "bytes_received": self.counters["bytes_received"] + self.fin_received,
            "fin_received": self.fin_received,
            "segs_out": self.counters["segments_sent"],
            "total_retrans": self.counters["retransmits"],
        }


class Sockets(RuleBasedStateMachine):
    """The collector is attached from the beginning; `start` is the end of its first poll."""

    @initialize(
        most=st.sampled_from([2, 1000]),
        old=st.lists(st.tuples(st.sampled_from(ENDS), st.integers(0, 1 << 40)), max_size=3),
    )
    def attach(self, most, old):
        self.most = most
        self.now = 1000
        self.table = None
        self.sockets = {}
        self.ring = []
        self.live = []
        self.reported = {}
        self.roles = {}
        self.baselines = {}
        for state, moved in old:
            socket = self.new_socket(before=True)
            socket.state = state
            socket.moves("bytes_sent", moved)
            socket.moves("retransmits", 3)

    def new_socket(self, **values):
        socket = Socket(len(self.sockets) + 1, **values)
        self.sockets[socket.cookie] = socket
        return socket

    def tick(self):
        self.now += 1
        return self.now

    def event(self, socket, kind, old_state, lost, **values):
        record = socket.record(kind=kind, state=socket.state, old_state=old_state, time_ns=self.tick(), **values)
        if lost:
            socket.lossy = True
        else:
            self.ring.append(record)
            socket.seen = True

    def pick(self, data, states):
        candidates = [socket for socket in self.sockets.values() if socket.state in states]
        return data.draw(st.sampled_from(candidates)) if candidates else None

    # A lost event is rare, so that most sockets are held to the whole truth.
    losing = st.integers(0, 9).map(lambda number: number == 0)

    @rule(data=st.data(), again=st.booleans(), lost=losing)
    def connect(self, data, again, lost):
        closed = [
            s for s in self.sockets.values() if s.state == TcpState.CLOSE and s.seen and s.cookie in self.reported
        ]
        socket = data.draw(st.sampled_from(closed)) if again and closed else self.new_socket()
        socket.untold |= socket.before and self.most <= len(self.sockets)
        socket.state, socket.connects, socket.before = TcpState.SYN_SENT, True, False
        self.roles.pop(socket.cookie, None)
        socket.counters = dict.fromkeys(COUNTED, 0)
        socket.retransmitted = socket.fin_received = 0
        self.event(socket, TcpRecordKind.CONNECT, TcpState.CLOSE, lost)

    @rule(data=st.data())
    def syn_sent_again(self, data):
        if socket := self.pick(data, [TcpState.SYN_SENT]):
            socket.moves("retransmits", 1)
            socket.moves("segments_sent", 1)
            socket.truth["syn_timeouts"] += 1

    @rule(data=st.data(), lost=losing)
    def establish(self, data, lost):
        if socket := self.pick(data, [TcpState.SYN_SENT]):
            socket.state = TcpState.ESTABLISHED
            socket.truth["opened"] += 1
            socket.truth["connect_count"] += 1
            self.event(socket, TcpRecordKind.ESTABLISHED, TcpState.SYN_SENT, lost)

    @rule(data=st.data(), lost=losing)
    def fail(self, data, lost):
        if socket := self.pick(data, [TcpState.SYN_SENT]):
            socket.state = TcpState.CLOSE
            socket.truth["failed"] += 1
            self.event(socket, TcpRecordKind.CLOSED, TcpState.SYN_SENT, lost, error=111)

    @rule()
    def accept(self):
        socket = self.new_socket(before=self.table is None)
        socket.state = TcpState.ESTABLISHED
        if not socket.before:
            socket.truth["opened"] += 1

    @rule(
        data=st.data(),
        moved=st.lists(st.tuples(st.sampled_from(COUNTED), st.integers(1, 1 << 33)), min_size=1, max_size=3),
        again=st.integers(0, 1000),
    )
    def transfer(self, data, moved, again):
        if socket := self.pick(data, ENDS):
            for name, amount in moved:
                socket.moves(name, amount if name.startswith("bytes") else amount % 1000)
            socket.retransmitted += again

    @rule(data=st.data())
    def receive_fin(self, data):
        if socket := self.pick(data, [TcpState.ESTABLISHED]):
            socket.state, socket.fin_received = TcpState.CLOSE_WAIT, 1

    @rule(data=st.data(), old_state=st.sampled_from(ENDS), lost=losing)
    def close(self, data, old_state, lost):
        if socket := self.pick(data, ENDS):
            socket.state = TcpState.CLOSE
            socket.truth["closed"] += 1
            self.event(socket, TcpRecordKind.CLOSED, old_state, lost)

    @rule(data=st.data(), holders=st.integers(1, 3))
    def read(self, data, holders):
        """The iterator comes by one socket, open or closed, while the others go on."""
        if socket := self.pick(data, list(TcpState)):
            self.read_live(socket, holders)

    def read_live(self, socket, holders=1):
        for _ in range(holders):
            self.live.append(socket.record(state=socket.state, time_ns=self.tick()))
        if socket.state != TcpState.CLOSE:
            socket.seen = True

    @rule(data=st.data())
    def update(self, data):
        if self.table is None:  # the collector has waited until nothing is being written
            for socket in self.sockets.values():
                if not socket.seen and socket.state != TcpState.CLOSE:
                    self.read_live(socket)
            self.table, held_back = SocketTable(self.tick(), self.most), 0
        else:
            held_back = self.records_being_written(data)
        records = self.ring[: len(self.ring) - held_back] + self.live
        self.ring = self.ring[len(self.ring) - held_back :]
        self.live = []
        self.take(self.table.update(tcp_records(*records), np.zeros(len(records), np.uint32), 0))

    def records_being_written(self, data):
        """How many events the ring's reader leaves for the next time; not those of whom a later life was read."""
        count = data.draw(st.integers(0, min(2, len(self.ring))))
        ending = {
            record["cookie"] for record in self.ring[len(self.ring) - count :] if record["kind"] == TcpRecordKind.CLOSED
        }
        return (
            0
            if any(record["cookie"] in ending and record["state"] != TcpState.CLOSE for record in self.live)
            else count
        )

    def take(self, rows):
        for i, cookie in enumerate(rows["socket"].tolist()):
            told = self.reported.setdefault(cookie, dict.fromkeys((*COUNTED, *TOLD), 0))
            for name in told:
                told[name] += rows[name][i].item()
            over_and_used_again = rows["closed"][i] and self.sockets[cookie].state != TcpState.CLOSE
            if not over_and_used_again:
                self.roles[cookie] = rows["role"][i]
            self.baselines[cookie] = self.baselines.get(cookie, 0) + rows["baseline"][i]

    @precondition(lambda self: self.table is not None)
    @rule()
    def retire(self):
        """Two polls of all that lives, a walk, and the end of what none of them shows."""
        before = self.tick()
        for socket in self.sockets.values():
            if socket.state != TcpState.CLOSE:
                self.read_live(socket)
        records, self.ring, self.live = self.ring + self.live, [], []
        self.take(self.table.update(tcp_records(*records), np.zeros(len(records), np.uint32), 0))
        self.take(self.table.retire(np.array([NAMESPACE], np.uint32), before, 0))
        self.check(open_sockets_known=self.most > len(self.sockets))

    def check(self, *, open_sockets_known):
        for socket in self.sockets.values():
            told = self.reported.get(socket.cookie, dict.fromkeys((*COUNTED, *TOLD), 0))
            socket.untold |= socket.before and not open_sockets_known
            if socket.untold or (socket.state != TcpState.CLOSE and not open_sockets_known):
                continue  # its close event tells all, and does not know that it was open before
            if not socket.lossy:
                expected = (
                    socket.truth
                    if open_sockets_known
                    else {n: socket.truth[n] for n in told if n in (*COUNTED, "closed")}
                )
                assert {name: told[name] for name in expected} == expected, socket
                if socket.connects and socket.cookie in self.roles:
                    assert open_sockets_known <= (self.roles[socket.cookie] == intake_pb2.ROLE_CONNECTOR)
            for name in (*COUNTED, *TOLD):
                assert told[name] <= socket.truth[name] + (name == "failed" and socket.lossy), (name, socket)
            assert self.baselines.get(socket.cookie, 0) <= 1


Sockets.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_rows_add_up = pytest.mark.timeout(120)(Sockets.TestCase)
