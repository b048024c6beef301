"""The series for Prometheus: counters that run, gauges of the last window, in text format 0.0.4.

Scraping changes nothing: any number of scrapers get the same. The running sums are columns like a window's values, so a
counter is computed from them just as its delta is from a window.
"""

from __future__ import annotations

import threading
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reducer.metrics import ENABLED_METRICS, Instrument
from reducer.outputs.ends import AZ_EQUAL, EncodedEnds
from reducer.series import VALUE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.metrics import Metric
    from reducer.series import EndTable, Labels, Level, SealedWindow

    Values = dict[str, np.ndarray]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_SERIES = 100_000
FORGOTTEN_AFTER_WINDOWS = 10
LINES_A_CHUNK = 5_000


class Series(NamedTuple):
    """What a series is, whatever index its ends have."""

    level: str
    source: Labels
    dest: Labels


class LabelText(NamedTuple):
    """The labels of a series as text, to be joined: those of its ends are shared with other series."""

    source: bytes
    dest: bytes
    others: bytes


class PrometheusStatistics(NamedTuple):
    """How many series there are now, and how many rows of windows were left out since there were too many."""

    series: int
    rows_untracked: int


class Snapshot(NamedTuple):
    """Series at one time: a row a series."""

    texts: list[LabelText]
    values: Values


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name.replace(".", "_")}="{escaped}"'


def _end_text(labels: Labels) -> bytes:
    return "".join(f"{_label(name, value)}," for name, value in labels).encode(errors="replace")


_AZ_EQUAL_TEXT = [b"" if text is None else _end_text((("az_equal", text),)) for text in AZ_EQUAL]


