"""The keys of flows by slot: halves of their words, each in as few bytes as all flows allow.

Of IPv4 addresses three halves of four are the same in all flows, and a protocol takes a byte.
"""

from __future__ import annotations

from typing import Final

import numpy as np

KEY_WORDS: Final = 6
"""uint64 words of a flow's key: the low address, the high address, protocol and ports, scope."""

_HALVES = 2 * KEY_WORDS


class KeyColumns:
    """Keys by slot. A half that is the same in all flows so far has one element, for all of them."""

    def __init__(self) -> None:
        self._room = 0
        self._columns: list[np.ndarray] = []

    @property
    def nbytes(self) -> int:
        """Return how many bytes they take."""
        return sum(column.nbytes for column in self._columns)

    def __getitem__(self, slots: np.ndarray) -> np.ndarray:
        """Return the keys of *slots*, (KEY_WORDS, slots) uint64."""
        keys = np.zeros((KEY_WORDS, len(slots)), np.uint64)
        for half, column in zip(_halves(keys), self._columns, strict=False):
            half[:] = column if len(column) == 1 else column[slots]
        return keys

    def __setitem__(self, slots: np.ndarray, keys: np.ndarray) -> None:
        """Set the keys of *slots*, (KEY_WORDS, slots) uint64."""
        if not len(slots):
            return
        halves = _halves(np.ascontiguousarray(keys))
        if not self._columns:
            self._columns = [half[:1].copy() for half in halves]
        for number, (half, column) in enumerate(zip(halves, self._columns, strict=True)):
            if len(column) == 1 and (half == column[0]).all():
                continue
            self._columns[number] = self._wide_enough(column, int(half.max()))
            self._columns[number][slots] = half

    def grow(self, by: int) -> None:
        """Make room for as many more."""
        self._room += by
        self._columns = [
            column if len(column) == 1 else np.concatenate((column, np.zeros(by, column.dtype)))
            for column in self._columns
        ]

    def _wide_enough(self, column: np.ndarray, value: int) -> np.ndarray:
        """Return a column with an element for each slot, of a type that *value* fits."""
        if len(column) == 1:
            value = max(value, int(column[0]))
            return np.full(self._room, column[0], np.min_scalar_type(value))
        return column if value <= np.iinfo(column.dtype).max else column.astype(np.min_scalar_type(value))


def _halves(keys: np.ndarray) -> list[np.ndarray]:
    """Return views of *keys*, (KEY_WORDS, n) uint64: the low and the high half of each word, uint32."""
    return [keys[number >> 1].view(np.uint32)[number & 1 :: 2] for number in range(_HALVES)]
