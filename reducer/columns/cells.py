"""Sparse counts: what few series have, or have in many bins.

A cell is a place (a direction, later a series), a code and an amount; a code is a kind and a bin of it. The amounts of
`CellKind.COLUMN` belong to the value column whose index is the bin: they are sparse only until series are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.columns.value_columns import VALUE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BIN_BITS = 16
_BIN_MASK = (1 << BIN_BITS) - 1
_MOST_TABLE_ELEMENTS_A_CELL = 8
# numpy.bincount adds up doubles.
_MOST_EXACT = 1 << 53


class CellKind(IntEnum):
    """What a cell counts, and what its bin is."""

    COLUMN = 0
    # Readings by bin of latency, as BinKind in intake.proto has them.
    TCP_RTT = 1
    TCP_CONNECT = 2
    DNS_CLIENT = 3
    DNS_SERVER = 4
    HTTP_CLIENT = 5
    HTTP_SERVER = 6
    # Responses by status code, 0 where it is none.
    HTTP_STATUS = 7
    # By reason, an index into `SealedWindow.drop_reasons`.
    DROPPED_PACKETS = 8
    DROPPED_BYTES = 9


@dataclass(frozen=True)
class Cells:
    """Cells, in columns of one length.

    Attributes:
        place: int64.
        code: uint32, as `code_of` makes it.
        amount: int64.

    """

    place: np.ndarray
    code: np.ndarray
    amount: np.ndarray

    def __len__(self) -> int:
        return len(self.place)


@dataclass(frozen=True)
class Bins:
    """Cells of one kind: `place` (int64) ascending, and by place the `bin` (int64) ascending, each pair once."""

    place: np.ndarray
    bin: np.ndarray
    amount: np.ndarray

    def __len__(self) -> int:
        return len(self.place)


NO_CELLS = Cells(np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.int64))
NO_BINS = Bins(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))


def code_of(kind: CellKind, bins: np.ndarray | int) -> np.ndarray:
    """Return the codes, uint32, of *bins* of a kind."""
    return (np.asarray(bins).astype(np.uint32) | np.uint32(kind << BIN_BITS)).astype(np.uint32)


def column_code(column: str) -> int:
    """Return the code of a value column."""
    return VALUE_COLUMNS.index(column)


def cells_of(place: np.ndarray, code: np.ndarray | int, amount: np.ndarray) -> Cells:
    """Return the cells of these places whose amount is not 0; one code may stand for all."""
    some = np.flatnonzero(amount)
    codes = np.broadcast_to(np.asarray(code, np.uint32), len(amount))
    return Cells(place[some].astype(np.int64), codes[some], amount[some].astype(np.int64))


def joined_cells(parts: Sequence[Cells]) -> Cells:
    """Return the cells of all *parts*."""
    if not parts:
        return NO_CELLS
    names = ("place", "code", "amount")
    return Cells(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def cells_of_bins(bins: Mapping[CellKind, Bins]) -> Cells:
    """Return the cells that bins by kind are of."""
    return joined_cells([Cells(each.place, code_of(kind, each.bin), each.amount) for kind, each in bins.items()])


def added_up(cells: Cells) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[CellKind, Bins]]:
    """Return cells of equal place and code as one.

    Returns:
        By value column the places, each once, and the amounts; and by kind all other cells.

    """
    kinds = cells.code >> BIN_BITS
    added = {}
    for kind in np.flatnonzero(np.bincount(kinds)).tolist():
        these = np.flatnonzero(kinds == kind)
        added[CellKind(kind)] = _bins(cells.place[these], cells.code[these] & _BIN_MASK, cells.amount[these])
    dense, columns = added.pop(CellKind.COLUMN, NO_BINS), {}
    for column in np.unique(dense.bin).tolist():
        of_column = dense.bin == column
        columns[VALUE_COLUMNS[column]] = (dense.place[of_column], dense.amount[of_column])
    return columns, added


def _bins(place: np.ndarray, bins: np.ndarray, amount: np.ndarray) -> Bins:
    """Return the sums of cells of one kind: by one table of all places and bins where that is small, else sorted."""
    first = int(bins.min())
    width = int(bins.max()) - first + 1
    size = (int(place.max()) + 1) * width
    if size <= _MOST_TABLE_ELEMENTS_A_CELL * len(place) and int(amount.max()) * len(amount) <= _MOST_EXACT:
        table = np.bincount(place * width + (bins - first), amount, size)
        some = np.flatnonzero(table)
        return Bins(some // width, some % width + first, table[some].astype(np.int64))
    key = place.astype(np.uint64) << np.uint64(BIN_BITS) | bins
    sums = pl.DataFrame({"key": key, "amount": amount}).group_by("key").agg(pl.col("amount").sum()).sort("key")
    key = sums["key"].to_numpy()
    return Bins(
        (key >> np.uint64(BIN_BITS)).astype(np.int64),
        (key & np.uint64(_BIN_MASK)).astype(np.int64),
        sums["amount"].to_numpy(),
    )
