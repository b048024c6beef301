"""Adds up rows of the same socket, by the rules in `intake.columns`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from intake.columns import stacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intake.columns import Column, Columns


def merge_rows(table: Sequence[Column], parts: Sequence[Columns]) -> Columns:
    """Return the rows of *parts*, oldest first, with rows of equal keys made one, where the first of them stood.

    Args:
        table: the columns.
        parts: which all have these columns.

    """
    columns = {column.name: np.concatenate([part[column.name] for part in parts]) for column in table}
    if not len(columns["socket"]):
        return columns
    keys = np.stack([part for column in table if column.merge == "key" for part in _parts(columns[column.name])])
    order = np.lexsort(keys)  # stable: rows of a group stay in order of time
    ordered = keys[:, order]
    changes = np.any(ordered[:, 1:] != ordered[:, :-1], axis=0)
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    ends = np.concatenate((starts[1:], [len(order)])) - 1
    by_first = np.argsort(order[starts])
    return {column.name: _reduce(column, columns[column.name][order], starts, ends)[by_first] for column in table}


def merge_some(table: Sequence[Column], columns: Columns, which: np.ndarray) -> Columns:
    """Return *columns* with those of the rows *which* made one that have equal keys; these come last."""
    if not which.any():
        return columns
    merged = merge_rows(table, [{name: column[which] for name, column in columns.items()}])
    return stacked([{name: column[~which] for name, column in columns.items()}, merged])


def _parts(key: np.ndarray) -> list[np.ndarray]:
    """Return a key column as one or two columns of u64."""
    if key.dtype.kind != "V":
        return [key.astype(np.uint64)]
    halves = np.ascontiguousarray(key).view(np.uint64).reshape(-1, 2)
    return [halves[:, 0], halves[:, 1]]


def _reduce(column: Column, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Reduce each group of *rows* to one element of the column's own type; sums stop at its greatest value."""
    reduced: np.ndarray
    match column.merge:
        case "key" | "last":
            reduced = rows[ends]
        case "sum":
            reduced = np.minimum(np.add.reduceat(rows, starts, dtype=np.uint64), np.iinfo(column.dtype).max)
        case "max":
            reduced = np.maximum.reduceat(rows, starts)
        case "least":
            unknown = np.iinfo(column.dtype).max
            reduced = np.minimum.reduceat(np.where(rows == 0, unknown, rows), starts)
            reduced = np.where(reduced == unknown, 0, reduced)
    return reduced.astype(column.dtype, copy=False)
