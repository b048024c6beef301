"""The value columns of flows and of series: their names, and columns that hold nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from intake.columns import DNS_RESULTS, HTTP_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

DNS_RESULTS_AS_COLUMNS = tuple(f"dns_{result}" for result in DNS_RESULTS)
"""The value columns of answers by their result, in the order of the wire."""

CONNECT_FAILURES = ("refused", "timed_out", "unreachable", "reset", "cancelled", "no_local_port", "other")
"""Reasons in the order of the wire's ConnectFailure, from 1."""

ZONE_COLUMNS = ("cross_zone_bytes", "same_zone_bytes")
"""The value columns that naming/zones.py adds to those of flows."""

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
