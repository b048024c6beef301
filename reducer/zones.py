"""Payload by whether both ends of a series are in one availability zone: what crosses zones is paid for.

It is told of the series before any of them are rolled up for want of room: what is rolled up keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.entities import UNKNOWN
from reducer.series import ZONE_COLUMNS, is_nothing, pairs_of

if TYPE_CHECKING:
    from reducer.series import EndTable, Labels, Level

_NO_ZONE = 0
# The zone of what only its address or its name tells is an organisation.
_NOT_IN_ZONES = ("IP", "DNS")


class Zones:
    """Knows the zones of ends as long as their table lives."""

    def __init__(self) -> None:
        self._generation = -1
        self._zones = np.empty(0, np.int64)  # by index in the table
        self._numbers: dict[str, int] = {}

    def tell(self, level: Level, ends: EndTable) -> None:
        """Fill in the `ZONE_COLUMNS` of a level."""
        self._follow(ends)
        source, dest = self._zones[level.source], self._zones[level.dest]
        known = (source != _NO_ZONE) & (dest != _NO_ZONE)
        if known.any():
            payload = level.values["bytes"] + level.values["udp_bytes"]
            for name, these in zip(ZONE_COLUMNS, (known & (source != dest), known & (source == dest)), strict=True):
                level.values[name] = np.where(these, payload, 0)

    def _follow(self, ends: EndTable) -> None:
        if ends.generation != self._generation:
            self._generation = ends.generation
            self._zones, self._numbers = np.empty(0, np.int64), {"": _NO_ZONE}
        zones = map(_zone, ends.labels[len(self._zones) :])
        new = [self._numbers.setdefault(zone, len(self._numbers)) for zone in zones]
        self._zones = np.concatenate((self._zones, np.array(new, np.int64)))


def _zone(labels: Labels) -> str:
    told = dict(labels)
    zone = told.get("availability_zone", UNKNOWN)
    return "" if zone == UNKNOWN or told.get("resolution_type") in _NOT_IN_ZONES else zone


def carry_over(whole: Level, stand_in: np.ndarray, level: Level) -> None:
    """Fill in the `ZONE_COLUMNS` of a level by those of the *whole* one, whose ends *stand_in* has rolled up to its."""
    pairs = stand_in[whole.source].astype(np.uint64) << np.uint64(32) | stand_in[whole.dest]
    row = np.searchsorted(pairs_of(level), pairs)
    for name in ZONE_COLUMNS:
        if not is_nothing(whole.values[name]):
            level.values[name] = np.zeros(len(level.source), np.int64)
            np.add.at(level.values[name], row, whole.values[name])
