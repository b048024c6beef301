"""What flows there are right now: the rows since the last look, matched and named as in a window, without memory."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from intake.clock import SECOND_NS
from reducer.matching.flows import COUNTERS, other
from reducer.matching.grouping import PORTS, grouped
from reducer.matching.match import (
    Ends,
    add_up,
    by_protocol,
    directed_values,
    forward_directions,
    guess_connector,
    special_ends,
    witnesses,
)
from reducer.naming.name import Names
from reducer.naming.parties import Party
from reducer.rolling_up.roll_up import roll_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intake.columns import Columns
    from reducer.knowledge.owners import OwnersView

# Rows that wait for a look beyond this push the oldest ones out: nobody looks.
MOST_ROWS = 500_000
# A look that finds no rows shows what the one before did, this many times: polls and looks are not in step.
_REPEATED_LOOKS = 2


@dataclass(frozen=True)
class Pair:
    """Two workloads, and what the first sent to the second.

    Attributes:
        source: workload that sent.
        dest: workload that it was sent to.
        bytes_per_second: payload.
        rtt_us: average of the sender's smoothed round trip times, microseconds; None where none was measured.
        retransmits: segments sent again since the last look.
        connections: TCP connections that did anything since the last look, on the side of the source if that
            connected; and pairs of UDP sockets in which the source sent.

    """

    source: str
    dest: str
    bytes_per_second: float
    rtt_us: float | None
    retransmits: int
    connections: int


class LiveView:
    """Keeps rows from look to look; `Pipeline.live` may be set to it."""

    def __init__(self, view_owners: Callable[[], OwnersView]) -> None:
        self._view_owners = view_owners
        self._names = Names()
        self._seed = secrets.randbits(64)
        self._tables: list[Columns] = []
        self._rows = 0
        self._newest_ns = 0
        self._looked_ns: int | None = None
        self._shown: list[Pair] = []
        self._empty_looks = 0

    def take(self, event_time_ns: int, rows: Columns) -> None:
        """Take rows, with owners as `process`."""
        self._tables.append(rows)
        self._rows += len(rows["socket"])
        self._newest_ns = max(self._newest_ns, event_time_ns)
        while self._rows > MOST_ROWS:
            self._rows -= len(self._tables.pop(0)["socket"])

    def owners(self) -> Iterator[np.ndarray]:
        """Yield the owners that waiting rows refer to."""
        yield from (table["process"] for table in list(self._tables))

    def look(self, most: int) -> list[Pair]:
        """Return the pairs that moved the most bytes since the last look, *most* of them."""
        owners = self._view_owners()
        tables, self._tables, self._rows = self._tables, [], 0
        if tables:
            elapsed_ns = self._newest_ns - self._looked_ns if self._looked_ns is not None else 0
            self._shown = self._pairs(tables, owners, elapsed_ns / SECOND_NS if elapsed_ns > 0 else 1.0, most)
            self._looked_ns = self._newest_ns
            self._empty_looks = 0
        else:
            self._empty_looks += 1
            if self._empty_looks > _REPEATED_LOOKS:
                self._shown = []
        return self._shown[:most]

    def _pairs(self, tables: list[Columns], owners: OwnersView, elapsed_s: float, most: int) -> list[Pair]:
        flows = grouped(tables, owners, self._seed)
        ends = add_up(flows, owners)
        keys = flows.keys
        connector = guess_connector(ends.connector, keys[PORTS])
        values = directed_values(ends, connector, _senders_word(ends, forward_directions(connector)))
        values = by_protocol(values, keys[PORTS])
        known = _Known(owners)
        self._names.begin_window(known)
        identity = self._names.identities(ends.owner, special_ends(keys), known)
        names = [dict(labels)["workload.name"] for labels in self._names.ends.labels]
        workloads, of_end = np.unique(names, return_inverse=True)
        workload = of_end[identity].astype(np.uint32)
        level = roll_up("live", workload, other(workload), values)
        moved = level.values
        payload = moved["bytes"] + moved["udp_bytes"]
        active = moved["active"] + moved["udp_active"]
        top = np.lexsort((-active, -payload))[:most].tolist()
        return [
            Pair(
                source=str(workloads[level.source[row]]),
                dest=str(workloads[level.dest[row]]),
                bytes_per_second=int(payload[row]) / elapsed_s,
                rtt_us=int(moved["srtt_sum_us"][row]) / count if (count := int(moved["srtt_count"][row])) else None,
                retransmits=int(moved["retransmits"][row]),
                connections=int(active[row]),
            )
            for row in top
        ]


@dataclass(frozen=True)
class _Known:
    """Owners as the parties that they are where nothing else is known."""

    owners: OwnersView

    @property
    def generation(self) -> int:
        return self.owners.generation

    def __len__(self) -> int:
        return len(self.owners.owners)

    def revisions(self) -> np.ndarray:
        return self.owners.revision

    def describe(self, number: int) -> Party:
        return Party(self.owners.owners[number])


def _senders_word(ends: Ends, forward: np.ndarray) -> dict[str, np.ndarray]:
    """Return the counters that have two witnesses, by the sender where it has rows, else by the receiver."""
    told = witnesses(ends, forward)
    sender_spoke = ends.sockets > 0
    return {counter.name: np.where(sender_spoke, *told[counter.name]) for counter in COUNTERS if counter.name in told}
