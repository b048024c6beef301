"""The series for Prometheus: counters and histograms that run, gauges of the last window, as text.

Scraping changes nothing: any number of scrapers get the same. The running sums are columns and bins like a window's, so
a counter is computed from them just as its delta is from a window. The text is that of format 0.0.4, or of OpenMetrics
1.0, in which a counter's family has its name without `_total`, units are told, and the end is marked.
"""

from __future__ import annotations

import threading
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reducer.cells import Bins, CellKind
from reducer.conventions import REFERENCE
from reducer.distributions import BINS_A_DOUBLING, FIRST_DOUBLING, MICROSECOND
from reducer.metric import PROMETHEUS_UNITS, Distribution, Instrument
from reducer.metrics import ENABLED_METRICS
from reducer.outputs.ends import EncodedEnds
from reducer.outputs.running_bins import RunningBins, of_rows
from reducer.series import VALUE_COLUMNS, is_nothing, nothing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.protobuf import AttributeValue
    from reducer.conventions import Attribute, Conventions
    from reducer.metric import Metric
    from reducer.series import EndTable, Labels, Level, SealedWindow

    Values = dict[str, np.ndarray]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# Upper bounds of the buckets of histograms: powers of two, in seconds, from 15 microseconds to half a minute.
_FIRST_BOUND, _LAST_BOUND = -16, 5
BOUNDS = [2.0**power for power in range(_FIRST_BOUND, _LAST_BOUND + 1)]
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
    bins: dict[CellKind, Bins]


def _bucket(bins: np.ndarray) -> np.ndarray:
    """Return the index in `BOUNDS` of the buckets that *bins* of latency are in; beyond the last one: one more."""
    power = bins // BINS_A_DOUBLING + FIRST_DOUBLING + 1
    index: np.ndarray = np.clip(power - _FIRST_BOUND, 0, len(BOUNDS))
    return index


def _label(name: str, value: AttributeValue) -> str:
    text = value if isinstance(value, str) else str(value).lower()
    escaped = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name.replace(".", "_")}="{escaped}"'


def _end_text(labels: tuple[Attribute, ...]) -> bytes:
    return "".join(f"{_label(name, value)}," for name, value in labels).encode(errors="replace")


