"""Of the sockets that receive what is sent to all of them (multicast, broadcast), the one whose word counts.

Each of them got the same datagrams, so what they received must not be added up. The one that is chosen tells for its
flow while it goes on to, whichever windows the rows of the others come in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from intake.columns import is_constant
from reducer.matching.flows import COUNTERS
from reducer.windows.rows import IPPROTO_UDP

if TYPE_CHECKING:
    from reducer.knowledge.owners import OwnersView
    from reducer.matching.grouping import Grouped

MOST_FLOWS = 65_536
KEPT_WINDOWS = 10
_RECEIVED = tuple(counter.receiver for counter in COUNTERS if not counter.of_connection)
# Of the second half of an IPv4 address in IPv6: 224.0.0.0/4, and what it is of 255.255.255.255.
_V4_MULTICAST, _V4_MULTICAST_BITS = np.uint64(0xE0_FFFF_0000), np.uint64(0xF0_FFFF_FFFF)
_V4_BROADCAST = np.uint64(0xFFFF_FFFF_FFFF_0000)
_CHOSEN = np.dtype([("flow", "u8"), ("receiver", "u8"), ("window", "i8")])


class SharedReceivers:
    """The chosen sockets of the flows of the last windows: *most* of them, those that spoke last.

    Attributes:
        forgotten: flows whose chosen one was forgotten before its time, since there were too many.

    """

    def __init__(self, most: int = MOST_FLOWS) -> None:
        self.forgotten = 0
        self._most = most
        self._chosen = np.empty(0, _CHOSEN)  # sorted by flow

    def hear_one(self, window: int, grouped: Grouped, owners: OwnersView) -> Grouped:
        """Return rows of a window, its index rising, without what others than the chosen sockets received."""
        rows = grouped.rows
        datagrams = np.flatnonzero(rows["protocol"] == IPPROTO_UDP)
        shared = datagrams[is_shared(rows["local_address"].reshape(-1, 2)[datagrams].ravel())]
        if not len(shared):
            return grouped
        flow = grouped.hashes[grouped.end[shared] >> 1]
        receiver = owners.scope[owners.session[rows["process"][shared]]] ^ rows["socket"][shared]
        order = np.lexsort((receiver, flow))
        shared, flow, receiver = shared[order], flow[order], receiver[order]
        flows, first, of = np.unique(flow, return_index=True, return_inverse=True)
        chosen = self._choose(window, flows, receiver, first, of)
        others = shared[receiver != chosen[of]]
        if not len(others):
            return grouped
        return replace(grouped, rows=rows | {name: _without(rows[name], others) for name in _RECEIVED})

    def _choose(
        self, window: int, flows: np.ndarray, receiver: np.ndarray, first: np.ndarray, of: np.ndarray
    ) -> np.ndarray:
        """Return the chosen one of each flow, and remember it; *first* and *of* as `np.unique` gives them of rows."""
        now = np.empty(len(flows), _CHOSEN)
        now["flow"], now["receiver"], now["window"] = flows, receiver[first], window
        known = np.isin(flows, self._chosen["flow"])
        before = now.copy()
        before[known] = self._chosen[np.searchsorted(self._chosen["flow"], flows[known])]
        speaks = np.zeros(len(flows), bool)
        np.logical_or.at(speaks, of, receiver == before["receiver"][of])
        # Its rows may be in the window before, where those of others came a moment later.
        stays = known & (speaks | (before["window"] >= window - 1))
        now["receiver"][stays] = before["receiver"][stays]
        now["window"][stays & ~speaks] = before["window"][stays & ~speaks]
        kept = self._chosen[~np.isin(self._chosen["flow"], flows) & (self._chosen["window"] > window - KEPT_WINDOWS)]
        remembered = np.concatenate((now, kept[np.argsort(-kept["window"], kind="stable")]))
        self.forgotten += max(0, len(remembered) - self._most)
        remembered = remembered[: self._most]
        self._chosen = remembered[np.argsort(remembered["flow"])]
        return now["receiver"]


def is_shared(address: np.ndarray) -> np.ndarray:
    """Return which of these addresses, pairs of uint64, many receive at: multicast and 255.255.255.255."""
    first, second = address[0::2], address[1::2]
    v4 = ((second & _V4_MULTICAST_BITS) == _V4_MULTICAST) | (second == _V4_BROADCAST)
    v6 = first & np.uint64(0xFF) == np.uint64(0xFF)
    shared: np.ndarray = v6 | ((first == 0) & v4)
    return shared


def _without(column: np.ndarray, these: np.ndarray) -> np.ndarray:
    """Return *column* with zeros at *these*; one that is 0 throughout, and takes no memory, stays as it is."""
    if is_constant(column) and not column[0]:
        return column
    column = column.copy()
    column[these] = 0
    return column
