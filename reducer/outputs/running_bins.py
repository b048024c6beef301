"""Running sums of sparse counts by slot, kind and bin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.columns.cells import BIN_BITS, NO_BINS, Bins

if TYPE_CHECKING:
    from reducer.columns.cells import CellKind


class RunningBins:
    """Bins by kind, with slots as places."""

    def __init__(self) -> None:
        self._key: dict[CellKind, np.ndarray] = {}  # place << BIN_BITS | bin, ascending
        self._amount: dict[CellKind, np.ndarray] = {}

    def add(self, kind: CellKind, bins: Bins) -> None:
        """Add the bins of a window, each pair of place and bin once, in any order."""
        told = bins.place << BIN_BITS | bins.bin
        order = np.argsort(told)
        told, amount = told[order], bins.amount[order]
        key, sums = self._key.get(kind, _NOTHING), self._amount.get(kind, _NOTHING).copy()
        at = np.searchsorted(key, told)
        known = np.append(key, -1)[at] == told
        sums[at[known]] += amount[known]
        self._key[kind] = np.insert(key, at[~known], told[~known])
        self._amount[kind] = np.insert(sums, at[~known], amount[~known])

    def forget(self, is_dead: np.ndarray) -> None:
        """Forget the slots of which *is_dead*, by slot, says so."""
        for kind, key in self._key.items():
            kept = ~is_dead[key >> BIN_BITS]
            self._key[kind], self._amount[kind] = key[kept], self._amount[kind][kept]

    def bins(self, row_of_slot: np.ndarray) -> dict[CellKind, Bins]:
        """Return the bins, with rows as places: -1 where a slot has none; rows rise as slots do."""
        return {kind: of_rows(self._of(kind), row_of_slot) for kind in self._key}

    def _of(self, kind: CellKind) -> Bins:
        key = self._key[kind]
        return Bins(key >> BIN_BITS, key & ((1 << BIN_BITS) - 1), self._amount[kind])


def of_rows(bins: Bins, row_of_slot: np.ndarray) -> Bins:
    """Return *bins* with rows in place of slots, without those that have none."""
    rows = row_of_slot[bins.place]
    kept = rows >= 0
    return Bins(rows[kept], bins.bin[kept], bins.amount[kept]) if kept.any() else NO_BINS


_NOTHING = np.empty(0, np.int64)