class PrometheusSeries:
    """Running sums of the windows that it is shown, for at most *most_series* series.

    A series that is in none of ten windows is forgotten, and starts from 0 should it come back. `observe` and `render`
    may be called from different threads.
    """

    def __init__(
        self,
        metrics: Sequence[Metric] = ENABLED_METRICS,
        most_series: int = MOST_SERIES,
        conventions: Conventions = REFERENCE,
    ) -> None:
        metrics = conventions.metrics(metrics)
        self._rows_untracked = 0
        self._metrics = metrics
        self._most_series = most_series
        self._ends = EncodedEnds(_end_text, conventions)
        self._lock = threading.Lock()
        self._window = 0
        # A series has a slot, its place in all columns, which another one gets when it is forgotten.
        self._slots: dict[Series, int] = {}
        self._free: list[int] = []
        self._series: list[Series] = []
        self._texts: list[LabelText] = []
        # Columns that were 0 so far take no memory.
        self._sums = {name: nothing(0) for name in VALUE_COLUMNS}
        self._last = {name: nothing(0) for name in VALUE_COLUMNS}
        distributions = [metric.sparse for metric in metrics if isinstance(metric.sparse, Distribution)]
        self._bins = RunningBins({source.kind: _bucket for source in distributions})
        self._last_bins: dict[CellKind, list[Bins]] = {}
        self._drop_reasons: Sequence[str] = ()
        self._seen = np.zeros(0, np.int64)  # the window that a slot was last in; -1: the slot is free
        # By level, from the indexes of both ends to the slot: as long as the indexes mean the same.
        self._slot_of: dict[str, dict[int, int]] = {}

    def observe(self, window: SealedWindow) -> None:
        """Add a window."""
        with self._lock:
            self._window += 1
            self._last_bins = {}
            self._drop_reasons = window.drop_reasons
            if self._ends.update(window.ends):
                self._slot_of.clear()
            for level in window.levels:
                self._add(level, window.ends)
            self._forget()

    def render(self, *, openmetrics: bool = False) -> Iterator[bytes]:
        """Yield the text in parts of a few thousand lines."""
        with self._lock:
            slots = np.flatnonzero(self._seen >= 0)
            sums = self._snapshot(slots, self._sums, self._bins.bins(self._rows_of(slots)))
            slots = np.flatnonzero(self._seen == self._window)
            last = self._snapshot(slots, self._last, self._bins_of_last_window(self._rows_of(slots)))
        for metric in self._metrics:
            series = last if metric.instrument is Instrument.GAUGE else sums
            yield from _metric_text(metric, series, self._drop_reasons, openmetrics=openmetrics)
        if openmetrics:
            yield b"# EOF\n"

    def statistics(self) -> PrometheusStatistics:
        """Return how full it is."""
        return PrometheusStatistics(len(self._slots), self._rows_untracked)

    def _add(self, level: Level, ends: EndTable) -> None:
        slots = self._slots_of(level, ends)
        rows = np.flatnonzero(slots >= 0)
        slots = slots[rows]
        self._rows_untracked += len(level.source) - len(rows)
        for name in VALUE_COLUMNS:
            if is_nothing(level.values[name]) and is_nothing(self._last[name]):
                continue
            if is_nothing(self._last[name]):
                self._sums[name], self._last[name] = (np.zeros(len(self._seen), np.int64) for _ in range(2))
            values = level.values[name][rows]
            self._sums[name][slots] += values
            self._last[name][slots] = values
        slot_of_row = np.full(len(level.source), -1)
        slot_of_row[rows] = slots
        for kind, bins in level.bins.items():
            of_slots = of_rows(bins, slot_of_row)
            self._bins.add(kind, of_slots)
            self._last_bins.setdefault(kind, []).append(of_slots)
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
            others = self._ends.zones[az] + _label("aggregation", level.name).encode()
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
                size = len(self._seen)
                columns[name] = (
                    nothing(size) if is_nothing(column) else np.concatenate([column, np.zeros(more, np.int64)])
                )

    def _forget(self) -> None:
        oldest = self._window - FORGOTTEN_AFTER_WINDOWS
        dead = np.flatnonzero((self._seen >= 0) & (self._seen <= oldest))
        if not len(dead):
            return
        self._seen[dead] = -1
        for column in self._sums.values():
            if not is_nothing(column):
                column[dead] = 0
        is_dead = np.zeros(len(self._seen), bool)
        is_dead[dead] = True
        self._bins.forget(is_dead)
        gone = set(dead.tolist())
        for slot in gone:
            del self._slots[self._series[slot]]
        self._free += gone
        for level, known in self._slot_of.items():
            self._slot_of[level] = {pair: slot for pair, slot in known.items() if slot not in gone}

    def _rows_of(self, slots: np.ndarray) -> np.ndarray:
        rows = np.full(len(self._seen), -1)
        rows[slots] = np.arange(len(slots))
        return rows

    def _bins_of_last_window(self, row_of_slot: np.ndarray) -> dict[CellKind, Bins]:
        found = {}
        for kind, parts in self._last_bins.items():
            place, number, amount = (np.concatenate([getattr(part, name) for part in parts]) for name in _BINS)
            order = np.lexsort((number, place))
            found[kind] = of_rows(Bins(place[order], number[order], amount[order]), row_of_slot)
        return found

    def _snapshot(self, slots: np.ndarray, columns: Values, bins: dict[CellKind, Bins]) -> Snapshot:
        texts = [self._texts[slot] for slot in slots.tolist()]
        taken = {name: nothing(len(slots)) if is_nothing(values) else values[slots] for name, values in columns.items()}
        return Snapshot(texts, taken, bins)


_BINS = ("place", "bin", "amount")


