"""What the pipeline gives the outputs: the series of one window, as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from intake.columns import DNS_RESULTS, HTTP_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.cells import Bins, CellKind

Labels = tuple[tuple[str, str], ...]
"""The labels of one end of a series, without the prefix `source.` or `dest.`, sorted by name, none empty."""

LEVELS = ("az_az", "az_id", "id_az", "id_id")
"""The aggregation levels: which of the ends is told by its identity alone (az), and which by its node (id)."""

FLOWS = "flows"
"""The name of the level that has flows, a `FlowLevel`: no series are made of it."""

DNS_RESULTS_AS_COLUMNS = tuple(f"dns_{result}" for result in DNS_RESULTS)
"""The value columns of answers by their result, in the order of the wire."""

CONNECT_FAILURES = ("refused", "timed_out", "unreachable", "reset", "cancelled", "no_local_port", "other")
"""Reasons in the order of the wire's ConnectFailure, from 1."""

ZONE_COLUMNS = ("cross_zone_bytes", "same_zone_bytes")
"""The value columns that `reducer.zones` adds to those of flows."""

VALUE_COLUMNS = (
    "bytes",
    "packets",
    "retransmits",
    "srtt_sum_us",
    "srtt_count",
    "min_rtt_us",  # the least; 0 where unknown. All others are sums.
    "active",
    "opened",
    "closed",
    "resets",
    "syn_timeouts",
    "connect_sum_us",
    "connect_count",
    *(f"failed_{reason}" for reason in CONNECT_FAILURES),
    "udp_bytes",
    "udp_packets",
    "udp_active",
    "udp_drops",
    # From here on in the direction from the client, which asks, to the server.
    "dns_active",
    "dns_queries",
    "dns_retransmits",
    "dns_timeouts",
    *DNS_RESULTS_AS_COLUMNS,
    *(f"dns_{end}_{what}" for end in ("client", "server") for what in ("sum_us", "count")),
    "http_active",
    "http_requests",
    *(f"http_{status}" for status in HTTP_STATUSES),
    *(f"http_{end}_{what}" for end in ("client", "server") for what in ("sum_us", "count")),
    *ZONE_COLUMNS,
)
"""The value columns of a `Level`, all int64."""

NOT_OF_TCP = ("udp_", "dns_", "http_", *ZONE_COLUMNS)
"""What the names of value columns begin with that are not TCP's."""


def nothing(rows: int) -> np.ndarray:
    """Return a value column of as many rows that are all 0; it takes no memory, and cannot be written to."""
    return np.broadcast_to(np.int64(0), rows)


def is_nothing(column: np.ndarray) -> bool:
    """Whether a value column is one that `nothing` made."""
    return column.strides == (0,)


class Rows(Mapping[str, np.ndarray]):
    """Some rows of value columns: a column is taken when it is asked for."""

    def __init__(self, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        self._columns = columns
        self._rows = rows

    def __getitem__(self, name: str) -> np.ndarray:
        column = self._columns[name]
        taken: np.ndarray = nothing(len(self._rows)) if is_nothing(column) else column[self._rows]
        return taken

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class EndTable:
    """Interns the labels of ends: equal labels have one index while the table lives.

    An output may keep what it encoded for an index as long as `generation` stays the same.
    """

    def __init__(self) -> None:
        self.labels: list[Labels] = []
        self.generation = 0
        self._index: dict[Labels, int] = {}

    def intern(self, labels: Labels) -> int:
        """Return the index of *labels*."""
        index = self._index.setdefault(labels, len(self.labels))
        if index == len(self.labels):
            self.labels.append(labels)
        return index

    def clear(self) -> None:
        """Forget all labels; their indexes will be given again."""
        self.labels = []
        self._index = {}
        self.generation += 1


@dataclass(frozen=True)
class Level:
    """One aggregation level of a window.

    Attributes:
        name: one of `LEVELS`, the value of the label `aggregation`.
        source: indexes into the `EndTable`, uint32, a row a series; (source, dest) is unique.
        dest: the same for the other end.
        values: the `VALUE_COLUMNS`, int64, a row a series; those that are 0 in every row take no memory, read-only.
        bins: what else the series have, their rows as places.

    """

    name: str
    source: np.ndarray
    dest: np.ndarray
    values: dict[str, np.ndarray]
    bins: dict[CellKind, Bins] = field(default_factory=dict)


@dataclass(frozen=True)
class FlowLevel(Level):
    """The flows of a window, in any order: what ends and which ports they are of need not be unique.

    Attributes:
        protocol: int64, IP's number; 0 where the ports are not told.
        source_port: int64; 0 where it is not told, or several ports are one flow.
        dest_port: the same for the other end.

    """

    protocol: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    source_port: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    dest_port: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def pairs_of(level: Level) -> np.ndarray:
    """Return the ends of each series of a level as one uint64, ascending."""
    pairs: np.ndarray = level.source.astype(np.uint64) << np.uint64(32) | level.dest
    return pairs


@dataclass(frozen=True)
class SealedWindow:
    """A closed window.

    Attributes:
        start_ns: inclusive, nanoseconds since the epoch, by the reducer's clock.
        end_ns: exclusive.
        levels: its series.
        ends: what the indexes of the levels mean.
        acknowledge: session id to batch number: once this window and those before are safe, so is every batch up to it.
        balances: the state of the matcher that must be stored with the window, opaque bytes.
        drop_reasons: what the bins of dropped packets mean; it only grows.

    """

    start_ns: int
    end_ns: int
    levels: list[Level]
    ends: EndTable
    acknowledge: dict[bytes, int] = field(default_factory=dict)
    balances: bytes = b""
    drop_reasons: Sequence[str] = ()
