"""Keeps the series of a level within a number: the least active ends are rolled up along what they belong to.

An end of a series is rolled up in steps: a node to its workload, or an address without a name to its network; then to
the workload without its processes, containers and versions; to the namespace; to the cluster; and at last to "(other)".
Each step takes as many of the least active ends as are needed before the next begins; the most active sixteenth is left
alone until all others are at the last step. Only ends change: rolled up by the new ones, the same rows give fewer
series with the same sums.

So that series do not come and go, an end stays where it is put. Every `REVIEW_WINDOWS` it is chosen anew by the
activity of late, where those that are not rolled up count for more.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from reducer.columns.series import EndTable, Labels, Level

_LOGGER = logging.getLogger(__name__)

OTHER = "(other)"
MOST_SERIES = 100_000
REVIEW_WINDOWS = 10
# What is rolled up makes room for new series, so that not every window has to choose.
_FILL = 0.9
# What an end that is not rolled up may be less active than one that is, and stay so at a review.
_STICKINESS = 2.0
# What of the activity until now counts in the next window.
_MEMORY = 0.8
# Of the ends, those with the least activity: all steps are taken with these before any with more.
_SHARES = (15 / 16, 255 / 256, 1)
_NETWORK_BITS = {4: 24, 6: 64}
_OF_NODE = frozenset({"id", "ip", "pod"})
_OF_WORKLOAD = frozenset(
    {"workload.name", "workload.uid", "resolution_type", "namespace.name", "environment", "availability_zone"}
)
_OF_NAMESPACE = frozenset({"namespace.name", "environment", "availability_zone"})
_OF_CLUSTER = frozenset({"environment", "availability_zone"})


def workload_or_network(labels: Labels) -> Labels:
    """Return the labels of a node's workload; those of the network where nothing but the address is known."""
    told = dict(labels)
    network = _network(told.get("id", "")) if told.get("resolution_type") == "IP" else ""
    if network:
        return tuple((name, network if name in _OF_NODE else value) for name, value in labels)
    return tuple(label for label in labels if label[0] not in _OF_NODE)


def workload(labels: Labels) -> Labels:
    """Return the labels of a workload without those of what runs in it."""
    return tuple(label for label in labels if label[0] in _OF_WORKLOAD)


def namespace(labels: Labels) -> Labels:
    """Return the labels of a workload's namespace."""
    return _within(_OF_NAMESPACE, labels)


def cluster(labels: Labels) -> Labels:
    """Return the labels of a namespace's cluster and zone."""
    return _within(_OF_CLUSTER, labels)


def everything(_labels: Labels) -> Labels:
    """Return the labels of what nothing is told of."""
    return _within(frozenset(), ())


STEPS = (workload_or_network, workload, namespace, cluster, everything)
"""From the labels of an end to those of what it is rolled up to: one after the other."""


def _tie(labels: Labels) -> int:
    return int.from_bytes(hashlib.blake2b(repr(labels).encode(), digest_size=8).digest()) | 1


def _within(names: frozenset[str], labels: Labels) -> Labels:
    return tuple(sorted((("workload.name", OTHER), *(label for label in labels if label[0] in names))))


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # it is a network already, or no address
        return ""
    return str(ipaddress.ip_network((ip, _NETWORK_BITS[ip.version]), strict=False))


