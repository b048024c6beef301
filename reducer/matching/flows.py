"""The memory of flows: their ends, and what each witness said beyond what was emitted, while they live.

Columns by slot; an index of hashes finds the slots of a window's flows at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from reducer.columns.flags import Flags
from reducer.columns.hash_index import HashIndex
from reducer.columns.key_columns import KeyColumns
from reducer.columns.narrow import Narrow

if TYPE_CHECKING:
    from reducer.columns.flags import Flag

# A flow takes about 95 bytes, 28 more where addresses are of IPv6.
MOST_FLOWS = 2_000_000
IDLE_WINDOWS = 10
# Of a flow that a collector which is away may have more to tell of; collectors keep batches about as long.
AWAY_WINDOWS = 120

UNSEEN, WHOLE, BASELINE = range(3)
"""What a flow's end knows: nothing was heard from it; all since the flow began; or only from some point on."""

ConnectorSide = np.int8
CONNECTOR_UNKNOWN = -1


@dataclass(frozen=True)
class Counter:
    """A counter with two witnesses for each direction.

    Attributes:
        name: of the value column.
        sender: the rows' column at the end that sends.
        receiver: the rows' column at the other end.
        of_connection: it exists in the direction from connector to acceptor only, with these as the witnesses.
        dtype: that most balances fit.
        flushed: what only the receiver told is emitted once the flow is silent. Not so packets: an accepting socket
            does not count the SYN-ACK that the other end counts, so one would follow each connection.

    """

    name: str
    sender: str
    receiver: str
    dtype: type[np.signedinteger]
    of_connection: bool = False
    flushed: bool = True


COUNTERS: Final = (
    Counter("bytes", "bytes_sent", "bytes_received", np.int32),
    Counter("packets", "segments_sent", "segments_received", np.int32, flushed=False),
    Counter("resets", "resets_sent", "resets_received", np.int8),
    Counter("opened", "opened", "opened", np.int8, of_connection=True),
    Counter("closed", "closed", "closed", np.int8, of_connection=True),
)