def _metric_text(
    metric: Metric, series: Snapshot, drop_reasons: Sequence[str], *, openmetrics: bool
) -> Iterator[bytes]:
    name = metric.prometheus_name
    head = _head(metric, openmetrics=openmetrics)
    if isinstance(metric.sparse, Distribution):
        parts = _histogram_lines(name, metric.sparse, series)
    else:
        parts = _lines_of_points(metric, name, series, drop_reasons)
    for part in parts:
        yield head + part
        head = b""


def _head(metric: Metric, *, openmetrics: bool) -> bytes:
    family = metric.prometheus_name
    unit = ""
    if openmetrics:
        family = family.removesuffix("_total")
        spelt_out = PROMETHEUS_UNITS.get(metric.unit)
        unit = f"# UNIT {family} {spelt_out}\n" if spelt_out and family.endswith(f"_{spelt_out}") else ""
    return f"# HELP {family} {metric.description}\n# TYPE {family} {metric.instrument.value}\n{unit}".encode()


def _lines_of_points(metric: Metric, name: str, series: Snapshot, drop_reasons: Sequence[str]) -> Iterator[bytes]:
    for points in metric.points:
        rows = np.flatnonzero(points.exists(series.values))
        yield from _lines(name, series, rows, points.value(series.values)[rows], points.attributes)
    for found in metric.sparse_points(series.bins, drop_reasons):
        yield from _lines(name, series, found.rows, found.values, found.attributes)


def _lines(
    name: str, series: Snapshot, rows: np.ndarray, values: np.ndarray, attributes: tuple[tuple[str, str], ...] = ()
) -> Iterator[bytes]:
    """Yield a line of text for each of *rows*, a few thousand at a time."""
    own = "".join(f",{_label(*attribute)}" for attribute in attributes)
    before, after = f"{name}{{".encode(), f"{own}}} ".encode()
    for begin in range(0, len(rows), LINES_A_CHUNK):
        part = slice(begin, begin + LINES_A_CHUNK)
        texts = [series.texts[row] for row in rows[part].tolist()]
        pieces = [before, b"", b"", b"", after, b""] * len(texts)
        pieces[1::6] = [text.source for text in texts]
        pieces[2::6] = [text.dest for text in texts]
        pieces[3::6] = [text.others for text in texts]
        pieces[5::6] = map(b"%r\n".__mod__, values[part].tolist())
        yield b"".join(pieces)


def _histogram_lines(name: str, source: Distribution, series: Snapshot) -> Iterator[bytes]:
    """Yield the lines of a histogram by series: its buckets, the sum and the count."""
    bins = series.bins.get(source.kind)
    if bins is None:
        return
    rows, place = np.unique(bins.place, return_inverse=True)
    lines = len(BOUNDS) + 3
    befores = [f"{name}_bucket{{".encode()] * (len(BOUNDS) + 1) + [f"{name}_sum{{".encode(), f"{name}_count{{".encode()]
    bounds = [f',le="{bound!r}"}} '.encode() for bound in BOUNDS]
    afters = [*bounds, b',le="+Inf"} ', b"} ", b"} "]
    for begin in range(0, len(rows), LINES_A_CHUNK // lines):
        part = rows[begin : begin + LINES_A_CHUNK // lines]
        cells = slice(*np.searchsorted(place, (begin, begin + len(part))).tolist())
        counts = np.zeros((len(part), len(BOUNDS) + 1), np.int64)
        counts[place[cells] - begin, bins.bin[cells]] = bins.amount[cells]
        counts = counts.cumsum(axis=1)
        sums = series.values[source.total_us][part] * MICROSECOND
        labels = [b"".join(series.texts[row]) for row in part.tolist()]
        pieces: list[bytes] = [b""] * (4 * lines * len(part))
        pieces[0::4] = befores * len(part)
        pieces[1::4] = [label for label in labels for _ in range(lines)]
        pieces[2::4] = afters * len(part)
        for line in range(lines):
            column = sums if line == lines - 2 else counts[:, min(line, len(BOUNDS))]
            pieces[4 * line + 3 :: 4 * lines] = map(b"%r\n".__mod__, column.tolist())
        yield b"".join(pieces)