class PrometheusSeries:
    """Running sums of the windows that it is shown, for at most *most_series* series.

    A series that is in none of ten windows is forgotten, and starts from 0 should it come back. `observe` and `render`
    may be called from different threads.
    """

    def __init__(self, metrics: Sequence[Metric] = ENABLED_METRICS, most_series: int = MOST_SERIES) -> None:
        self._rows_untracked = 0
        self._metrics = metrics
        self._most_series = most_series
        self._ends = EncodedEnds(_end_text)
        self._lock = threading.Lock()
        self._window = 0
        # A series has a slot, its place in all columns, which another one gets when it is forgotten.
        self._slots: dict[Series, int] = {}
        self._free: list[int] = []
        self._series: list[Series] = []
        self._texts: list[LabelText] = []
        self._sums = {name: np.zeros(0, np.int64) for name in VALUE_COLUMNS}
        self._last = {name: np.zeros(0, np.int64) for name in VALUE_COLUMNS}
        self._seen = np.zeros(0, np.int64)  # the window that a slot was last in; -1: the slot is free
        # By level, from the indexes of both ends to the slot: as long as the indexes mean the same.
        self._slot_of: dict[str, dict[int, int]] = {}

    def observe(self, window: SealedWindow) -> None:
        """Add a window."""
        with self._lock:
            self._window += 1
            if self._ends.update(window.ends):
                self._slot_of.clear()
            for level in window.levels:
                self._add(level, window.ends)
            self._forget()

    def render(self) -> Iterator[bytes]:
        """Yield the text in parts of a few thousand lines."""
        with self._lock:
            sums = self._snapshot(np.flatnonzero(self._seen >= 0), self._sums)
            last = self._snapshot(np.flatnonzero(self._seen == self._window), self._last)
        for metric in self._metrics:
            yield from _metric_text(metric, sums if metric.instrument is Instrument.COUNTER else last)

    def statistics(self) -> PrometheusStatistics:
        """Return how full it is."""
        return PrometheusStatistics(len(self._slots), self._rows_untracked)

    def _add(self, level: Level, ends: EndTable) -> None:
        slots = self._slots_of(level, ends)
        rows = np.flatnonzero(slots >= 0)
        slots = slots[rows]
        self._rows_untracked += len(level.source) - len(rows)
        for name in VALUE_COLUMNS:
            values = level.values[name][rows]
            self._sums[name][slots] += values
            self._last[name][slots] = values
        self._seen[slots] = self._window

    def _slots_of(self, level: Level, ends: EndTable) -> np.ndarray:
        """Return the slot of each row, -1 where none was left; Python runs for new series only."""
        known = self._slot_of.setdefault(level.name, {})
        pairs = (level.source.astype(np.int64) << 32 | level.dest).tolist()
        slots = np.fromiter(map(known.get, pairs, repeat(-1)), np.int64, len(pairs))
        new = np.flatnonzero(slots < 0)
        az_equal = self._ends.az_equal(level.source[new], level.dest[new])
        for row, az in zip(new.tolist(), az_equal.tolist(), strict=True):
            source, dest = int(level.source[row]), int(level.dest[row])
            series = Series(level.name, ends.labels[source], ends.labels[dest])
            others = _AZ_EQUAL_TEXT[az] + _label("aggregation", level.name).encode()
            slot = self._slot(series, LabelText(self._ends.source[source], self._ends.dest[dest], others))
            if slot is not None:
                known[pairs[row]] = slots[row] = slot
        return slots

    def _slot(self, series: Series, text: LabelText) -> int | None:
        """Return the slot of a series, a new one if it has none; None where there are too many."""
        slot = self._slots.get(series)
        if slot is not None or len(self._slots) >= self._most_series:
            return slot
        if self._free:
            slot = self._free.pop()
            self._series[slot], self._texts[slot] = series, text
        else:
            slot = len(self._series)
            self._series.append(series)
            self._texts.append(text)
            if slot == len(self._seen):
                self._grow()
        self._slots[series] = slot
        return slot

    def _grow(self) -> None:
        more = max(1024, len(self._seen))
        self._seen = np.concatenate([self._seen, np.full(more, -1)])
        for columns in (self._sums, self._last):
            for name, column in columns.items():
                columns[name] = np.concatenate([column, np.zeros(more, np.int64)])

    def _forget(self) -> None:
        oldest = self._window - FORGOTTEN_AFTER_WINDOWS
        dead = np.flatnonzero((self._seen >= 0) & (self._seen <= oldest))
        if not len(dead):
            return
        self._seen[dead] = -1
        for column in self._sums.values():
            column[dead] = 0
        gone = set(dead.tolist())
        for slot in gone:
            del self._slots[self._series[slot]]
        self._free += gone
        for level, known in self._slot_of.items():
            self._slot_of[level] = {pair: slot for pair, slot in known.items() if slot not in gone}

    def _snapshot(self, slots: np.ndarray, columns: Values) -> Snapshot:
        texts = [self._texts[slot] for slot in slots.tolist()]
        return Snapshot(texts, {name: column[slots] for name, column in columns.items()})


def _metric_text(metric: Metric, series: Snapshot) -> Iterator[bytes]:
    name = metric.prometheus_name
    head = f"# HELP {name} {metric.description}\n# TYPE {name} {metric.instrument.value}\n".encode()
    for points in metric.points:
        rows = np.flatnonzero(points.exists(series.values))
        values = points.value(series.values)
        attributes = "".join(f",{_label(*attribute)}" for attribute in points.attributes)
        before, after = f"{name}{{".encode(), f"{attributes}}} ".encode()
        for begin in range(0, len(rows), LINES_A_CHUNK):
            part = rows[begin : begin + LINES_A_CHUNK]
            texts = [series.texts[row] for row in part.tolist()]
            pieces = [before, b"", b"", b"", after, b""] * len(texts)
            pieces[1::6] = [text.source for text in texts]
            pieces[2::6] = [text.dest for text in texts]
            pieces[3::6] = [text.others for text in texts]
            pieces[5::6] = map(b"%r\n".__mod__, values[part].tolist())
            yield head + b"".join(pieces)
            head = b""
