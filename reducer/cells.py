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

from reducer.series import VALUE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

_BIN_BITS = 16
_BIN_MASK = (1 << _BIN_BITS) - 1
_KIND_SHIFT, _PLACE_SHIFT = np.uint64(48), np.uint64(_BIN_BITS)
_PLACE_MASK = np.uint64(0xFFFFFFFF)


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
    return (np.asarray(bins).astype(np.uint32) | np.uint32(kind << _BIN_BITS)).astype(np.uint32)


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


def added_up(cells: Cells) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[CellKind, Bins]]:
    """Return cells of equal place and code as one.

    Returns:
        By value column the places, each once, and the amounts; and by kind all other cells.

    """
    key = cells.code.astype(np.uint64) >> _PLACE_SHIFT << _KIND_SHIFT
    key |= cells.place.astype(np.uint64) << _PLACE_SHIFT | cells.code & np.uint64(_BIN_MASK)
    sums = pl.DataFrame({"key": key, "amount": cells.amount}).group_by("key").agg(pl.col("amount").sum()).sort("key")
    key, amount = sums["key"].to_numpy(), sums["amount"].to_numpy()
    place = (key >> _PLACE_SHIFT & _PLACE_MASK).astype(np.int64)
    bins = (key & np.uint64(_BIN_MASK)).astype(np.int64)
    borders = np.searchsorted(key, np.arange(max(CellKind) + 2).astype(np.uint64) << _KIND_SHIFT)
    parts = {kind: slice(int(borders[kind]), int(borders[kind + 1])) for kind in CellKind}
    dense = parts.pop(CellKind.COLUMN)
    columns = {}
    for column in np.unique(bins[dense]).tolist():
        these = np.flatnonzero(bins[dense] == column) + dense.start
        columns[VALUE_COLUMNS[column]] = (place[these], amount[these])
    sparse = {
        kind: Bins(place[part], bins[part], amount[part]) for kind, part in parts.items() if part.stop > part.start
    }
    return columns, sparse
