"""Sealed windows for the tests of outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.series import VALUE_COLUMNS, EndTable, Level, SealedWindow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WINDOW_NS = 30_000_000_000
START_NS = 1_700_000_010_000_000_000

Row = tuple[dict[str, str], dict[str, str], dict[str, int]]
"""Labels of the source, labels of the destination, and the values that are not 0."""


def sealed_window(ends: EndTable, levels: Mapping[str, Sequence[Row]], number: int = 0) -> SealedWindow:
    """Return the window *number* with these rows."""
    start_ns = START_NS + number * WINDOW_NS
    return SealedWindow(start_ns, start_ns + WINDOW_NS, [_level(ends, *level) for level in levels.items()], ends)


def _level(ends: EndTable, name: str, rows: Sequence[Row]) -> Level:
    def indexes(side: int) -> np.ndarray:
        return np.array([ends.intern(tuple(sorted(row[side].items()))) for row in rows], np.uint32)

    values = {column: np.array([row[2].get(column, 0) for row in rows], np.int64) for column in VALUE_COLUMNS}
    return Level(name, indexes(0), indexes(1), values)
