"""Open windows: rows by event time until their window closes, and which batches are in which."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from intake.columns import constant, is_constant, words
from reducer.columns.row_store import MOST_SUM, RowStore
from reducer.windows.rows import SOCKETS, TABLES

if TYPE_CHECKING:
    from intake.columns import Columns

# Beyond it, the rows of a window are added up by socket.
MOST_UNFOLDED_ROWS = 2_000_000
# Of so many, one part is added up at a time.
_FOLDS = 8
# What the rows of a session may say of a counter in a window, one petabyte, once half of what all may say is said:
# nobody takes the room of the others.
MOST_SUM_OF_SESSION = 1 << 50
# Besides those that wait to be closed. Rows that claim to be later are put into the last of them.
MOST_OPEN_WINDOWS = 64


@dataclass(slots=True)
class Window:
    """The batches of one window.

    Attributes:
        start_ns: inclusive.
        end_ns: exclusive.
        rows: how many there are.
        lowest: the lowest number of its batches, by session.
        seed: of the hashes of rows.

    """

    start_ns: int
    end_ns: int
    rows: int = 0
    lowest: dict[bytes, int] = field(default_factory=dict)
    seed: int = 0
    _stores: dict[str, RowStore] = field(default_factory=dict)
    _told: dict[bytes, int] = field(default_factory=dict)

    def tables(self) -> dict[str, list[Columns]]:
        """Return its rows by table, those of a session in the order in which they came."""
        return {table: [store.columns()] for table, store in self._stores.items()}

    def add(self, session: bytes, number: int, rows: Columns | None, table: str = SOCKETS) -> int:
        """Add a batch, or one of its tables; return how many rows were refused since their sums are too great."""
        self.lowest[session] = min(number, self.lowest.get(session, number))
        if rows is None:
            return 0
        told = self._told.get(session, 0)
        added = self._add(table, rows, MOST_SUM_OF_SESSION - told)
        self._told[session] = told + max(0, added)
        if self.rows > MOST_UNFOLDED_ROWS:
            store = self._stores[table]
            before = store.rows
            store.fold(MOST_UNFOLDED_ROWS // _FOLDS)
            self.rows += store.rows - before
        return len(rows["socket"]) if added < 0 else 0

    def absorb(self, later: Window) -> int:
        """Add all that *later* has; return how many rows were refused."""
        for session, number in later.lowest.items():
            self.lowest[session] = min(number, self.lowest.get(session, number))
        for session, told in later._told.items():
            self._told[session] = self._told.get(session, 0) + told
        tables = later.tables().items()
        return sum(len(rows["socket"]) for table, [rows] in tables if self._add(table, rows, MOST_SUM) < 0)

    def _add(self, table: str, rows: Columns, most: int) -> int:
        """Return the greatest sum of a counter; -1 if it is too great, and the rows were left out."""
        store = self._stores.get(table)
        if store is None:
            store = self._stores[table] = RowStore(TABLES[table], self.seed)
        added = store.add(rows, most)
        if added >= 0:
            self.rows += len(rows["socket"])
        return added


class Windows:
    """The open windows, aligned to their length by event time.

    Attributes:
        sealed_until_ns: all windows before are sealed; None before the first call that tells a time.
        late_rows: rows that came after their window was sealed, and count in the oldest open one.
        refused_rows: rows that are in none, since the sums of a window's rows would have been too great.

    """

    def __init__(self, window_ns: int, delay_ns: int) -> None:
        self._window_ns = window_ns
        self._delay_ns = delay_ns
        self._most_open = delay_ns // window_ns + MOST_OPEN_WINDOWS
        self._seed = secrets.randbits(64)
        self._open: dict[int, Window] = {}
        self._highest: dict[bytes, int] = {}
        self.sealed_until_ns: int | None = None
        self.late_rows = self.refused_rows = 0

    @property
    def rows(self) -> int:
        """How many rows wait in open windows."""
        return sum(window.rows for window in self._open.values())

    def take(self, session: bytes, number: int, event_time_ns: int, rows: Columns | None, table: str = SOCKETS) -> None:
        """Put a batch, or one of its tables, into its window."""
        oldest = self._oldest(event_time_ns)
        index = event_time_ns // self._window_ns
        if index < oldest and rows is not None:
            self.late_rows += len(rows["socket"])
        index = min(max(index, oldest), oldest + self._most_open - 1)
        window = self._open.get(index)
        if window is None:
            window = self._open[index] = self._window(index)
        self.refused_rows += window.add(session, number, rows, table)
        self._highest[session] = max(number, self._highest.get(session, number))

    def due_ns(self, now_ns: int) -> int:
        """Return when the oldest open window is to be closed."""
        return (self._oldest(now_ns) + 1) * self._window_ns + self._delay_ns

    def close(self, now_ns: int, *, idle: bool) -> Window | None:
        """Take the oldest window out if it is due.

        Args:
            now_ns: the time.
            idle: windows without batches are skipped.

        """
        while self.due_ns(now_ns) <= now_ns:
            oldest = self._oldest(now_ns)
            if not self._open and idle:
                # The last window that is due, at once.
                oldest = (now_ns - self._delay_ns) // self._window_ns - 1
            window = self._open.pop(oldest, None) or self._window(oldest)
            self.sealed_until_ns = window.end_ns
            if window.lowest or not idle:
                return window
        return None

    def follow_back(self, now_ns: int) -> int:
        """Begin anew with the present window if the clock was set back by more than one; return by how many it was.

        Else no window would fall due until it is as late again.
        """
        if self.sealed_until_ns is None or self.sealed_until_ns <= now_ns + self._window_ns:
            return 0
        before, present = self._oldest(now_ns), now_ns // self._window_ns
        self.sealed_until_ns = present * self._window_ns
        self._absorb_later(present)
        return before - present

    def end(self, now_ns: int) -> None:
        """Let the last open window end now, with all that claims to be later."""
        present = max(now_ns // self._window_ns, self._oldest(now_ns))
        self._absorb_later(present)
        if present in self._open:
            window = self._open[present]
            window.end_ns = max(window.start_ns + 1, min(window.end_ns, now_ns))

    def close_next(self) -> Window | None:
        """Take the oldest open window out, due or not."""
        if not self._open:
            return None
        window = self._open.pop(min(self._open))
        self.sealed_until_ns = window.end_ns
        return window

    def later(self) -> dict[str, list[Columns]]:
        """Return the rows of the windows that are still open, by table."""
        found: dict[str, list[Columns]] = {}
        for index in sorted(self._open):
            for table, rows in self._open[index].tables().items():
                found.setdefault(table, []).extend(rows)
        return found

    def acknowledge(self, closed: Window) -> dict[bytes, int]:
        """Return by session the highest number up to which no batch is in an open window, now that *closed* is not."""
        numbers = {}
        for session, lowest in closed.lowest.items():
            still_open = [window.lowest[session] for window in self._open.values() if session in window.lowest]
            number = min(still_open) - 1 if still_open else self._highest.pop(session, 0)
            if number >= lowest:
                numbers[session] = number
        return numbers

    def _absorb_later(self, present: int) -> None:
        for index in sorted(index for index in self._open if index > present):
            later = self._open.pop(index)
            self.refused_rows += self._open.setdefault(present, self._window(present)).absorb(later)

    def _oldest(self, time_ns: int) -> int:
        """Return the index of the oldest open window; windows begin with the first time that is told."""
        if self.sealed_until_ns is None:
            self.sealed_until_ns = time_ns // self._window_ns * self._window_ns
        return self.sealed_until_ns // self._window_ns

    def _window(self, index: int) -> Window:
        start_ns = index * self._window_ns
        return Window(max(start_ns, self.sealed_until_ns or 0), start_ns + self._window_ns, seed=self._seed)


def joined(tables: list[Columns], names: tuple[str, ...]) -> Columns:
    """Return columns of all *tables* one after the other; addresses as pairs of uint64."""
    return {name: _joined([words(table[name]) for table in tables]) for name in names}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    if all(map(is_constant, parts)) and not any(part[:1].any() for part in parts):
        return constant(sum(map(len, parts)), parts[0].dtype)
    return np.concatenate(parts)
