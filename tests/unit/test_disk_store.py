from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.errors import StartupError
from reducer.outputs.disk_store import SESSION_LIFETIME_NS, DiskStore
from reducer.outputs.request import Request
from reducer.outputs.store import WindowExport

A, B = b"a" * 16, b"b" * 16


def window(end_ns: int, *bodies: bytes, acknowledge: dict[bytes, int] | None = None) -> WindowExport:
    return WindowExport(end_ns, [Request(len(body), body) for body in bodies], acknowledge or {}, b"until %d" % end_ns)


def bodies(store: DiskStore) -> list[bytes]:
    found = []
    while request := store.next():
        found.append(request.body)
        store.done(request.id)
    return found


def limit_pages(store: DiskStore, pages: int) -> None:
    """Make the disk as full as SQLite sees it: its own error, SQLITE_FULL."""
    store._database.execute(f"PRAGMA max_page_count = {pages}")


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "new")
    assert (store.acknowledged, store.balances) == ({}, b"")
    store.put(window(30, b"one", b"two", acknowledge={A: 3, B: 9}))
    store.put(window(60, b"three", acknowledge={A: 4}))
    delivered = store.next()
    assert delivered is not None
    store.done(delivered.id)
    store.close()

    store = DiskStore(tmp_path / "new")
    assert store.acknowledged == {A: 4, B: 9}
    assert store.balances == b"until 60"
    assert (store.statistics().requests, store.statistics().bytes) == (2, 8)
    assert bodies(store) == [b"two", b"three"]
    store.close()


