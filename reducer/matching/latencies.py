"""How often each round trip and each connect took how long; what took requests how long is in requests.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.columns.cells import CellKind, Cells, cells_of, code_of, joined_cells
from reducer.columns.distributions import bin_of_us

if TYPE_CHECKING:
    from reducer.matching.grouping import Grouped
    from reducer.matching.ports import OwnFlows


def latencies(grouped: Grouped, forward: np.ndarray, own: OwnFlows) -> Cells:
    """Return how often each round trip and each connect took how long, by direction; *own* come after the others.

    A row is taken for as many readings of their mean.
    """
    rows, direction = grouped.rows, grouped.end.copy()
    direction[own.rows] = len(forward) + own.direction
    parts = []
    for kind, name in ((CellKind.TCP_RTT, "srtt"), (CellKind.TCP_CONNECT, "connect")):
        some = np.flatnonzero(rows[f"{name}_count"])
        if kind is CellKind.TCP_CONNECT:
            some = some[forward[grouped.end[some]]]
        count = rows[f"{name}_count"][some]
        bins = bin_of_us(rows[f"{name}_sum_us"][some] / count)
        parts.append(cells_of(direction[some], code_of(kind, bins), count))
    return joined_cells(parts)
