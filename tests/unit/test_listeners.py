from __future__ import annotations

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.tcp import sockets
from kernel_collector.tcp.sockets import SocketTable
from kernel_collector.tcp.states import TcpState
from tests.rows import packed
from tests.socket_rows import CLOSED, LISTENING, SERVER, START, at, rows_of


@pytest.fixture
def table():
    return SocketTable(START)


def test_accepted_between_two_polls_belongs_to_its_listener(table):
    listening = {"kind": LISTENING, "cookie": 1, "time_ns": at(0), "local_port": 80}
    closed = SERVER | {"kind": CLOSED, "cookie": 2, "time_ns": at(5), "bytes_sent": 9}
    (row,) = rows_of(table, listening, closed, processes=[3, 0])
    assert (row["role"], row["process"]) == (intake_pb2.ROLE_ACCEPTOR, 3)
    assert (row["opened"], row["closed"], row["bytes_sent"]) == (1, 1, 9)


@pytest.mark.parametrize(
    ("listens", "local", "found"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("0.0.0.0", "10.0.0.1", True),
        ("::", "10.0.0.1", True),
        ("::", "fd00::1", True),
        ("10.0.0.9", "10.0.0.1", False),
        ("0.0.0.0", "fd00::1", False),
    ],
)
def test_listeners_on_any_address(table, listens, local, found):
    rows_of(
        table,
        {"state": TcpState.LISTEN, "time_ns": at(0), "local_port": 80, "local_address": packed(listens)},
        processes=[3],
    )
    accepted = SERVER | {"kind": CLOSED, "cookie": 2, "time_ns": at(5), "local_address": packed(local)}
    (row,) = rows_of(table, accepted)
    assert ("process" in row) == found
    (row,) = rows_of(table, accepted | {"cookie": 3, "network_namespace": 9})
    assert "process" not in row


def test_the_more_special_listener_is_asked_first(table):
    listener = {"state": TcpState.LISTEN, "time_ns": at(0), "local_port": 80}
    rows_of(table, listener | {"local_address": packed("::")}, listener | {"cookie": 2}, processes=[3, 4])
    (row,) = rows_of(table, SERVER | {"kind": CLOSED, "cookie": 5, "time_ns": at(5)})
    assert row["process"] == 4


def test_listeners_not_seen_any_more_are_forgotten(table):
    rows_of(table, {"state": TcpState.LISTEN, "time_ns": at(0), "local_port": 80}, processes=[3])
    assert table.processes().tolist() == [3]
    table.retire(np.empty(0, np.uint32), at(0), 0)
    assert table.processes().tolist() == [3]
    table.retire(np.empty(0, np.uint32), at(1), 0)
    assert table.processes().tolist() == []


def test_more_listeners_than_the_table_holds(monkeypatch):
    monkeypatch.setattr(sockets, "MOST_LISTENERS", 1)
    table = SocketTable(START)
    listener = {"state": TcpState.LISTEN, "time_ns": at(0)}
    rows_of(table, listener | {"local_port": 80}, listener | {"local_port": 81})
    assert table.untracked == 1
