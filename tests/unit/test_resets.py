from __future__ import annotations

import errno

import pytest

from kernel_collector.tcp.sockets import SocketTable
from kernel_collector.tcp.states import TcpState
from tests.socket_rows import CLOSED, CONNECT, ESTABLISHED, RESET_SENT, START, at, rows_of


@pytest.fixture
def table():
    return SocketTable(START)


@pytest.mark.parametrize(
    ("old_state", "error", "received"),
    [
        (TcpState.LAST_ACK, 0, 0),
        (TcpState.FIN_WAIT2, 0, 0),
        (TcpState.CLOSING, 0, 0),
        (TcpState.ESTABLISHED, errno.ETIMEDOUT, 0),
        (TcpState.ESTABLISHED, errno.ECONNRESET, 1),
        (TcpState.CLOSE_WAIT, errno.EPIPE, 1),
        (TcpState.ESTABLISHED, 0, 0),
        (TcpState.FIN_WAIT2, errno.ECONNABORTED, 0),
    ],
)
@pytest.mark.parametrize("sent_at", [None, 5, 15])
def test_resets(table, old_state, error, received, sent_at):
    """The event of a reset comes a moment before or after that of the end, and is the only sign of one sent."""
    closed = {"kind": CLOSED, "cookie": 7, "time_ns": at(10), "old_state": old_state, "error": error}
    sent = [{"kind": RESET_SENT, "cookie": 7, "time_ns": at(sent_at)}] if sent_at else []
    (row,) = rows_of(table, closed, {"cookie": 8, "time_ns": at(11)}, *sent)[:1]
    assert (row["opened"], row["closed"]) == (1, 1)
    expected = {"resets_sent"} if sent else {"resets_received"} if received else set()
    assert {name for name in row if name.startswith("resets")} == expected


def test_a_reset_is_of_the_life_that_it_ends(table):
    """A socket that connects three times, and resets the first and the last connection."""
    ends = [
        record
        for start in (0, 100, 200)
        for record in (
            {"kind": CONNECT, "cookie": 7, "time_ns": at(start)},
            {"kind": ESTABLISHED, "cookie": 7, "time_ns": at(start + 1)},
            {"kind": CLOSED, "cookie": 7, "time_ns": at(start + 10), "bytes_sent": 1},
        )
    ]
    resets = [{"kind": RESET_SENT, "cookie": 7, "time_ns": at(time)} for time in (11, 12, 209)]
    rows = rows_of(table, *ends, *resets)
    assert [row.get("resets_sent", 0) for row in rows] == [1, 0, 1]


def test_a_reset_that_comes_an_update_before_the_end(table):
    rows_of(table, {"cookie": 7, "time_ns": at(0)}, {"cookie": 8, "time_ns": at(0)})
    assert rows_of(table, {"kind": RESET_SENT, "cookie": 7, "time_ns": at(1)}) == []
    closed = [{"kind": CLOSED, "cookie": cookie, "time_ns": at(2)} for cookie in (7, 8)]
    rows = rows_of(table, *closed)
    assert [row.get("resets_sent", 0) for row in rows] == [1, 0]


def test_resets_of_unknown_sockets_mean_nothing(table):
    assert rows_of(table, {"kind": RESET_SENT, "cookie": 7, "time_ns": at(1)}) == []
    assert len(table) == 0
