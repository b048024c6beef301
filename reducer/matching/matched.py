"""The flows of a window after their two ends are matched, some of them at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reducer.columns.cells import Cells, joined_cells
from reducer.matching.flows import by_side

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Matched:
    """Flows of a window; arrays by end or direction have two elements a flow, as in `FlowTable`.

    A flow whose ports several owners used is there once for each pair of them.

    Attributes:
        owner: by end, uint32.
        special: by end, uint8: `Special`.
        key: (KEY_WORDS, flows) uint64.
        connector: by flow, int8: the side that connected, as far as that is known.
        began_ns: by flow, int64: when it began; 0 where that is not known.
        told_ns: by flow, int64: when its last row of the window came, of those that tell of a connection's beginning
            that; 0 where it has none.
        values: by direction, int64; value columns without any value are left out.
        cells: by direction, what few of them have.

    """

    owner: np.ndarray
    special: np.ndarray
    key: np.ndarray
    connector: np.ndarray
    began_ns: np.ndarray
    told_ns: np.ndarray
    values: dict[str, np.ndarray]
    cells: Cells

    def __len__(self) -> int:
        return len(self.connector)

    def only(self, flows: np.ndarray) -> Matched:
        """Return these flows, given by ascending index."""
        at = by_side(flows)
        place = np.full(2 * len(self), -1)
        place[at] = np.arange(len(at))
        cells = place[self.cells.place]
        kept = cells >= 0
        return Matched(
            *(self.owner[at], self.special[at], self.key[:, flows]),
            *(self.connector[flows], self.began_ns[flows], self.told_ns[flows]),
            {name: column[at] for name, column in self.values.items()},
            Cells(cells[kept], self.cells.code[kept], self.cells.amount[kept]),
        )


def joined_flows(parts: Sequence[Matched]) -> Matched:
    """Return the flows of all *parts*, of which there is at least one."""
    names = {name: None for part in parts for name in part.values}
    first = np.cumsum([0, *(2 * len(part) for part in parts)]).tolist()
    cells = [
        Cells(part.cells.place + begin, part.cells.code, part.cells.amount)
        for part, begin in zip(parts, first, strict=False)
    ]
    return Matched(
        np.concatenate([part.owner for part in parts]),
        np.concatenate([part.special for part in parts]),
        np.concatenate([part.key for part in parts], axis=1),
        np.concatenate([part.connector for part in parts]),
        np.concatenate([part.began_ns for part in parts]),
        np.concatenate([part.told_ns for part in parts]),
        {
            name: np.concatenate([part.values.get(name, np.zeros(2 * len(part), np.int64)) for part in parts])
            for name in names
        },
        joined_cells(cells),
    )
