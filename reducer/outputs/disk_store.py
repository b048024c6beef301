"""The queue of windows that wait for their export, in a data directory: what is in it survives the reducer."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.errors import StartupError
from intake.clock import SECOND_NS
from reducer.outputs.request import Signal
from reducer.outputs.store import (
    MOST_MEMORY_BYTES,
    Acknowledgements,
    StoreStatistics,
    WaitingRequest,
    WindowExport,
    count_drop,
    log_loss_at_end,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOGGER = logging.getLogger(__name__)

MOST_DISK_BYTES = 1 << 30
# After that long a session has ended, and its collector has started another.
SESSION_LIFETIME_NS = 24 * 3600 * SECOND_NS
# The log of transactions is cut back to this once they are in the database.
KEPT_LOG_BYTES = 64 << 20
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, window_end_ns INTEGER NOT NULL, points INTEGER NOT NULL, body BLOB NOT NULL,
    signal TEXT NOT NULL);
CREATE TABLE sessions (
    id BLOB PRIMARY KEY, acknowledged INTEGER NOT NULL, window_end_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE balances (id INTEGER PRIMARY KEY CHECK (id = 0), state BLOB NOT NULL);
"""


class DiskStore:
    """The queue in *directory*: a window is safe when it is written, together with the state that it leaves.

    A window that cannot be written waits in memory, is not exported, and is tried again with each `put` and `retry`. Of
    those that wait the oldest are dropped when they exceed *most_memory_bytes*, of those on disk beyond *most_bytes*.

    Raises:
        StartupError: the directory cannot be used, or another reducer uses it.

    """

    def __init__(
        self, directory: Path, most_bytes: int = MOST_DISK_BYTES, most_memory_bytes: int = MOST_MEMORY_BYTES
    ) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._most_memory_bytes = most_memory_bytes
        self._unwritten: deque[WindowExport] = deque()
        self._undeleted: set[int] = set()
        self._failing = False
        self._unknown_signals = False
        self._lock = threading.Lock()
        self._statistics = StoreStatistics(most_bytes)
        self._lock_file = _lock_directory(directory)
        try:
            self._database = _open_database(directory / "windows.sqlite")
        except BaseException:
            os.close(self._lock_file)
            raise
        try:
            self._read_state()
        except sqlite3.Error as error:
            self.close()
            raise _unusable(directory, error) from error

    def put(self, window: WindowExport) -> Acknowledgements:
        """Write a window in one transaction; return what is safe now: nothing if it could not be written."""
        with self._lock:
            self._unwritten.append(window)
            safe = self._write()
            while sum(waiting.size for waiting in self._unwritten) > self._most_memory_bytes:
                dropped = self._unwritten.popleft()
                points = sum(request.points for request in dropped.requests)
                count_drop(self._statistics, dropped.end_ns, points, self._most_memory_bytes)
            return safe

    def next(self) -> WaitingRequest | None:
        """Return the oldest request on disk; it stays. None also while the disk cannot be read.

        Those of a signal that is none are dropped.
        """
        with self._lock:
            # What is not UTF-8 cannot be read as text.
            query = "SELECT id, points, body, CAST(signal AS BLOB) FROM requests WHERE id > ? ORDER BY id LIMIT 1"
            with self._disk_may_fail():
                while row := self._database.execute(query, (max(self._undeleted, default=0),)).fetchone():
                    number, points, body, told = row
                    signal = told.decode(errors="replace")
                    if signal in tuple(Signal):
                        return WaitingRequest(number, points, body, Signal(signal))
                    self._drop_unknown(number, points, signal)
            return None

    def done(self, request_id: int) -> Acknowledgements:
        """Remove a request that was delivered or refused; where the disk does not let it now, later."""
        with self._lock:
            self._undeleted.add(request_id)
            return self._write()

    def retry(self) -> Acknowledgements:
        """Try again to write what could not be written; return what is safe now."""
        with self._lock:
            return self._write()

    def statistics(self) -> StoreStatistics:
        """Return how full the queue is, without waiting for what is being written."""
        return StoreStatistics(**vars(self._statistics) | {"windows_unwritten": len(self._unwritten)})

    def close(self) -> None:
        """Let another reducer have the directory; what could not be written to it is logged as lost."""
        with self._lock:
            if self._unwritten:
                requests = [request for window in self._unwritten for request in window.requests]
                advice = f"see to the disk of {self._directory}"
                log_loss_at_end(len(self._unwritten), requests, advice)
                self._unwritten.clear()
            self._database.close()
            os.close(self._lock_file)

    def _read_state(self) -> None:
        self.acknowledged: Acknowledgements = dict(self._database.execute("SELECT id, acknowledged FROM sessions"))
        row = self._database.execute("SELECT state FROM balances").fetchone()
        self.balances: bytes = row[0] if row else b""
        oldest = "SELECT id, signal, window_end_ns, points FROM requests ORDER BY id LIMIT 1"
        for number, signal, *_ in self._database.execute(oldest):
            if signal not in tuple(Signal):
                raise sqlite3.DatabaseError(f"request {number} is of signal {signal!r}, which is none")
        count = "SELECT count(*), coalesce(sum(length(body)), 0) FROM requests"
        self._statistics.requests, self._statistics.bytes = self._database.execute(count).fetchone()

    def _write(self) -> Acknowledgements:
        safe: Acknowledgements = {}
        with self._disk_may_fail():
            if self._undeleted:
                self._delete_done()
            while self._unwritten:
                self._write_window(self._unwritten[0])
                safe |= self._unwritten.popleft().acknowledge
                while self._statistics.bytes > self._most_bytes:
                    self._drop_oldest()
            if self._failing:
                self._failing = False
                _LOGGER.warning("the data directory %s can be used again", self._directory)
        return safe

    def _delete_done(self) -> None:
        ids = [(request_id,) for request_id in self._undeleted]
        with self._transaction():
            found = [
                self._database.execute("SELECT length(body) FROM requests WHERE id = ?", key).fetchone() for key in ids
            ]
            self._database.executemany("DELETE FROM requests WHERE id = ?", ids)
        # A request may have been dropped while it was on its way.
        sizes = [row[0] for row in found if row]
        self._statistics.requests -= len(sizes)
        self._statistics.bytes -= sum(sizes)
        self._undeleted.clear()

    def _write_window(self, window: WindowExport) -> None:
        with self._transaction():
            self._database.executemany(
                "INSERT INTO requests (window_end_ns, points, body, signal) VALUES (?, ?, ?, ?)",
                ((window.end_ns, *request) for request in window.requests),
            )
            self._database.executemany(
                "INSERT INTO sessions VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " acknowledged = max(acknowledged, excluded.acknowledged), window_end_ns = excluded.window_end_ns",
                ((session, number, window.end_ns) for session, number in window.acknowledge.items()),
            )
            oldest_ns = window.end_ns - SESSION_LIFETIME_NS
            self._database.execute("DELETE FROM sessions WHERE window_end_ns < ?", (oldest_ns,))
            self._database.execute("INSERT OR REPLACE INTO balances VALUES (0, ?)", (window.balances,))
        self._statistics.requests += len(window.requests)
        self._statistics.bytes += window.size

    def _drop_oldest(self) -> None:
        with self._transaction():
            (end_ns,) = self._database.execute("SELECT window_end_ns FROM requests ORDER BY id LIMIT 1").fetchone()
            of_window = "FROM requests WHERE window_end_ns = ?"
            requests, points, size = self._database.execute(
                f"SELECT count(*), sum(points), sum(length(body)) {of_window}", (end_ns,)
            ).fetchone()
            self._database.execute(f"DELETE {of_window}", (end_ns,))
        self._statistics.requests -= requests
        self._statistics.bytes -= size
        count_drop(self._statistics, end_ns, points, self._most_bytes)

    def _drop_unknown(self, request_id: int, points: int, signal: str) -> None:
        """Count a request of a signal that is none, and log the first one; it is removed with what is done."""
        self._undeleted.add(request_id)
        self._statistics.points_dropped += points
        if not self._unknown_signals:
            self._unknown_signals = True
            _LOGGER.error(
                "request %d in the data directory %s is of signal %r, which is none: such are dropped",
                request_id,
                self._directory,
                signal,
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # Some errors, such as a full disk, have rolled it back already.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _disk_may_fail(self) -> Iterator[None]:
        """Log that the disk fails, once until a write succeeds."""
        error = None
        try:
            yield
        except sqlite3.Error as raised:
            error = raised
        if error and not self._failing:
            self._failing = True
            _LOGGER.error(
                "cannot use the data directory %s: %s; windows wait in memory, not acknowledged, until it can be used",
                self._directory,
                error,
            )


def _lock_directory(directory: Path) -> int:
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock_file = os.open(directory / "reducer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StartupError(
            f"cannot use the data directory {directory}: {error.strerror}; "
            "give --data-dir (EBPF_NET_DATA_DIR) a directory that can be written"
        ) from error
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock_file)
        raise StartupError(
            f"the data directory {directory} is in use by another reducer: give each its own by --data-dir"
        ) from error
    return lock_file