class FlowTable:
    """Flows by slot. Columns "by end" and "by direction" have two elements a flow: 2 * slot + side.

    The sides of a flow are its low and its high endpoint, and a direction has the side of its sender.

    Attributes:
        connector: by slot, int8: the side that connected, or `CONNECTOR_UNKNOWN`.
        last_seen: by slot, uint32: index of the last window that had rows of the flow.
        began: by slot, int64: when the first row of its first, or of its newest, socket came; 0 where not known.
        pending: by slot, bool: the receiver told more than was emitted.
        owner: by end, uint32: the owner heard last; 0 where none was.
        knows: by end, uint8: `UNSEEN`, `WHOLE` or `BASELINE`.
        done: by end, bool: all its sockets of the last window with rows are closed.
        asks: by direction, bool: its sender told of requests that it made.
        sender: by counter and direction: what the sender told, less what was emitted.
        receiver: the same of the receiver.
        untracked: flows that were forgotten early since there were too many.

    """

    def __init__(self, most_flows: int = MOST_FLOWS) -> None:
        self._most_flows = most_flows
        self._index = HashIndex()
        self._free = np.empty(0, np.uint32)
        self._keys = KeyColumns()
        self._of_slots, self._of_ends = Flags(), Flags()
        self.connector = self._of_slots.column(2, ConnectorSide, least=CONNECTOR_UNKNOWN)
        self.pending = self._of_slots.column(1, np.bool_)
        self.last_seen = np.empty(0, np.uint32)
        self.began = np.empty(0, np.int64)
        self.owner = np.empty(0, np.uint32)
        self.knows = self._of_ends.column(2, np.uint8)
        self.done = self._of_ends.column(1, np.bool_)
        self.asks = self._of_ends.column(1, np.bool_)
        self.sender = {counter.name: Narrow(counter.dtype) for counter in COUNTERS}
        self.receiver = {counter.name: Narrow(counter.dtype) for counter in COUNTERS}
        self.untracked = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def slots(self) -> np.ndarray:
        """Return the slots of all flows."""
        return self._index.numbers()

    def bytes_per_flow(self) -> float:
        """Return how many bytes of memory a flow takes, of the room for more its share included."""
        columns = (self.last_seen, self.began, self.owner, self._free, self._of_slots.packed, self._of_ends.packed)
        taken = sum(column.nbytes for column in columns) + self._index.nbytes + self._keys.nbytes
        taken += sum(balances.nbytes for balances in (*self.sender.values(), *self.receiver.values()))
        return taken / max(1, len(self))

    def keys(self, slots: np.ndarray) -> np.ndarray:
        """Return the keys of *slots*, (KEY_WORDS, slots) uint64."""
        return self._keys[slots]

    def hashes(self, slots: np.ndarray) -> np.ndarray:
        """Return the hashes of *slots*, uint64."""
        return self._index.hashes(slots)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the slots of flows, -1 where none is remembered."""
        return self._index.find(hashes)

    def find_or_add(self, hashes: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Return the slots of flows.

        Args:
            hashes: of the flows, each once.
            keys: of the flows, (KEY_WORDS, flows) uint64.

        """
        slots, new = self._index.find_or_add(hashes, self._allocate)
        self._keys[slots[new]] = keys[:, new]
        return slots

    def seen_in(self, window: int) -> None:
        """Take all flows for seen in a window: from then on it counts how long they are idle."""
        slots = self.slots
        self.last_seen[slots] = np.maximum(self.last_seen[slots], window)

    def idle(self, window: int) -> np.ndarray:
        """Return the slots that were idle for `IDLE_WINDOWS`, but not yet for `AWAY_WINDOWS`."""
        slots = self.slots
        idle_for = window - self.last_seen[slots].astype(np.int64)
        found: np.ndarray = slots[(idle_for >= IDLE_WINDOWS) & (idle_for < AWAY_WINDOWS)]
        return found

    def forget(self, window: int, finished: np.ndarray, awaited: np.ndarray) -> np.ndarray:
        """Forget the *finished* slots, those idle for `IDLE_WINDOWS`, and beyond the bound those idle the longest.

        The *awaited* slots are kept, idle or not, but for the bound.

        Returns:
            The slots that were forgotten, whose columns but for owners stay as they are until they are given again.

        """
        keep = np.ones(len(self.last_seen), bool)
        keep[finished] = False
        seen = self.last_seen.astype(np.int64) > window - IDLE_WINDOWS
        seen[awaited] = True
        slots = self.slots
        kept = keep[slots] & seen[slots]
        excess = int(np.count_nonzero(kept)) - self._most_flows
        if excess > 0:
            remaining = np.flatnonzero(kept)
            oldest = np.argpartition(self.last_seen[slots[remaining]], excess - 1)[:excess]
            kept[remaining[oldest]] = False
            self.untracked += excess
        forgotten: np.ndarray = slots[~kept]
        self._index.forget(forgotten)
        self.owner[by_side(forgotten)] = 0  # they need not be kept for it
        self._free = np.concatenate((self._free, forgotten.astype(np.uint32)))
        return forgotten

    def _allocate(self, count: int) -> np.ndarray:
        missing = count - len(self._free)
        if missing > 0:
            self._grow(max(missing, len(self.last_seen) // 16, 1024))
        slots, self._free = self._free[:count].astype(np.int64), self._free[count:]
        self.connector[slots] = CONNECTOR_UNKNOWN
        self.pending[slots] = False
        self.began[slots] = 0
        ends = by_side(slots)
        by_end: list[np.ndarray | Flag | Narrow] = [self.owner, self.knows, self.done, self.asks]
        by_end += [*self.sender.values(), *self.receiver.values()]
        for column in by_end:
            column[ends] = 0
        return slots

    def _grow(self, by: int) -> None:
        size = len(self.last_seen)
        self._free = np.concatenate((self._free, np.arange(size, size + by, dtype=np.uint32)))
        self.last_seen, self.began = _longer(self.last_seen, by), _longer(self.began, by)
        self.owner = _longer(self.owner, 2 * by)
        self._keys.grow(by)
        self._of_slots.grow(by)
        self._of_ends.grow(2 * by)
        for balances in (*self.sender.values(), *self.receiver.values()):
            balances.grow(2 * by)


def by_side(flows: np.ndarray) -> np.ndarray:
    """Return the two indexes by end, or by direction, of each of *flows*."""
    return (2 * flows[:, None] + np.arange(2)).ravel()


def other(values: np.ndarray) -> np.ndarray:
    """Return values by end or direction with the two of each flow exchanged."""
    return np.ascontiguousarray(values.reshape(-1, 2)[:, ::-1]).ravel()


def _longer(column: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate((column, np.zeros(by, column.dtype)))
