"""Running sums of sparse counts by slot, kind and bin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.cells import NO_BINS, Bins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reducer.cells import CellKind

_BIN_BITS = 16


class RunningBins:
    """Bins by kind, with slots as places; *coarser* joins bins of a kind that need not be told apart."""

    def __init__(self, coarser: Mapping[CellKind, Callable[[np.ndarray], np.ndarray]]) -> None:
        self._coarser = coarser
        self._key: dict[CellKind, np.ndarray] = {}  # place << _BIN_BITS | bin, ascending
        self._amount: dict[CellKind, np.ndarray] = {}

    def add(self, kind: CellKind, bins: Bins) -> None:
        """Add the bins of a window."""
        coarser = self._coarser.get(kind)
        told = bins.bin if coarser is None else coarser(bins.bin)
        key = np.concatenate((self._key.get(kind, _NOTHING), bins.place << _BIN_BITS | told))
        amount = np.concatenate((self._amount.get(kind, _NOTHING), bins.amount))
        self._key[kind], which = np.unique(key, return_inverse=True)
        self._amount[kind] = np.zeros(len(self._key[kind]), np.int64)
        np.add.at(self._amount[kind], which, amount)

    def forget(self, is_dead: np.ndarray) -> None:
        """Forget the slots of which *is_dead*, by slot, says so."""
        for kind, key in self._key.items():
            kept = ~is_dead[key >> _BIN_BITS]
            self._key[kind], self._amount[kind] = key[kept], self._amount[kind][kept]

    def bins(self, row_of_slot: np.ndarray) -> dict[CellKind, Bins]:
        """Return the bins, with rows as places: -1 where a slot has none; rows rise as slots do."""
        return {kind: of_rows(self._of(kind), row_of_slot) for kind in self._key}

    def _of(self, kind: CellKind) -> Bins:
        key = self._key[kind]
        return Bins(key >> _BIN_BITS, key & ((1 << _BIN_BITS) - 1), self._amount[kind])


def of_rows(bins: Bins, row_of_slot: np.ndarray) -> Bins:
    """Return *bins* with rows in place of slots, without those that have none."""
    rows = row_of_slot[bins.place]
    kept = rows >= 0
    return Bins(rows[kept], bins.bin[kept], bins.amount[kept]) if kept.any() else NO_BINS


_NOTHING = np.empty(0, np.int64)
