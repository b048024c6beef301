"""Packets that kernels dropped: by direction of their flow where that is known, else by address, and by reason.

A drop belongs to the direction from the packet's source; it tells of no owner, and makes no flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reducer.columns.cells import CellKind, Cells, cells_of, code_of, joined_cells
from reducer.columns.key_columns import KEY_WORDS
from reducer.knowledge.owners import UNKNOWN_OWNER
from reducer.matching.flows import by_side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ebpf_net.v1 import intake_pb2

    from reducer.matching.flows import FlowTable
    from reducer.matching.grouping import Hashed

# The kernel has about 120.
MOST_REASONS = 1_024
MOST_REASON_NUMBER = 1_023
LONGEST_REASON = 64
MOST_SESSIONS = 65_536
UNKNOWN_REASON = "UNKNOWN"


class DropReasons:
    """Interns the names of reasons, which each session numbers by its own kernel.

    Attributes:
        names: by index; the first stands for reasons that no name is known of, or for which there is no room.

    """

    def __init__(self) -> None:
        self.names = [UNKNOWN_REASON]
        self._index = {UNKNOWN_REASON: 0}
        self._of_session: dict[bytes, np.ndarray] = {}

    def learn(self, session: bytes, reasons: Iterable[intake_pb2.DropReason]) -> None:
        """Note what numbers of a session mean; those that were told before stay."""
        told = {reason.number: self._intern(reason.name) for reason in reasons if reason.number <= MOST_REASON_NUMBER}
        if not told:
            return
        known = self._of_session.pop(session, np.zeros(0, np.uint16))
        lookup = np.zeros(max(len(known), max(told) + 1), np.uint16)
        lookup[: len(known)] = known
        lookup[list(told)] = list(told.values())
        self._of_session[session] = lookup
        if len(self._of_session) > MOST_SESSIONS:
            del self._of_session[next(iter(self._of_session))]

    def of(self, session: bytes, numbers: np.ndarray) -> np.ndarray:
        """Return the indexes, uint16, of a session's *numbers*."""
        lookup = self._of_session.get(session)
        if lookup is None:
            return np.zeros(len(numbers), np.uint16)
        found: np.ndarray = np.where(numbers < len(lookup), lookup[np.minimum(numbers, len(lookup) - 1)], 0)
        return found.astype(np.uint16)

    def _intern(self, name: str) -> int:
        name = name[:LONGEST_REASON] or UNKNOWN_REASON
        if name not in self._index and len(self.names) < MOST_REASONS:
            self._index[name] = len(self.names)
            self.names.append(name)
        return self._index.get(name, 0)


@dataclass(frozen=True)
class Dropped:
    """What was dropped in a window.

    Attributes:
        cells: by direction of the window's flows, and after them of those here.
        keys: (KEY_WORDS, flows) of the flows that are not among the window's.
        owner: by end of these, uint32, as far as their flow is remembered.

    """

    cells: Cells
    keys: np.ndarray
    owner: np.ndarray

    def after(self, more: int, directions: int) -> Cells:
        """Return the cells with as many *more* directions between the window's and those here."""
        place = self.cells.place + np.where(self.cells.place < directions, 0, more)
        return Cells(place, self.cells.code, self.cells.amount)


def dropped(told: Hashed | None, flows: FlowTable, slots: np.ndarray) -> Dropped:
    """Return what was dropped, given the *slots* of the window's flows, in their order."""
    if told is None or not len(told.hashes):
        return Dropped(
            cells_of(np.empty(0), 0, np.empty(0)), np.empty((KEY_WORDS, 0), np.uint64), np.empty(0, np.uint32)
        )
    rows = told.rows
    different, first, which = np.unique(told.hashes, return_index=True, return_inverse=True)
    slot = flows.find(different)
    order = np.argsort(slots)
    place = np.searchsorted(slots[order], slot)
    flow = np.append(order, -1)[place]
    flow[np.append(slots, -1)[flow] != slot] = -1
    others = np.flatnonzero(flow < 0)
    flow[others] = len(slots) + np.arange(len(others))
    remembered = slot[others] >= 0
    owner = np.full(2 * len(others), UNKNOWN_OWNER, np.uint32)
    owner[np.repeat(remembered, 2)] = flows.owner[by_side(slot[others[remembered]])]
    direction = 2 * flow[which] + told.side
    cells = [
        cells_of(direction, code_of(kind, rows["reason"]), rows[column])
        for kind, column in ((CellKind.DROPPED_PACKETS, "packets"), (CellKind.DROPPED_BYTES, "bytes"))
    ]
    return Dropped(joined_cells(cells), told.keys(first[others]), owner)
