from __future__ import annotations

import errno

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.tcp import sockets
from kernel_collector.tcp.sockets import SocketTable
from kernel_collector.tcp.states import TcpState
from tests.rows import packed
from tests.socket_rows import (
    CLOSED,
    CONNECT,
    ESTABLISHED,
    LISTENING,
    LIVE,
    RESET_SENT,
    SERVER,
    START,
    as_rows,
    at,
    rows_of,
)
from tests.tcp_records import NAMESPACE


@pytest.fixture
def table():
    return SocketTable(START)


def test_connection_of_a_client(table):
    connect = {"kind": CONNECT, "cookie": 7, "time_ns": at(0), "local_port": 0}
    established = {
        "kind": ESTABLISHED,
        "cookie": 7,
        "time_ns": at(250),
        "segs_out": 1,
        "segs_in": 1,
        "srtt_us": 200,
        "min_rtt_us": 200,
    }
    (row,) = rows_of(table, connect, established, processes=[5, 0])
    assert row == {
        "socket": 7,
        "process": 5,
        "network_namespace": NAMESPACE,
        "local_address": packed("10.0.0.1"),
        "remote_address": packed("10.0.0.2"),
        "local_port": 40_000,
        "remote_port": 80,
        "role": intake_pb2.ROLE_CONNECTOR,
        "segments_sent": 1,
        "segments_received": 1,
        "srtt_sum_us": 200,
        "srtt_count": 1,
        "min_rtt_us": 200,
        "connect_sum_us": 250,
        "connect_count": 1,
        "opened": 1,
    }
    live = {"cookie": 7, "time_ns": at(900), "bytes_sent": 150, "bytes_retrans": 50, "segs_out": 3, "segs_in": 1}
    (row,) = rows_of(table, live | {"total_retrans": 1}, processes=[5])
    assert (row["bytes_sent"], row["segments_sent"], row["retransmits"]) == (100, 2, 1)
    assert "opened" not in row
    assert "segments_received" not in row
    assert rows_of(table, live | {"time_ns": at(950)}, processes=[5]) == []
    close = live | {"kind": CLOSED, "time_ns": at(999), "bytes_received": 11, "fin_received": 1, "segs_in": 4}
    (row,) = rows_of(table, close)
    assert (row["bytes_received"], row["segments_received"], row["closed"], row["process"]) == (10, 3, 1, 5)
    assert "bytes_sent" not in row
    assert len(table) == 0


def test_owners_of_sockets_that_are_open_or_were_of_late(table):
    listening = {"kind": LISTENING, "cookie": 1, "time_ns": at(0), "local_port": 80}
    closed = SERVER | {"kind": CLOSED, "cookie": 2, "time_ns": at(5), "bytes_sent": 9}
    live = {"kind": LIVE, "cookie": 3, "time_ns": at(5), "network_namespace": 9}
    rows_of(table, listening, closed, live, processes=[3, 0, 4])
    rows_of(table)
    wanted = np.array([3, 2, 5, 2], np.uint64)
    assert [column.tolist() for column in table.owners(wanted)] == [[4, 3, 0, 3], [9, NAMESPACE, 0, NAMESPACE]]
    rows_of(table, live | {"kind": CLOSED, "time_ns": at(9)})
    assert table.owners(wanted)[0].tolist() == [4, 3, 0, 3]


def test_owners_of_more_ended_sockets_than_are_known(monkeypatch):
    monkeypatch.setattr(sockets, "MOST_ENDED", 2)
    table = SocketTable(START)
    closed = SERVER | {"kind": CLOSED, "time_ns": at(5), "bytes_sent": 9}
    for cookie in (1, 2, 3):
        live = SERVER | {"kind": LIVE, "cookie": cookie, "time_ns": at(4)}
        rows_of(table, live, closed | {"cookie": cookie}, processes=[cookie + 10, 0])
    assert table.owners(np.array([1, 2, 3], np.uint64))[0].tolist() == [0, 12, 13]


def test_open_before_the_start(table):
    old = {"cookie": 7, "bytes_sent": 1000, "segs_out": 5}
    assert rows_of(table, old | {"time_ns": START - 10}, processes=[5]) == []
    (row,) = rows_of(table, old | {"time_ns": at(1), "bytes_sent": 1007}, processes=[5])
    assert (row["bytes_sent"], row["baseline"], row["process"]) == (7, 1, 5)
    assert not {"segments_sent", "opened", "role"} & row.keys()
    (row,) = rows_of(table, old | {"kind": CLOSED, "time_ns": at(2), "bytes_sent": 1010})
    assert (row["bytes_sent"], row["closed"]) == (3, 1)
    assert "baseline" not in row


