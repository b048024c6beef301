"""Deltas to totals: what series add up to since they began, for receivers that take no deltas.

A series that is in none of ten windows is forgotten, and begins anew should it come back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reducer.columns.cells import BIN_BITS, Bins
from reducer.columns.series import Level, pairs_of
from reducer.columns.value_columns import VALUE_COLUMNS, is_nothing, nothing

if TYPE_CHECKING:
    from reducer.columns.cells import CellKind
    from reducer.columns.series import EndTable, Labels, SealedWindow

FORGOTTEN_AFTER_WINDOWS = 10


class Totals(NamedTuple):
    """The series of a level with what they add up to.

    Attributes:
        level: the totals, by ascending pair of ends.
        began_ns: of each series, int64: the start of the first window that it was in.
        seen: of each series, int64: the number of the last one.

    """

    level: Level
    began_ns: np.ndarray
    seen: np.ndarray


@dataclass
class RunningTotals:
    """The totals of all levels; `add` each window, in order."""

    _windows: int = 0
    _generation: int = -1
    _labels: list[Labels] = field(default_factory=list)
    _totals: dict[str, Totals] = field(default_factory=dict)

    def add(self, window: SealedWindow) -> list[Totals]:
        """Add a window, and return the totals of its levels."""
        self._windows += 1
        if window.ends.generation != self._generation:
            self._follow(window.ends)
            self._generation = window.ends.generation
        self._labels = window.ends.labels
        for level in window.levels:
            self._totals[level.name] = self._added(self._totals.get(level.name), level, window.start_ns)
        return [self._totals[level.name] for level in window.levels]

    def _added(self, before: Totals | None, level: Level, start_ns: int) -> Totals:
        count = len(level.source)
        began_ns, seen = np.full(count, start_ns, np.int64), np.full(count, self._windows, np.int64)
        if before is None:
            return Totals(level, began_ns, seen)
        before = _without(before, before.seen <= self._windows - FORGOTTEN_AFTER_WINDOWS)
        old = before.level
        pairs = np.union1d(pairs_of(old), pairs_of(level))
        at_old, at_new = np.searchsorted(pairs, pairs_of(old)), np.searchsorted(pairs, pairs_of(level))
        all_began, all_seen = np.full(len(pairs), start_ns, np.int64), np.empty(len(pairs), np.int64)
        all_began[at_old] = before.began_ns
        all_seen[at_old], all_seen[at_new] = before.seen, self._windows
        values = {}
        for name in VALUE_COLUMNS:
            values[name] = nothing(len(pairs))
            for column, at in ((old.values[name], at_old), (level.values[name], at_new)):
                if not is_nothing(column):
                    if is_nothing(values[name]):
                        values[name] = np.zeros(len(pairs), np.int64)
                    values[name][at] += column
        bins = {
            kind: _sum(_moved(old.bins.get(kind), at_old), _moved(level.bins.get(kind), at_new))
            for kind in old.bins.keys() | level.bins.keys()
        }
        return Totals(_level(level.name, pairs, values, bins), all_began, all_seen)

    def _follow(self, ends: EndTable) -> None:
        """Know the series by the indexes that their ends have now that the table was cleared, seldom as that is."""
        for name, before in self._totals.items():
            old = before.level
            used, place = np.unique(np.concatenate((old.source, old.dest)), return_inverse=True)
            now = np.array([ends.intern(self._labels[end]) for end in used.tolist()], np.uint32)[place]
            source, dest = now[: len(old.source)], now[len(old.source) :]
            order = np.lexsort((dest, source))
            rank = np.argsort(order)
            values = {column: each[order] if not is_nothing(each) else each for column, each in old.values.items()}
            bins = {kind: _sum(_moved(each, rank)) for kind, each in old.bins.items()}
            level = Level(name, source[order], dest[order], values, bins)
            self._totals[name] = Totals(level, before.began_ns[order], before.seen[order])


def _without(totals: Totals, forgotten: np.ndarray) -> Totals:
    if not forgotten.any():
        return totals
    level, kept = totals.level, ~forgotten
    row = np.cumsum(kept) - 1
    count = int(np.count_nonzero(kept))
    values = {name: nothing(count) if is_nothing(each) else each[kept] for name, each in level.values.items()}
    bins = {}
    for kind, each in level.bins.items():
        here = kept[each.place]
        bins[kind] = Bins(row[each.place[here]], each.bin[here], each.amount[here])
    return Totals(_level(level.name, pairs_of(level)[kept], values, bins), totals.began_ns[kept], totals.seen[kept])


def _level(name: str, pairs: np.ndarray, values: dict[str, np.ndarray], bins: dict[CellKind, Bins]) -> Level:
    bins = {kind: each for kind, each in bins.items() if len(each)}
    return Level(name, (pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32), values, bins)


def _moved(bins: Bins | None, to: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return keys of place and bin, and the amounts, of *bins* whose places have moved."""
    if bins is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return to[bins.place] << BIN_BITS | bins.bin, bins.amount


def _sum(*parts: tuple[np.ndarray, np.ndarray]) -> Bins:
    keys, which = np.unique(np.concatenate([key for key, _ in parts]), return_inverse=True)
    amount = np.zeros(len(keys), np.int64)
    np.add.at(amount, which, np.concatenate([amounts for _, amounts in parts]))
    return Bins(keys >> BIN_BITS, keys & ((1 << BIN_BITS) - 1), amount)
