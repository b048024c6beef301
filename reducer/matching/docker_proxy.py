"""Docker's proxy for published ports: a flow to it is one to the container, and its own to the container is none.

The program docker-proxy, one process for each published port, takes connections and makes one of its own to the
container for each; all bytes pass twice. So what it says to the container is left out, and the end that it takes is the
container's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reducer.columns.cells import Cells
from reducer.knowledge.owners import UNKNOWN_OWNER
from reducer.matching.matched import joined_flows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reducer.knowledge.owners import OwnersView
    from reducer.matching.matched import Matched


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

    def see_through(self, parts: Iterable[Matched], owners: OwnersView) -> Iterator[Matched]:
        """Yield the flows of a window with the containers in the proxies' place; those with proxies last."""
        if owners.generation != self._generation:
            self._generation = owners.generation
            self._behind = {}
        is_proxy = owners.proxies
        if not is_proxy.any():
            yield from parts
            return
        held = []
        for matched in parts:
            of_proxy = is_proxy[matched.owner].reshape(-1, 2).any(axis=1)
            held.append(matched.only(np.flatnonzero(of_proxy)))
            yield matched.only(np.flatnonzero(~of_proxy)) if of_proxy.any() else matched
        yield self._seen_through(joined_flows(held), owners)

    def _seen_through(self, matched: Matched, owners: OwnersView) -> Matched:
        connector = 2 * np.arange(len(matched)) + matched.connector
        to_container = owners.proxies[matched.owner[connector]]
        ends = connector[to_container]
        ends = ends[matched.owner[ends ^ 1] != UNKNOWN_OWNER]
        # Of several processes of a container any will do, but always the same.
        ends = ends[np.argsort(matched.owner[ends ^ 1], kind="stable")]
        self._behind |= zip(matched.owner[ends].tolist(), matched.owner[ends ^ 1].tolist(), strict=True)
        self.flows += int(np.count_nonzero(to_container))
        stands_for = np.arange(len(owners.owners), dtype=np.uint32)
        stands_for[list(self._behind)] = list(self._behind.values())
        kept = np.repeat(~to_container, 2)
        values = {name: column * kept for name, column in matched.values.items()}
        cells = matched.cells
        counts = kept[cells.place]
        cells = Cells(cells.place[counts], cells.code[counts], cells.amount[counts])
        return replace(matched, owner=stands_for[matched.owner], values=values, cells=cells)