def test_open_before_the_start_and_accepted_where_something_listens(table):
    listener = {"state": TcpState.LISTEN, "time_ns": START - 10, "local_port": 80}
    rows_of(table, listener, SERVER | {"cookie": 7, "time_ns": START - 9}, processes=[3, 4])
    (row,) = rows_of(table, SERVER | {"cookie": 7, "time_ns": at(1), "bytes_sent": 7}, processes=[4])
    assert (row["role"], row["process"]) == (intake_pb2.ROLE_ACCEPTOR, 4)


def test_closed_before_the_first_poll_had_ended(table):
    closed = {"kind": CLOSED, "time_ns": START - 1, "bytes_sent": 1000}
    connect = {"kind": CONNECT, "cookie": 8, "time_ns": START - 2}
    unknown, new = rows_of(table, closed | {"cookie": 7}, connect, closed | {"cookie": 8})
    assert (unknown["closed"], unknown["baseline"]) == (1, 1)
    assert not {"bytes_sent", "opened"} & unknown.keys()
    assert (new["closed"], new["opened"], new["bytes_sent"]) == (1, 1, 1000)


def test_several_holders(table):
    def holders(time, *processes):
        live = [{"cookie": 7, "time_ns": at(time) + i, "segs_in": time} for i in range(len(processes))]
        (row,) = rows_of(table, *live, processes=list(processes))
        return row["process"]

    assert holders(1, 4, 5) == 4
    assert holders(2, 3, 4, 5) == 4
    assert holders(3, 3, 5) == 3
    assert holders(4, 5) == 5
    assert holders(5, 0) == 5  # a walk does not know
    assert table.processes().tolist() == [5]


@pytest.mark.parametrize(
    ("error", "port", "failure"),
    [
        (errno.ECONNREFUSED, 1, intake_pb2.CONNECT_FAILURE_REFUSED),
        (errno.ETIMEDOUT, 1, intake_pb2.CONNECT_FAILURE_TIMED_OUT),
        (errno.EHOSTUNREACH, 1, intake_pb2.CONNECT_FAILURE_UNREACHABLE),
        (errno.ENETUNREACH, 1, intake_pb2.CONNECT_FAILURE_UNREACHABLE),
        (errno.ECONNRESET, 1, intake_pb2.CONNECT_FAILURE_RESET),
        (0, 1, intake_pb2.CONNECT_FAILURE_CANCELLED),
        (0, 0, intake_pb2.CONNECT_FAILURE_NO_LOCAL_PORT),
        (errno.EACCES, 1, intake_pb2.CONNECT_FAILURE_UNREACHABLE),
        (errno.EPERM, 1, intake_pb2.CONNECT_FAILURE_OTHER),
    ],
)
def test_connect_that_fails(table, error, port, failure):
    connect = {"kind": CONNECT, "cookie": 7, "time_ns": at(0)}
    failed = {"kind": CLOSED, "old_state": TcpState.SYN_SENT, "cookie": 7, "error": error, "local_port": port}
    (row,) = rows_of(table, connect, failed | {"time_ns": at(9), "total_retrans": 2}, processes=[5, 0])
    assert (row["failed"], row["failure"], row["process"]) == (1, failure, 5)
    assert (row["retransmits"], row["syn_timeouts"]) == (2, 2)
    assert not {"opened", "closed"} & row.keys()


def test_syn_timeouts_over_several_polls(table):
    syn_sent = {"state": TcpState.SYN_SENT, "cookie": 7, "total_retrans": 1, "time_ns": at(2)}
    (row,) = rows_of(table, {"kind": CONNECT, "cookie": 7, "time_ns": at(1)}, syn_sent)
    assert (row["retransmits"], row["syn_timeouts"]) == (1, 1)
    established = {"kind": ESTABLISHED, "cookie": 7, "time_ns": at(3), "total_retrans": 3}
    (row,) = rows_of(table, established, {"cookie": 7, "time_ns": at(4), "total_retrans": 7})
    assert (row["retransmits"], row["syn_timeouts"], row["opened"], row["connect_sum_us"]) == (6, 2, 1, 2)


def test_child_that_was_never_established_gives_no_row(table):
    assert rows_of(table, {"kind": CLOSED, "cookie": 7, "time_ns": at(0), "old_state": TcpState.SYN_RECV}) == []


def test_one_socket_connects_again_and_again(table):
    def connection(start, sent):
        connect = {"kind": CONNECT, "cookie": 7, "time_ns": at(start)}
        return connect, {"kind": CLOSED, "cookie": 7, "time_ns": at(start + 5), "bytes_sent": sent}

    records = [record for i in range(50) for record in connection(10 * i, i + 1)]
    rows = rows_of(table, *records)
    assert [row["bytes_sent"] for row in rows] == list(range(1, 51))
    assert sum(row["opened"] for row in rows) == sum(row["closed"] for row in rows) == 50