class Budget:
    """The budget of a level: `fit` is asked once a window.

    Attributes:
        series_rolled_up: since the start, how many series of windows were added to others.

    """

    def __init__(self, most_series: int = MOST_SERIES) -> None:
        self.series_rolled_up = 0
        self._most = most_series
        self._windows = 0
        self._exceeded = False
        self._generation = -1
        self._labels: list[Labels] = []
        # By index in the table of ends: how many steps an end is rolled up, and how active it was.
        self._depth = np.empty(0, np.uint8)
        self._activity = np.empty(0)
        self._tie = np.empty(0, np.uint64)  # 0: not looked up
        # By step: what each end is rolled up to by this step and those before, where that was looked up.
        self._looked_up = np.empty(0, bool)
        self._ancestor = [np.empty(0, np.uint32) for _ in STEPS]

    def fit(self, level: Level, ends: EndTable) -> np.ndarray | None:
        """Return by index the end, uint32, that stands for each one in this window; None where each stands for itself.

        Args:
            level: the series of the window as they are.
            ends: what their indexes mean; what stands for others is added to it.

        """
        self._follow(ends)
        self._note_activity(level)
        self._windows += 1
        is_used = np.zeros(len(self._depth), bool)
        is_used[level.source] = is_used[level.dest] = True
        used = np.flatnonzero(is_used)
        if len(level.source) <= self._most and not self._depth[used].any():
            self._note_exceeded(level, exceeded=False)
            return None
        preference = self._activity[used] * np.where(self._depth[used] == 0, _STICKINESS, 1)
        if self._windows % REVIEW_WINDOWS == 0:
            self._depth[:] = 0
        self._look_up(used[~self._looked_up[used]], ends)
        series = self._series(level, self._depth)
        order = used[np.lexsort((self.ties(used), preference))] if series > self._most else used
        for share in _SHARES:
            for step, ancestor in enumerate(self._ancestor, 1):
                if series <= self._most:
                    break
                least = order[: int(share * len(order))]
                differs = (self._depth[least] < step) & (ancestor[least] != self._stand_ins(self._depth)[least])
                if differs.any():
                    series = self._roll_up(level, step, least[differs])
        self.series_rolled_up += len(level.source) - series
        self._note_exceeded(level, exceeded=series < len(level.source))
        return self._stand_ins(self._depth)

    def ties(self, ends: np.ndarray) -> np.ndarray:
        """Return what decides between equally active ends, uint64: their labels, not where they are in the table."""
        new = ends[self._tie[ends] == 0]
        self._tie[new] = [_tie(self._labels[end]) for end in new.tolist()]
        found: np.ndarray = self._tie[ends]
        return found

    def _roll_up(self, level: Level, step: int, order: np.ndarray) -> int:
        """Roll up as few of the first ends of *order* as make room, all if none do; return how many series remain."""
        enough = max(1, int(self._most * _FILL))
        too_few, count = 0, len(order)
        series = self._series(level, self._deeper(order, step))
        while series <= enough and count - too_few > 1:
            middle = (too_few + count) // 2
            left = self._series(level, self._deeper(order[:middle], step))
            if left <= enough:
                count, series = middle, left
            else:
                too_few = middle
        self._depth = self._deeper(order[:count], step)
        return series

    def _deeper(self, ends: np.ndarray, step: int) -> np.ndarray:
        depth = self._depth.copy()
        depth[ends] = step
        return depth

    def _stand_ins(self, depth: np.ndarray) -> np.ndarray:
        """Return what stands for each end if it is rolled up by *depth* steps."""
        stand_in = np.arange(len(depth), dtype=np.uint32)
        for step, ancestor in enumerate(self._ancestor, 1):
            these = depth == step
            stand_in[these] = ancestor[these]
        return stand_in

    def _series(self, level: Level, depth: np.ndarray) -> int:
        stand_in = self._stand_ins(depth)
        pair = stand_in[level.source].astype(np.uint64) << np.uint64(32) | stand_in[level.dest]
        return int(pl.Series(pair).n_unique())

    def _look_up(self, new: np.ndarray, ends: EndTable) -> None:
        """Find what ends are rolled up to by each step."""
        self._looked_up[new] = True
        before = new
        for ancestor, step in zip(self._ancestor, STEPS, strict=True):
            children, place = np.unique(before, return_inverse=True)
            parents = np.array([ends.intern(step(ends.labels[end])) for end in children.tolist()], np.uint32)
            before = ancestor[new] = parents[place]
        self._make_room(len(ends.labels))

    def _follow(self, ends: EndTable) -> None:
        """Keep what was decided where the indexes of the table have come to mean other ends."""
        if ends.generation != self._generation:
            rolled_up = np.flatnonzero(self._depth)
            remembered = {self._labels[end]: self._depth[end] for end in rolled_up.tolist()}
            self._depth, self._activity, self._looked_up = np.empty(0, np.uint8), np.empty(0), np.empty(0, bool)
            self._ancestor = [np.empty(0, np.uint32) for _ in STEPS]
            self._tie = np.empty(0, np.uint64)
            self._make_room(len(ends.labels))
            for index, labels in enumerate(ends.labels) if remembered else ():
                self._depth[index] = remembered.get(labels, 0)
            self._generation = ends.generation
        self._labels = ends.labels
        self._make_room(len(ends.labels))

    def _make_room(self, count: int) -> None:
        more = count - len(self._depth)
        if more > 0:
            self._depth = np.concatenate((self._depth, np.zeros(more, np.uint8)))
            self._activity = np.concatenate((self._activity, np.zeros(more)))
            self._tie = np.concatenate((self._tie, np.zeros(more, np.uint64)))
            self._looked_up = np.concatenate((self._looked_up, np.zeros(more, bool)))
            new = np.arange(count - more, count, dtype=np.uint32)
            self._ancestor = [np.concatenate((ancestor, new)) for ancestor in self._ancestor]

    def _note_activity(self, level: Level) -> None:
        """Add what was counted on the series of each end: packets, connections and the like, not bytes and times."""
        activity = np.zeros(len(level.source))
        for name, column in level.values.items():
            if not name.endswith(("bytes", "_us")):
                activity += column
        self._activity *= _MEMORY
        for ends in (level.source, level.dest):
            self._activity += np.bincount(ends, activity, len(self._activity))

    def _note_exceeded(self, level: Level, *, exceeded: bool) -> None:
        if exceeded and not self._exceeded:
            _LOGGER.warning(
                "level %s has %d series, more than %d (--series-limit): the least active are rolled up",
                level.name,
                len(level.source),
                self._most,
            )
        self._exceeded = exceeded
