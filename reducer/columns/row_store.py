"""The rows of one table of an open window, in columns that grow.

Each row is copied once, when it comes, from the message to the columns of all rows. Columns without any value take no
memory. Beyond a number of rows, rows of the same socket and owner are added up by the rules of the table, in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from intake.columns import constant, is_constant
from reducer.columns.hash_index import HashIndex

if TYPE_CHECKING:
    from intake.columns import Column, Columns

# So many rows are added up at a time: what is in between stays in the processor's cache.
_FOLD_ROWS = 1 << 17
# What all rows together may say of a counter: 2^56, that is 72 petabytes in a window. No sum of it leaves int64.
MOST_SUM = 1 << 56
_LEAST_ROWS = 1_024


class RowStore:
    """Rows with the columns of *table*, in the order in which they came; *seed* of their hashes must be secret.

    Attributes:
        rows: how many there are; of a socket that is added up, one for each of its owners.

    """

    def __init__(self, table: tuple[Column, ...], seed: int) -> None:
        self.rows = 0
        self._table = table
        self._seed = seed
        self._room = 0
        self._columns: dict[str, np.ndarray] = {}
        self._sums: dict[str, int] = {}
        self._folded = 0
        self._index: HashIndex | None = None
        self._is_shared = False

    def add(self, rows: Columns, most: int = MOST_SUM) -> int:
        """Add rows, with all columns of the table.

        Returns:
            The greatest sum of a counter of theirs; -1, and none are added, if a sum with the rows that are there is
            beyond `MOST_SUM`, or beyond half of that where these alone are beyond *most*.

        """
        count = len(rows["socket"])
        of_rows = {
            column.name: int(rows[column.name].sum())
            for column in self._table
            if column.merge == "sum" and column.dtype == np.uint64 and not is_constant(rows[column.name])
        }
        greatest = max(of_rows.values(), default=0)
        sums = {name: self._sums.get(name, 0) + added for name, added in of_rows.items()}
        if max(sums.values(), default=0) > (MOST_SUM // 2 if greatest > most else MOST_SUM):
            return -1
        self._sums |= sums
        self._make_room(self.rows + count)
        here = slice(self.rows, self.rows + count)
        for column in self._table:
            told = rows[column.name]
            # Many columns are one element for all rows, which mostly is 0.
            if is_constant(told):
                told = told[:1]
                if not any(told.tobytes()):
                    continue
            if column.name not in self._columns:
                self._columns[column.name] = _zeros(column, self._room)
            self._columns[column.name][here] = told
        self.rows += count
        return greatest

    def columns(self) -> Columns:
        """Return the rows; they change no more when others are added."""
        self._is_shared = True
        return {
            column.name: self._columns[column.name][: self.rows]
            if column.name in self._columns
            else constant(self.rows, column.dtype)
            for column in self._table
        }

    def fold(self, least: int) -> None:
        """Add up the rows that came since, if there are at *least* so many."""
        if self.rows - self._folded < least:
            return
        if self._is_shared:
            self._columns = {name: column.copy() for name, column in self._columns.items()}
            self._is_shared = False
        if self._index is None:
            self._index = HashIndex(self.rows)
        for begin in range(self._folded, self.rows, _FOLD_ROWS):
            self._fold_some(self._index, slice(begin, min(begin + _FOLD_ROWS, self.rows)))
        self.rows = self._folded

    def _fold_some(self, index: HashIndex, part: slice) -> None:
        """Add up some rows; a row's place is never after the row."""
        place, _ = index.find_or_add(self._hashes(part), self._new_places)
        for column in self._table:
            if column.name in self._columns:
                rows = self._columns[column.name]
                told = rows[part].copy()
                rows[part] = np.zeros((), column.dtype)
                _merge(column, rows, place, told)

    def _new_places(self, count: int) -> np.ndarray:
        self._folded += count
        return np.arange(self._folded - count, self._folded)

    def _hashes(self, part: slice) -> np.ndarray:
        """Return a hash of what must be equal in rows that are added up: their keys, and who owns them."""
        keys: dict[str, np.ndarray] = {}
        for column in self._table:
            if column.name in self._columns and (column.merge == "key" or column.name == "process"):
                key = self._columns[column.name][part]
                if column.dtype.kind == "V":
                    keys |= {f"{column.name}_{word}": key.view(np.uint64)[word::2] for word in range(2)}
                else:
                    keys[column.name] = key
        return pl.DataFrame(keys).hash_rows(seed=self._seed).to_numpy()

    def _make_room(self, rows: int) -> None:
        if rows <= self._room:
            return
        self._room = max(rows, 2 * self._room, _LEAST_ROWS)
        for column in self._table:
            if column.name in self._columns:
                longer = _zeros(column, self._room)
                longer[: self.rows] = self._columns[column.name][: self.rows]
                self._columns[column.name] = longer


def _zeros(column: Column, rows: int) -> np.ndarray:
    # Of 16 bytes numpy would write each element; zeros of words it gets from the kernel.
    return np.zeros(rows * column.dtype.itemsize, np.uint8).view(column.dtype)


def _merge(column: Column, merged: np.ndarray, place: np.ndarray, told: np.ndarray) -> None:
    """Merge what rows *told* into the elements of *merged* at each one's place; sums stop at the greatest value."""
    match column.merge:
        case "key" | "last":
            merged[place] = told  # of several the last stays
        case "max":
            np.maximum.at(merged, place, told)
        case "least":
            some = np.flatnonzero(told)
            place, told = place[some], told[some]
            unknown = np.flatnonzero(merged[place] == 0)
            merged[place[unknown]] = np.iinfo(column.dtype).max
            np.minimum.at(merged, place, told)
        case "sum":
            _add(merged, place, told)


def _add(merged: np.ndarray, place: np.ndarray, told: np.ndarray) -> None:
    greatest = np.iinfo(merged.dtype).max
    if merged.itemsize == np.dtype(np.uint64).itemsize:  # all together are within `MOST_SUM`
        np.add.at(merged, place, told)
    elif int(told.sum(dtype=np.uint64)) + int(merged.max()) <= greatest:
        some = np.flatnonzero(told)
        np.add.at(merged, place[some], told[some])
    else:
        sums = merged.astype(np.uint64)
        np.add.at(sums, place, told.astype(np.uint64))
        merged[:] = np.minimum(sums, greatest)
