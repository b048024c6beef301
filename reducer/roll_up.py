"""Adds up directed flows by the pair of their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.series import VALUE_COLUMNS, Level

if TYPE_CHECKING:
    from collections.abc import Mapping


def roll_up(name: str, source: np.ndarray, dest: np.ndarray, values: Mapping[str, np.ndarray]) -> Level:
    """Return a level's series, by ascending pair of ends; those without any value are left out.

    Args:
        name: of the level.
        source: end of each row, uint32.
        dest: the same.
        values: some of the `VALUE_COLUMNS`, int64; the others are zero.

    """
    pair = source.astype(np.uint64) << np.uint64(32) | dest
    series = (
        pl.LazyFrame({"pair": pair, **values})
        .group_by("pair")
        .agg([_added(column) for column in values])
        .filter(pl.any_horizontal(pl.exclude("pair") != 0))
        .sort("pair")
        .collect()
    )
    pair = series["pair"].to_numpy()
    columns = {
        column: series[column].to_numpy() if column in values else np.zeros(len(pair), np.int64)
        for column in VALUE_COLUMNS
    }
    return Level(name, (pair >> np.uint64(32)).astype(np.uint32), pair.astype(np.uint32), columns)


def _added(column: str) -> pl.Expr:
    values = pl.col(column)
    if column == "min_rtt_us":
        return values.filter(values != 0).min().fill_null(0)
    return values.sum()
