"""Adds up directed flows by the pair of their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.cells import NO_CELLS, Cells, added_up
from reducer.series import VALUE_COLUMNS, Level, nothing

if TYPE_CHECKING:
    from collections.abc import Mapping

_HAS_CELLS = "has_cells"


def roll_up(
    name: str, source: np.ndarray, dest: np.ndarray, values: Mapping[str, np.ndarray], cells: Cells = NO_CELLS
) -> Level:
    """Return a level's series, by ascending pair of ends; those without any value are left out.

    Args:
        name: of the level.
        source: end of each row, uint32.
        dest: the same.
        values: some of the `VALUE_COLUMNS`, int64; the others are zero.
        cells: what few rows have besides, with rows as places.

    """
    pair = source.astype(np.uint64) << np.uint64(32) | dest
    values = dict(values)
    if len(cells):
        values[_HAS_CELLS] = np.zeros(len(pair), np.int64)
        values[_HAS_CELLS][cells.place] = 1
    series = (
        pl.LazyFrame({"pair": pair, **values})
        .group_by("pair")
        .agg([_added(column) for column in values])
        .filter(pl.any_horizontal(pl.exclude("pair") != 0))
        .sort("pair")
        .collect()
    )
    row_pair = pair
    pair = series["pair"].to_numpy()
    columns = {name: series[name].to_numpy() for name in VALUE_COLUMNS if name in values}
    of_series = Cells(np.searchsorted(pair, row_pair[cells.place]), cells.code, cells.amount)
    sparse, bins = added_up(of_series)
    for column, (rows, amounts) in sparse.items():
        columns[column] = np.zeros(len(pair), np.int64)
        columns[column][rows] = amounts
    columns = {column: columns.get(column, nothing(len(pair))) for column in VALUE_COLUMNS}
    return Level(name, (pair >> np.uint64(32)).astype(np.uint32), pair.astype(np.uint32), columns, bins)


def _added(column: str) -> pl.Expr:
    values = pl.col(column)
    if column == "min_rtt_us":
        return values.filter(values != 0).min().fill_null(0)
    return values.sum()