def test_descriptor_of_a_closed_socket_is_no_new_connection(table):
    closed = {"kind": CLOSED, "cookie": 7, "time_ns": at(0), "bytes_sent": 9}
    still_held = {"state": TcpState.CLOSE, "cookie": 7, "time_ns": at(1), "bytes_sent": 9}
    assert len(rows_of(table, closed, still_held)) == 1
    assert rows_of(table, still_held | {"time_ns": at(2)}) == []
    assert len(table) == 0


def test_descriptor_of_a_closed_socket_that_connects_again_ends_no_other_socket(table):
    other = {"cookie": 6, "bytes_sent": 5}
    rows_of(table, other | {"time_ns": at(0)})
    closed = {"cookie": 7, "state": TcpState.CLOSE, "time_ns": at(1)}
    connect = {"kind": CONNECT, "cookie": 7, "time_ns": at(3)}
    assert rows_of(table, other | {"time_ns": at(2)}, closed, connect) == []
    (row,) = rows_of(table, {"kind": CLOSED, "cookie": 6, "bytes_sent": 8, "time_ns": at(4)})
    assert (row["closed"], row["bytes_sent"]) == (1, 3)


def test_lost_close_event(table):
    rows_of(table, {"cookie": 7, "time_ns": at(0), "bytes_sent": 5}, {"cookie": 8, "time_ns": at(0)})
    (row,) = rows_of(
        table,
        {"state": TcpState.CLOSE, "cookie": 7, "time_ns": at(9), "bytes_sent": 8},
        {"cookie": 8, "time_ns": at(9)},
    )
    assert row["bytes_sent"] == 3
    assert "closed" not in row
    assert table.missing(at(0)).tolist() == []
    assert table.missing(at(1)).tolist() == [NAMESPACE]
    assert as_rows(table.retire(np.array([NAMESPACE + 1], np.uint32), at(1), at(0))) == []
    (row,) = as_rows(table.retire(table.missing(at(1)), at(1), 0))
    assert (row["socket"], row["closed"], row["local_port"]) == (7, 1, 40_000)
    assert len(table) == 1


def test_lost_close_event_of_a_connect_that_failed(table):
    accepting = {"state": TcpState.SYN_RECV, "cookie": 8, "time_ns": at(0), **SERVER}
    rows_of(table, {"kind": CONNECT, "cookie": 7, "time_ns": at(0)}, accepting)
    (row,) = as_rows(table.retire(table.missing(at(1)), at(1), 0))
    assert (row["socket"], row["failed"], row["failure"]) == (7, 1, intake_pb2.CONNECT_FAILURE_OTHER)
    assert "closed" not in row
    assert len(table) == 0


def test_socket_that_connects_again_after_a_lost_close_event(table):
    rows_of(table, {"cookie": 7, "time_ns": at(0), "bytes_sent": 500})
    old, new = rows_of(
        table,
        {"kind": CONNECT, "cookie": 7, "time_ns": at(5), "remote_port": 81},
        {"kind": ESTABLISHED, "cookie": 7, "time_ns": at(6), "remote_port": 81},
        {"cookie": 7, "time_ns": at(7), "bytes_sent": 3, "remote_port": 81},
    )
    assert (old["closed"], old["remote_port"]) == (1, 80)
    assert (new["opened"], new["remote_port"], new["bytes_sent"]) == (1, 81, 3)


def test_role_is_unknown_while_connect_events_may_be_missing(table):
    table.roles_uncertain_until_ns = at(5)
    (row,) = rows_of(table, {"cookie": 7, "time_ns": at(4)})
    assert "role" not in row
    (row,) = rows_of(table, {"cookie": 8, "time_ns": at(6)})
    assert row["role"] == intake_pb2.ROLE_ACCEPTOR


def test_established_event_alone_tells_the_connector(table):
    (row,) = rows_of(table, {"kind": ESTABLISHED, "cookie": 7, "time_ns": at(0)})
    assert (row["role"], row["opened"]) == (intake_pb2.ROLE_CONNECTOR, 1)
    assert "connect_count" not in row


def test_counters_that_wrap_and_counters_read_while_they_changed(table):
    rows_of(table, {"cookie": 7, "time_ns": START, "segs_in": 0xFFFFFFFE, "bytes_sent": 100})
    (row,) = rows_of(table, {"cookie": 7, "time_ns": at(1), "segs_in": 3, "bytes_sent": 100, "bytes_retrans": 20})
    assert row["segments_received"] == 5
    assert "bytes_sent" not in row
    (row,) = rows_of(table, {"cookie": 7, "time_ns": at(2), "segs_in": 3, "bytes_sent": 121, "bytes_retrans": 20})
    assert row["bytes_sent"] == 1