def _open_database(path: Path) -> sqlite3.Connection:
    """Open or make the database; a transaction in it survives the machine's crash, not only the reducer's."""
    try:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise _unusable(path.parent, error) from error
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        _check_schema(path, version)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA journal_size_limit = {KEPT_LOG_BYTES}")
        if version == 0:
            database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error as error:
        database.close()
        raise _unusable(path.parent, error) from error
    except StartupError:
        database.close()
        raise
    return database


def _unusable(directory: Path, error: sqlite3.Error) -> StartupError:
    """Return the error that says what to do: to what is damaged, or to what the system refuses."""
    # sqlite3 has no class of its own for files whose content is none; SQLITE_ERROR: a table or a column is missing.
    # Its own errors have no code: of text that is not UTF-8.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    damaged = type(error) is sqlite3.DatabaseError or code == sqlite3.SQLITE_ERROR
    advice = "move it away, and with it the windows that wait" if damaged else "see to its permissions and its disk"
    return StartupError(f"cannot use the data directory {directory}, windows.sqlite: {error}; {advice}")


def _check_schema(path: Path, version: int) -> None:
    if version not in {0, SCHEMA_VERSION}:
        raise StartupError(
            f"{path} was written by another version of the reducer (schema {version}, this one: {SCHEMA_VERSION}): "
            "let that one export what is in it, or move it away"
        )
