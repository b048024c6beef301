import numpy as np
import pytest

from reducer.columns.row_store import MOST_SUM
from reducer.windows import window as module
from reducer.windows.rows import uniform_rows
from reducer.windows.window import MOST_OPEN_WINDOWS, MOST_SUM_OF_SESSION, Windows, joined
from tests.rows import tcp_rows

A, B = b"a" * 16, b"b" * 16
WINDOW, DELAY = 30, 7


@pytest.fixture
def windows():
    opened = Windows(WINDOW, DELAY)
    opened.due_ns(0)
    return opened


def rows(count=1, first_socket=1, **values):
    return uniform_rows("tcp", tcp_rows(*({"socket": first_socket + index, **values} for index in range(count))))


def test_windows_are_aligned_and_close_after_the_delay(windows):
    windows.take(A, 1, 29, rows())
    windows.take(A, 2, 30, rows())
    assert windows.due_ns(0) == WINDOW + DELAY
    assert windows.close(WINDOW + DELAY - 1, idle=True) is None
    closed = windows.close(WINDOW + DELAY, idle=True)
    assert (closed.start_ns, closed.end_ns, closed.rows) == (0, 30, 1)
    assert windows.close(WINDOW + DELAY, idle=True) is None
    assert windows.due_ns(0) == 2 * WINDOW + DELAY


def test_windows_begin_with_the_first_time_that_is_told():
    windows = Windows(WINDOW, DELAY)
    assert windows.due_ns(1000) == 990 + WINDOW + DELAY
    windows.take(A, 1, 5, rows())
    assert windows.late_rows == 1


def test_late_rows_go_to_the_oldest_open_window(windows):
    windows.take(A, 1, 10, rows())
    windows.close(37, idle=True)
    windows.take(A, 2, 29, rows(3))
    windows.take(A, 3, 29, None)
    assert windows.late_rows == 3
    closed = windows.close(67, idle=True)
    assert (closed.start_ns, closed.rows, closed.lowest) == (30, 3, {A: 2})


def test_rows_of_the_future_are_held_within_bounds(windows):
    windows.take(A, 1, 10**18, rows())
    windows.take(A, 2, 10, rows())
    assert windows.close(37, idle=True).rows == 1
    assert windows.close(MOST_OPEN_WINDOWS * WINDOW + DELAY - 1, idle=True) is None
    assert windows.close(MOST_OPEN_WINDOWS * WINDOW + DELAY, idle=True).rows == 1


def test_more_windows_are_open_where_collectors_tell_of_them_late():
    windows = Windows(WINDOW, 200 * WINDOW)
    windows.take(A, 1, 0, rows())
    windows.take(A, 2, 199 * WINDOW, rows(2))
    assert windows.close(201 * WINDOW, idle=True).rows == 1
    assert windows.close(400 * WINDOW - 1, idle=True) is None
    closed = windows.close(400 * WINDOW, idle=True)
    assert (closed.start_ns, closed.rows) == (199 * WINDOW, 2)


def test_windows_without_batches_are_skipped_at_once(windows):
    day = 86_400_000_000
    assert windows.close(day, idle=True) is None
    assert windows.due_ns(day) > day
    windows.take(A, 1, day, rows())
    assert windows.late_rows == 0


def test_windows_without_batches_are_closed_one_by_one_when_not_idle(windows):
    assert windows.close(100, idle=False).end_ns == 30
    assert windows.close(100, idle=False).end_ns == 60


def test_acknowledges_what_no_open_window_holds(windows):
    windows.take(A, 1, 10, rows())
    windows.take(A, 2, 40, rows())
    windows.take(A, 3, 11, None)
    windows.take(B, 9, 12, None)
    first = windows.close(37, idle=True)
    assert windows.acknowledge(first) == {A: 1, B: 9}
    assert windows.acknowledge(windows.close(67, idle=True)) == {A: 3}


def test_nothing_is_acknowledged_before_what_came_earlier_in_the_session(windows):
    windows.take(A, 1, 40, rows())
    windows.take(A, 2, 10, rows())
    assert windows.acknowledge(windows.close(37, idle=True)) == {}
    assert windows.acknowledge(windows.close(67, idle=True)) == {A: 2}