def test_more_sockets_than_the_table_holds():
    table = SocketTable(START, most_sockets=2)
    live = [{"cookie": cookie, "time_ns": at(cookie), "bytes_sent": 10} for cookie in (1, 2, 3)]
    assert [row["socket"] for row in rows_of(table, *live)] == [1, 2]
    assert (len(table), table.untracked) == (2, 1)
    (row,) = rows_of(table, {"kind": CLOSED, "cookie": 3, "time_ns": at(9), "bytes_sent": 12})
    assert (row["bytes_sent"], row["opened"], row["closed"]) == (12, 1, 1)
    rows_of(table, {"kind": CLOSED, "cookie": 1, "time_ns": at(10), "bytes_sent": 10})
    (row,) = rows_of(table, {"cookie": 4, "time_ns": at(11), "bytes_sent": 1})
    assert (row["socket"], len(table)) == (4, 2)


def test_rows_tell_how_long_ago_connections_opened_or_failed(table):
    now = at(5_000_000)
    opens = [
        {"kind": CONNECT, "cookie": 1, "time_ns": at(1_000_000)},
        {"kind": ESTABLISHED, "cookie": 1, "time_ns": at(1_500_000)},
        {"cookie": 1, "time_ns": at(4_900_000)},
        {"cookie": 2, "time_ns": at(3_000_000), **SERVER},
        {"kind": CLOSED, "cookie": 2, "time_ns": at(4_000_000), **SERVER},
        {"kind": CONNECT, "cookie": 3, "time_ns": at(2_000_000)},
        {
            "kind": CLOSED,
            "cookie": 3,
            "time_ns": at(2_900_000),
            "old_state": TcpState.SYN_SENT,
            "error": errno.ECONNREFUSED,
        },
        {"cookie": 4, "time_ns": START - 1},
        {"cookie": 4, "time_ns": at(4_900_000), "bytes_sent": 1},
    ]
    rows = {row["socket"]: row.get("age_ms") for row in rows_of(table, *opens, now=now)}
    assert rows == {1: 3500, 2: 2000, 3: 2100, 4: None}
    (row,) = rows_of(table, {"cookie": 1, "time_ns": at(6_000_000), "bytes_sent": 1}, now=at(6_000_000))
    assert "age_ms" not in row


def test_nothing_gives_nothing(table):
    assert rows_of(table) == []
    assert as_rows(table.retire(table.missing(at(9)), at(9), 0)) == []


def test_the_cgroup_of_a_socket_is_in_each_row_also_where_a_later_record_lacks_it(table):
    rows_of(table, {"kind": CONNECT, "cookie": 7, "time_ns": at(0), "cgroup": 99})
    rows = rows_of(table, {"kind": ESTABLISHED, "cookie": 7, "time_ns": at(250), "cgroup": 0, "segs_out": 1})
    assert [row["cgroup"] for row in rows] == [99]
    assert table.cgroups().tolist() == [99]


def test_many_sockets_in_portions_have_the_rows_that_they_have_together(monkeypatch):
    def life(cookie):
        accepted = {**SERVER, "cookie": cookie, "remote_port": 1000 + cookie}
        yield accepted | {"kind": LIVE, "time_ns": at(20), "bytes_sent": 10 * cookie, "segs_out": 1}
        if cookie % 2:
            yield accepted | {"kind": CLOSED, "time_ns": at(30), "bytes_sent": 11 * cookie, "segs_out": 2}
        if cookie % 3 == 0:
            yield {"kind": RESET_SENT, "cookie": cookie, "time_ns": at(31)}

    listener = {"kind": LISTENING, "cookie": 99, "local_port": 80, "remote_port": 0, "time_ns": at(10)}
    records = [*(record for cookie in range(1, 40) for record in life(cookie)), listener]
    processes = [0] * (len(records) - 1) + [5]
    later = [record for cookie in range(2, 40, 2) for record in life(cookie)]
    told = []
    for portion in (len(records), 3):
        monkeypatch.setattr(sockets, "PORTION", portion)
        table = SocketTable(START)
        rows = rows_of(table, *records, processes=processes)
        rows += rows_of(table, *[record | {"bytes_sent": 1000, "time_ns": at(50)} for record in later])
        told.append(sorted(rows, key=lambda row: (row["socket"], row.get("bytes_sent", 0))))
        assert len(table) == 19
        assert table.owners(np.arange(1, 40, dtype=np.uint64))[0].tolist() == [5] * 39
    assert told[0] == told[1]
    assert len(told[0]) == 39 + 19
