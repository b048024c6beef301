"""What the core says of itself, with everything outside it made up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from ebpf_net.v1 import intake_pb2

from kernel_collector import core
from kernel_collector.core import CollectorCore
from kernel_collector.tcp.sockets import SocketTable
from kernel_collector.tcp.states import TcpState
from kernel_collector.workloads.processes import Origin, ProcessTable
from tests.tcp_records import exec_dtype, tcp_records


class Outside:
    """Parts that answer nothing, but for the sockets that a test gives."""

    def __init__(self, *live: dict) -> None:
        self.submitted: list[intake_pb2.CollectorStatistics | None] = []
        records = tcp_records(*live)
        nothing = SimpleNamespace(fill=lambda _: None, count=lambda _: None, take=lambda: None)
        self.tcp = SimpleNamespace(poll=lambda: records, drain=lambda: records[:0], settle=lambda: None, events_lost=0)
        self.execs = SimpleNamespace(drain=lambda: np.empty(0, exec_dtype()), events_lost=0)
        self.cgroup_events = SimpleNamespace(drain=lambda: np.empty(0, [("id", "u8"), ("path", "S512")]), events_lost=0)
        self.hidden = SimpleNamespace(walk=lambda *_: SimpleNamespace(records=[], namespaces=np.empty(0, np.uint32)))
        self.files = SimpleNamespace(
            origin=lambda *_: Origin(), service=lambda _: "", cgroup_paths=lambda _: [], cgroups=dict
        )
        self.docker = None
        self.cloud = self.load = self.agreement = nothing
        clocks = ("boot_ns", "unix_ns", "monotonic_ns", "thread_ns", "process_ns", "resident_bytes")
        self.clock = SimpleNamespace(**{name: lambda: 10 for name in clocks})
        self.client = SimpleNamespace(submit=self._submit, poll_interval_ns=1, acknowledged=0)
        concerns = {"read": dict, "rewrite": lambda tables: tables, "fill": lambda _: None, "announce": lambda _: None}
        self.concerns = SimpleNamespace(**concerns, more=False)
        self.open_concerns = lambda *_: self.concerns

    def _submit(
        self, _time: int, _entities: object, _tables: object, statistics: intake_pb2.CollectorStatistics | None
    ) -> int:
        self.submitted.append(statistics)
        return len(self.submitted)


def test_many_rows_of_concerns_go_out_in_several_batches_of_which_the_last_has_statistics():
    outside = Outside()
    parts = iter((True, True, False))

    def read():
        outside.concerns.more = next(parts)
        return {}

    outside.concerns.read = read
    CollectorCore(outside, intake_pb2.Host(), longest_command_line=0, every_container=False).begin()
    assert [statistics is not None for statistics in outside.submitted] == [False, False, False, True]
    assert next(parts, None) is None


def test_it_tells_what_found_no_room_in_its_tables(monkeypatch):
    monkeypatch.setattr(core, "ProcessTable", lambda *args, **options: ProcessTable(*args, **options, most=2))
    monkeypatch.setattr(core, "SocketTable", lambda **options: SocketTable(**options, most_sockets=3))
    monkeypatch.setattr("kernel_collector.tcp.sockets.MOST_LISTENERS", 1)
    sockets = [{"cookie": number, "time_ns": 5, "pid": number} for number in range(1, 6)]
    listeners = [{"cookie": port, "time_ns": 5, "state": TcpState.LISTEN, "local_port": port} for port in (80, 81, 82)]
    outside = Outside(*sockets, *listeners)
    CollectorCore(outside, intake_pb2.Host(), longest_command_line=0, every_container=False).begin()
    of_tcp, statistics = outside.submitted
    assert of_tcp is None
    assert statistics
    assert (statistics.sockets_tracked, statistics.sockets_untracked) == (3, 2 + 2)
    assert (statistics.processes_tracked, statistics.processes_untracked) == (2, 3)
