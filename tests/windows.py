"""Sealed windows for the tests of outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.columns.cells import Bins, CellKind
from reducer.columns.series import FLOWS, EndTable, FlowLevel, Level, SealedWindow
from reducer.columns.value_columns import VALUE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WINDOW_NS = 30_000_000_000
START_NS = 1_700_000_010_000_000_000

PORTS = ("protocol", "source_port", "dest_port")
"""What rows of the level of flows may have besides."""

Row = tuple[dict[str, str], dict[str, str], dict[str | tuple[CellKind, int], int]]
"""Labels of the source, labels of the destination, and the values that are not 0: of columns, and of kinds and bins."""


def sealed_window(
    ends: EndTable, levels: Mapping[str, Sequence[Row]], number: int = 0, drop_reasons: Sequence[str] = ()
) -> SealedWindow:
    """Return the window *number* with these rows, by ascending ends as the pipeline gives them."""
    start_ns = START_NS + number * WINDOW_NS
    made = [_level(ends, *level) for level in levels.items()]
    return SealedWindow(start_ns, start_ns + WINDOW_NS, made, ends, drop_reasons=drop_reasons)


def _level(ends: EndTable, name: str, rows: Sequence[Row]) -> Level:
    def indexes(side: int) -> np.ndarray:
        return np.array([ends.intern(tuple(sorted(row[side].items()))) for row in rows], np.uint32)

    source, dest = indexes(0), indexes(1)
    order = np.lexsort((dest, source))
    rows = [rows[index] for index in order]
    values = {column: np.array([row[2].get(column, 0) for row in rows], np.int64) for column in VALUE_COLUMNS}
    cells = [
        (row, *key, amount)
        for row, told in enumerate(rows)
        for key, amount in told[2].items()
        if key not in (*values, *PORTS)
    ]
    bins = {}
    for kind in CellKind:
        of_kind = sorted((row, number, amount) for row, of, number, amount in cells if of is kind)
        if of_kind:
            bins[kind] = Bins(*(np.array(column, np.int64) for column in zip(*of_kind, strict=True)))
    level = (name, source[order], dest[order], values, bins)
    if name != FLOWS:
        return Level(*level)
    return FlowLevel(*level, *(np.array([row[2].get(column, 0) for row in rows], np.int64) for column in PORTS))