def test_the_end_closes_everything_with_the_last_window_cut_short(windows):
    windows.take(A, 1, 10, rows())
    windows.take(A, 2, 40, rows())
    windows.take(A, 3, 200, rows(5))
    windows.end(45)
    first, second = windows.close_next(), windows.close_next()
    assert (first.start_ns, first.end_ns, first.rows) == (0, 30, 1)
    assert (second.start_ns, second.end_ns, second.rows) == (30, 45, 6)
    assert windows.close_next() is None
    assert windows.sealed_until_ns == 45


def test_goes_on_after_a_window_that_was_cut_short():
    windows = Windows(WINDOW, DELAY)
    windows.sealed_until_ns = 45
    windows.take(A, 1, 40, rows())
    closed = windows.close(67, idle=True)
    assert (closed.start_ns, closed.end_ns) == (45, 60)


def test_many_rows_are_added_up_by_socket_and_owner(windows, monkeypatch):
    monkeypatch.setattr(module, "MOST_UNFOLDED_ROWS", 100)
    for number in range(1, 51):
        windows.take(A, number, 1, rows(10, bytes_sent=number, process=1 + number // 50))
    windows.take(B, 1, 1, rows(10, bytes_sent=7, process=3))
    assert windows.rows <= 100 + 3 * 10
    closed = windows.close(37, idle=True)
    table = joined(closed.tables()["sockets"], ("socket", "bytes_sent", "process"))
    assert len(table["socket"]) == closed.rows
    sums = np.bincount(table["process"], table["bytes_sent"])
    assert sums.tolist() == [0, 10 * 49 * 50 // 2, 10 * 50, 10 * 7]


def test_rows_of_open_windows_stay_as_they_were_told(windows, monkeypatch):
    monkeypatch.setattr(module, "MOST_UNFOLDED_ROWS", 10)
    windows.take(A, 1, 1, rows(10, bytes_sent=1))
    [told] = windows.later()["sockets"]
    windows.take(A, 2, 1, rows(10, bytes_sent=2))
    [now] = windows.later()["sockets"]
    assert told["bytes_sent"].tolist() == [1] * 10
    assert now["bytes_sent"].tolist() == [3] * 10


def test_joined_gives_addresses_as_two_words():
    table = rows(2, local_address="10.0.0.1")
    words = joined([table, table], ("local_address",))["local_address"]
    assert words.dtype == np.uint64
    assert words.tobytes() == table["local_address"].tobytes() * 2


def test_one_session_cannot_take_the_room_of_the_others(windows):
    """Over all its tables and batches; as long as there is room it may have more than its share."""
    windows.take(A, 1, 3, rows(1, bytes_sent=MOST_SUM // 2))
    windows.take(A, 2, 3, rows(1, bytes_sent=1))
    windows.take(B, 1, 3, rows(2, bytes_sent=MOST_SUM_OF_SESSION // 2))
    windows.take(B, 2, 3, rows(3, bytes_sent=1))
    assert windows.refused_rows == 1 + 3
    closed = windows.close(37, idle=True)
    assert closed.rows == 3
    assert closed.tables()["sockets"][0]["bytes_sent"].sum() == MOST_SUM // 2 + MOST_SUM_OF_SESSION


def test_rows_beyond_the_greatest_sum_are_refused_and_the_next_ones_taken(windows, monkeypatch):
    monkeypatch.setattr(module, "MOST_SUM_OF_SESSION", 2 * MOST_SUM)
    most = MOST_SUM // 2
    windows.take(A, 1, 3, rows(2, bytes_sent=most))
    windows.take(A, 2, 3, rows(4, bytes_sent=1))
    windows.take(A, 3, 33, rows(4, bytes_sent=1))
    windows.take(A, 4, 3, rows(1, bytes_received=most))
    assert windows.refused_rows == 4
    closed = windows.close(37, idle=True)
    assert (closed.rows, closed.lowest, windows.acknowledge(closed)) == (3, {A: 1}, {A: 2})
    assert closed.tables()["sockets"][0]["bytes_sent"].sum() == MOST_SUM
