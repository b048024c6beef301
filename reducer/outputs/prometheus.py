"""The series for Prometheus: counters and histograms that run, gauges of the last window.

Scraping changes nothing: any number of scrapers get the same. The running sums are columns and bins like a window's, so
a counter is computed from them just as its delta is from a window.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reducer.columns.cells import Bins, CellKind
from reducer.columns.series import pairs_of
from reducer.columns.value_columns import VALUE_COLUMNS, is_nothing, nothing
from reducer.outputs.conventions import REFERENCE
from reducer.outputs.ends import EncodedEnds
from reducer.outputs.expositions import TEXT, Exposition
from reducer.outputs.metrics import ENABLED_METRICS
from reducer.outputs.observed import Observed, Snapshot
from reducer.outputs.prometheus_labels import LabelSet, SeriesLabels
from reducer.outputs.running_bins import RunningBins, of_rows
from reducer.outputs.running_totals import FORGOTTEN_AFTER_WINDOWS
from reducer.rolling_up.budget import MOST_SERIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.columns.series import EndTable, Labels, Level, SealedWindow
    from reducer.outputs.conventions import Conventions
    from reducer.outputs.metric import Metric


class Series(NamedTuple):
    """What a series is, whatever index its ends have."""

    level: str
    source: Labels
    dest: Labels


class PrometheusStatistics(NamedTuple):
    """How many series there are now, and what became of those that were too many since the start.

    Attributes:
        series: that are remembered.
        series_forgotten: that were idle, and were forgotten early to make room.
        rows_untracked: rows of windows that were left out for want of room.

    """

    series: int
    series_forgotten: int
    rows_untracked: int


class _Slots(NamedTuple):
    """The slots of series of a level.

    Attributes:
        pairs: the indexes of both ends as `pairs_of` gives them, ascending.
        slots: int64.

    """

    pairs: np.ndarray
    slots: np.ndarray

    def of(self, pairs: np.ndarray) -> np.ndarray:
        """Return the slot of each of *pairs*, -1 where there is none."""
        if not len(self.pairs):
            return np.full(len(pairs), -1)
        at = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        return np.where(self.pairs[at] == pairs, self.slots[at], -1)

    def and_those(self, pairs: np.ndarray, slots: np.ndarray) -> _Slots:
        """Return these, and those of *pairs*, ascending, none of which is among these."""
        if not len(pairs):
            return self
        at = np.searchsorted(self.pairs, pairs)
        return _Slots(np.insert(self.pairs, at, pairs), np.insert(self.slots, at, slots))

    def without(self, is_dead: np.ndarray) -> _Slots:
        """Return those of which *is_dead*, by slot, does not say so."""
        kept = ~is_dead[self.slots]
        return _Slots(self.pairs[kept], self.slots[kept])


_NO_SLOTS = _Slots(np.empty(0, np.uint64), np.empty(0, np.int64))


class PrometheusSeries:
    """Running sums of the windows that it is shown, for at most *most_series* series.

    A series that is in none of ten windows is forgotten, and starts from 0 should it come back; so are those that are
    idle for the longest, where new ones need their room. `observe` and `render`
    may be called from different threads.
    """

    def __init__(
        self,
        metrics: Sequence[Metric] = ENABLED_METRICS,
        most_series: int = MOST_SERIES,
        conventions: Conventions = REFERENCE,
    ) -> None:
        metrics = conventions.metrics(metrics)
        self._series_forgotten = self._rows_untracked = 0
        self._metrics = metrics
        self._most_series = most_series
        self._ends = EncodedEnds(LabelSet, conventions)
        self._conventions = conventions
        # By level and index in the zones of the conventions.
        self._others: dict[tuple[str, int], LabelSet] = {}
        self._lock = threading.Lock()
        self._window = 0
        # A series has a slot, its place in all columns, which another one gets when it is forgotten.
        self._slots: dict[Series, int] = {}
        self._free: list[int] = []
        self._series: list[Series] = []
        self._labels: list[SeriesLabels] = []
        # Columns that were 0 so far take no memory.
        self._sums = {name: nothing(0) for name in VALUE_COLUMNS}
        self._last = {name: nothing(0) for name in VALUE_COLUMNS}
        self._bins = RunningBins()
        self._last_bins: dict[CellKind, list[Bins]] = {}
        self._drop_reasons: Sequence[str] = ()
        self._seen = np.zeros(0, np.int64)  # the window that a slot was last in; -1: the slot is free
        # By level, the slots by indexes of both ends: as long as the indexes mean the same.
        self._slots_of: dict[str, _Slots] = {}

    def observe(self, window: SealedWindow) -> None:
        """Add a window."""
        with self._lock:
            self._window += 1
            self._last_bins = {}
            self._drop_reasons = window.drop_reasons
            if self._ends.update(window.ends):
                self._slots_of.clear()
            found = [(level, self._known_slots(level, window.ends)) for level in window.levels]
            for _, slots in found:
                self._seen[slots[slots >= 0]] = self._window
            self._forget(self._dead(sum(int(np.count_nonzero(slots < 0)) for _, slots in found)))
            for level, slots in found:
                self._give_slots(level, window.ends, slots)
                self._add(level, slots)

    def render(self, exposition: Exposition = TEXT) -> Iterator[bytes]:
        """Return what there is in a format, in parts."""
        with self._lock:
            slots = np.flatnonzero(self._seen >= 0)
            sums = self._snapshot(slots, self._sums, self._bins.bins(self._rows_of(slots)))
            slots = np.flatnonzero(self._seen == self._window)
            last = self._snapshot(slots, self._last, self._bins_of_last_window(self._rows_of(slots)))
            observed = Observed(sums, last, self._drop_reasons)
        return exposition.render(self._metrics, observed)

    def statistics(self) -> PrometheusStatistics:
        """Return how full it is."""
        return PrometheusStatistics(len(self._slots), self._series_forgotten, self._rows_untracked)

    def _add(self, level: Level, slots: np.ndarray) -> None:
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

    def _known_slots(self, level: Level, ends: EndTable) -> np.ndarray:
        """Return the slot of each row, -1 where it is a new series; Python runs for those only."""
        pairs = pairs_of(level)
        known = self._slots_of.get(level.name, _NO_SLOTS)
        slots = known.of(pairs)
        unknown = np.flatnonzero(slots < 0)
        slots[unknown] = [self._slots.get(_series(level, row, ends), -1) for row in unknown.tolist()]
        found = unknown[slots[unknown] >= 0]
        self._slots_of[level.name] = known.and_those(pairs[found], slots[found])
        return slots

    def _give_slots(self, level: Level, ends: EndTable, slots: np.ndarray) -> None:
        """Fill in the slots of new series, as long as there are some."""
        new = np.flatnonzero(slots < 0)
        new = new[: max(0, self._most_series - len(self._slots))]
        az_equal = self._ends.az_equal(level.source[new], level.dest[new])
        for row, az in zip(new.tolist(), az_equal.tolist(), strict=True):
            source, dest = self._ends.source[level.source[row]], self._ends.dest[level.dest[row]]
            labels = SeriesLabels(source, dest, self._other_labels(level.name, az))
            slots[row] = self._slot(_series(level, row, ends), labels)
        self._slots_of[level.name] = self._slots_of[level.name].and_those(pairs_of(level)[new], slots[new])

    def _other_labels(self, level: str, az: int) -> LabelSet:
        labels = self._others.get((level, az))
        if labels is None:
            labels = self._others[level, az] = LabelSet((*self._conventions.zones[az], ("aggregation", level)))
        return labels

    def _slot(self, series: Series, labels: SeriesLabels) -> int:
        """Return the slot of a new series."""
        if self._free:
            slot = self._free.pop()
            self._series[slot], self._labels[slot] = series, labels
        else:
            slot = len(self._series)
            self._series.append(series)
            self._labels.append(labels)
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

    def _dead(self, new: int) -> np.ndarray:
        """Return the slots to be forgotten: of series long idle, and of the idlest where *new* ones lack the room."""
        idle = np.flatnonzero((self._seen >= 0) & (self._seen < self._window))
        idle = idle[np.argsort(self._seen[idle], kind="stable")]
        dead = int(np.count_nonzero(self._seen[idle] <= self._window - FORGOTTEN_AFTER_WINDOWS))
        needed = min(len(self._slots) + new - self._most_series, len(idle))
        self._series_forgotten += max(0, needed - dead)
        return idle[: max(dead, needed)]

    def _forget(self, dead: np.ndarray) -> None:
        if not len(dead):
            return
        self._seen[dead] = -1
        for column in self._sums.values():
            if not is_nothing(column):
                column[dead] = 0
        is_dead = np.zeros(len(self._seen), bool)
        is_dead[dead] = True
        self._bins.forget(is_dead)
        for slot in dead.tolist():
            del self._slots[self._series[slot]]
        self._free += dead.tolist()
        self._slots_of = {level: known.without(is_dead) for level, known in self._slots_of.items()}

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

    def _snapshot(self, slots: np.ndarray, columns: dict[str, np.ndarray], bins: dict[CellKind, Bins]) -> Snapshot:
        labels = [self._labels[slot] for slot in slots.tolist()]
        taken = {name: nothing(len(slots)) if is_nothing(values) else values[slots] for name, values in columns.items()}
        return Snapshot(labels, taken, bins)


_BINS = ("place", "bin", "amount")


def _series(level: Level, row: int, ends: EndTable) -> Series:
    return Series(level.name, ends.labels[level.source[row]], ends.labels[level.dest[row]])