def test_killed_at_any_time_it_has_whole_windows(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from reducer.outputs.disk_store import DiskStore
from reducer.outputs.request import Request
from reducer.outputs.store import WindowExport
store = DiskStore(Path(sys.argv[1]))
for number in range(1, 1_000_000):
    safe = store.put(WindowExport(number, [Request(1, b"%d" % number)] * 3, {b"a" * 16: number}, b"%d" % number))
    print(safe[b"a" * 16], flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert child.stdout is not None
    for _ in range(50):
        told = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    told = int((child.stdout.read().split() or [told])[-1])
    child.wait()
    child.stdout.close()

    store = DiskStore(tmp_path)
    number = store.acknowledged[A]
    assert number >= told >= 50
    assert store.balances == b"%d" % number
    assert bodies(store) == [b"%d" % n for n in range(1, number + 1) for _ in range(3)]
    store.close()


def test_acknowledged_numbers_never_fall(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.put(window(30, acknowledge={A: 5}))
    store.put(window(60, acknowledge={A: 4}))
    store.close()
    store = DiskStore(tmp_path)
    assert store.acknowledged == {A: 5}
    store.close()


def test_old_sessions_are_forgotten(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.put(window(30, acknowledge={A: 5, B: 1}))
    store.put(window(60, acknowledge={B: 2}))
    store.put(window(SESSION_LIFETIME_NS + 50))
    store.close()
    store = DiskStore(tmp_path)
    assert store.acknowledged == {B: 2}
    store.close()


def test_full_disk_holds_back_acknowledgements_until_it_has_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path)
    assert store.put(window(30, b"1" * 10_000, acknowledge={A: 1})) == {A: 1}
    limit_pages(store, 1)  # SQLite raises it to what there is: not one page more.
    assert store.put(window(60, b"2" * 100_000, acknowledge={A: 2})) == {}
    assert store.put(window(90, b"3" * 100_000, acknowledge={A: 3})) == {}
    assert store.retry() == {}
    assert store.statistics().windows_unwritten == 2
    assert caplog.text.count("database or disk is full") == 1
    # What is written can be exported meanwhile, what is not cannot.
    assert bodies(store) == [b"1" * 10_000]
    limit_pages(store, 1_000_000)
    assert store.retry() == {A: 3}
    assert "can be used again" in caplog.text
    assert bodies(store) == [b"2" * 100_000, b"3" * 100_000]
    store.close()
    store = DiskStore(tmp_path)
    assert store.acknowledged == {A: 3}
    store.close()


def test_what_the_disk_did_not_take_until_the_end_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskStore(tmp_path)
    store.put(window(30, b"1", acknowledge={A: 1}))
    limit_pages(store, 1)
    store.put(window(60, b"2" * 100_000, acknowledge={A: 2}))
    store.close()
    assert "100000 points of 1 windows could not be sent before the end and are lost" in caplog.text
    assert f"see to the disk of {tmp_path}" in caplog.text
    store = DiskStore(tmp_path)
    assert store.acknowledged == {A: 1}
    assert bodies(store) == [b"1"]
    store.close()


def test_windows_without_requests_that_the_disk_did_not_take(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskStore(tmp_path)
    limit_pages(store, 1)
    for number in range(1, 3):
        store.put(WindowExport(number, [], {bytes([byte]) * 5_000: 1 for byte in range(10)}))
    store.close()
    assert caplog.messages[-1].startswith("2 windows could not be written before the end and are lost, but for what")


def test_windows_that_wait_for_the_disk_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = DiskStore(tmp_path, most_memory_bytes=250_000)
    limit_pages(store, 1)
    for number in range(1, 4):
        store.put(window(number, b"%d" % number * 100_000, acknowledge={A: number}))
    assert store.statistics().points_dropped == 100_000
    assert "100000 points of the window" in caplog.text
    limit_pages(store, 1_000_000)
    assert store.retry() == {A: 3}
    assert [body[:1] for body in bodies(store)] == [b"2", b"3"]
    store.close()


def test_delivered_request_that_cannot_be_deleted_is_not_given_again(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.put(window(30, b"one", b"two"))
    other = sqlite3.connect(tmp_path / "windows.sqlite", isolation_level=None)
    store._database.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    assert bodies(store) == [b"one", b"two"]
    assert store.statistics().requests == 2
    other.execute("COMMIT")
    store.retry()
    assert store.statistics().requests == 0
    assert other.execute("SELECT count(*) FROM requests").fetchone() == (0,)
    other.close()
    store.close()


def test_two_reducers_cannot_share_it(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    with pytest.raises(StartupError, match="in use by another reducer"):
        DiskStore(tmp_path)
    store.close()
    DiskStore(tmp_path).close()


@pytest.mark.parametrize("path", ["/proc/nowhere", "/dev/null", "/dev/null/below"])
def test_directory_that_cannot_be_used(path: str) -> None:
    with pytest.raises(StartupError, match=f"cannot use the data directory {path}"):
        DiskStore(Path(path))


def test_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "windows.sqlite").write_bytes(os.urandom(5000))
    with pytest.raises(StartupError, match="file is not a database; move it away"):
        DiskStore(tmp_path)


def test_database_whose_pages_are_damaged(tmp_path: Path) -> None:
    DiskStore(tmp_path).close()
    path = tmp_path / "windows.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    for _ in range(2):  # The directory is not left locked.
        with pytest.raises(StartupError, match="malformed; move it away"):
            DiskStore(tmp_path)


def test_database_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "windows.sqlite").mkdir()
    with pytest.raises(StartupError, match="unable to open database file; see to its permissions"):
        DiskStore(tmp_path)


def test_database_of_another_version(tmp_path: Path) -> None:
    DiskStore(tmp_path).close()
    database = sqlite3.connect(tmp_path / "windows.sqlite")
    database.execute("PRAGMA user_version = 7")
    database.close()
    for _ in range(2):  # The directory is not left locked.
        with pytest.raises(StartupError, match="schema 7"):
            DiskStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("DROP TABLE sessions", "no such table: sessions"),
        ("DROP TABLE balances", "no such table: balances"),
        ("ALTER TABLE requests DROP COLUMN signal", "no such column: signal"),
    ],
)
def test_database_without_a_table_or_a_column(tmp_path: Path, change: str, missing: str) -> None:
    DiskStore(tmp_path).close()
    database = sqlite3.connect(tmp_path / "windows.sqlite")
    database.execute(change)
    database.close()
    with pytest.raises(StartupError, match=f"{missing}; move it away"):
        DiskStore(tmp_path)


@pytest.mark.parametrize(
    ("signal", "reason"), [("'traces'", "is of signal 'traces', which is none"), ("CAST(x'ff' AS TEXT)", "UTF-8")]
)
def test_a_signal_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, signal: str, reason: str) -> None:
    store = DiskStore(tmp_path)
    store.put(window(30, b"one", b"two", b"three"))
    change = f"UPDATE requests SET signal = {signal} WHERE id < 3"
    store._database.execute(change)
    assert bodies(store) == [b"three"]
    assert caplog.text.count("which is none: such are dropped") == len(caplog.records) == 1
    assert (store.statistics().points_dropped, store.statistics().requests, store.statistics().bytes) == (6, 0, 0)
    store.put(window(60, b"four", b"five"))
    store._database.execute(change.replace("< 3", "= 4"))
    store.close()
    with pytest.raises(StartupError, match=f"{reason}.*; move it away"):
        DiskStore(tmp_path)
