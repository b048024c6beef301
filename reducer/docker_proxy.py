"""Docker's proxy for published ports: a flow to it is one to the container, and its own to the container is none.

The program docker-proxy, one process for each published port, takes connections and makes one of its own to the
container for each; all bytes pass twice. So what it says to the container is left out, and the end that it takes is the
container's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reducer.cells import Cells
from reducer.owners import UNKNOWN_OWNER

if TYPE_CHECKING:
    from reducer.memory import Matched
    from reducer.owners import OwnersView


class DockerProxies:
    """The containers behind the proxies that are known.

    Attributes:
        flows: of proxies to their containers that were left out.

    """

    def __init__(self) -> None:
        self.flows = 0
        self._generation = -1
        self._behind: dict[int, int] = {}  # owners by owner

    def in_use(self) -> np.ndarray:
        """Return the owners that are to be kept."""
        return np.array([*self._behind, *self._behind.values()], np.uint32)

    def see_through(self, matched: Matched, owners: OwnersView) -> Matched:
        """Return the flows with the containers in the proxies' place."""
        if owners.generation != self._generation:
            self._generation = owners.generation
            self._behind = {}
        if not owners.proxies.any():
            return matched
        connector = 2 * np.arange(len(matched.connector)) + matched.connector
        to_container = owners.proxies[matched.owner[connector]]
        for end in connector[to_container].tolist():
            if matched.owner[end ^ 1] != UNKNOWN_OWNER:
                self._behind[int(matched.owner[end])] = int(matched.owner[end ^ 1])
        self.flows += int(np.count_nonzero(to_container))
        stands_for = np.arange(len(owners.owners), dtype=np.uint32)
        stands_for[list(self._behind)] = list(self._behind.values())
        kept = np.repeat(~to_container, 2)
        values = {name: column * kept for name, column in matched.values.items()}
        cells = matched.cells
        counts = kept[cells.place]
        cells = Cells(cells.place[counts], cells.code[counts], cells.amount[counts])
        return replace(matched, owner=stands_for[matched.owner], values=values, cells=cells)
