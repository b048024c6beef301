"""Adds up directed flows by the pair of their ends, and what was added up of some with that of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.columns.cells import NO_CELLS, Cells, added_up, cells_of_bins, joined_cells
from reducer.columns.series import Level
from reducer.columns.value_columns import VALUE_COLUMNS, is_nothing, nothing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HAS_CELLS = "has_cells"
# So many series of parts, 100 bytes each, may wait to be added up: to do so costs as much as to roll them up.
LEAST_JOINED = 1 << 17


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


def rolled_up(level: Level, source: np.ndarray, dest: np.ndarray) -> Level:
    """Return what the series of a level add up to where their ends are these."""
    values = {name: column for name, column in level.values.items() if not is_nothing(column)}
    return roll_up(level.name, source, dest, values, cells_of_bins(level.bins))


def joined_levels(levels: Sequence[Level]) -> Level:
    """Return the series of all *levels*, which have one name, as one level."""
    if len(levels) == 1:
        return levels[0]
    names = [name for name in VALUE_COLUMNS if not all(is_nothing(level.values[name]) for level in levels)]
    first = np.cumsum([0, *(len(level.source) for level in levels)]).tolist()
    parts = [cells_of_bins(level.bins) for level in levels]
    cells = [Cells(part.place + begin, part.code, part.amount) for part, begin in zip(parts, first, strict=False)]
    return roll_up(
        levels[0].name,
        np.concatenate([level.source for level in levels]),
        np.concatenate([level.dest for level in levels]),
        {name: np.concatenate([level.values[name] for level in levels]) for name in names},
        joined_cells(cells),
    )


class LevelSum:
    """Adds up the levels of a window's parts: beside the sum stand no more series than it has, or `LEAST_JOINED`."""

    def __init__(self) -> None:
        self._levels: list[Level] = []

    def add(self, level: Level) -> None:
        """Add the level of a part."""
        self._levels.append(level)
        first, *others = self._levels
        if sum(len(each.source) for each in others) > max(len(first.source), LEAST_JOINED):
            self._levels = [joined_levels(self._levels)]

    def take(self) -> Level:
        """Return the sum, of one part or more, and begin anew."""
        levels, self._levels = self._levels, []
        return joined_levels(levels)


def _added(column: str) -> pl.Expr:
    values = pl.col(column)
    if column == "min_rtt_us":
        return values.filter(values != 0).min().fill_null(0)
    return values.sum()
