"""Payload by whether both its ends are in one availability zone: what crosses zones is paid for.

It is told of flows, before they are rolled up to levels: what is rolled up for want of room keeps it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from reducer.columns.value_columns import ZONE_COLUMNS
from reducer.knowledge.entities import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reducer.columns.series import EndTable, Labels

_NO_ZONE = 0
# The zone of what only its address or its name tells is an organisation.
_NOT_IN_ZONES = ("IP", "DNS")
# The zone of what a cloud has in several, such as a load balancer, is its region; zones have a letter or number more.
_REGIONS = {
    "AWS": re.compile(r"[a-z-]+-\d+"),
    "GCP": re.compile(r"global|[a-z]+-[a-z]+\d+"),
    "AZURE": re.compile(r"[a-z]+\d*"),
}


class Zones:
    """Knows the zones of ends as long as their table lives."""

    def __init__(self) -> None:
        self._generation = -1
        self._zones = np.empty(0, np.int64)  # by index in the table
        self._numbers: dict[str, int] = {}

    def columns(
        self, source: np.ndarray, dest: np.ndarray, values: Mapping[str, np.ndarray], ends: EndTable
    ) -> dict[str, np.ndarray]:
        """Return the `ZONE_COLUMNS` of rows with these ends and values; none where they would be 0 throughout."""
        self._follow(ends)
        of_source, of_dest = self._zones[source], self._zones[dest]
        known = (of_source != _NO_ZONE) & (of_dest != _NO_ZONE)
        payload = [values[name] for name in ("bytes", "udp_bytes") if name in values]
        if not payload or not known.any():
            return {}
        cross = known & (of_source != of_dest)
        return dict(zip(ZONE_COLUMNS, (sum(payload) * cross, sum(payload) * (known & ~cross)), strict=True))

    def _follow(self, ends: EndTable) -> None:
        if ends.generation != self._generation:
            self._generation = ends.generation
            self._zones, self._numbers = np.empty(0, np.int64), {"": _NO_ZONE}
        zones = map(_zone, ends.labels[len(self._zones) :])
        new = [self._numbers.setdefault(zone, len(self._numbers)) for zone in zones]
        self._zones = np.concatenate((self._zones, np.array(new, np.int64)))


def _zone(labels: Labels) -> str:
    told = dict(labels)
    zone, resolution = told.get("availability_zone", UNKNOWN), told.get("resolution_type", "")
    region = resolution in _REGIONS and _REGIONS[resolution].fullmatch(zone)
    return "" if zone == UNKNOWN or resolution in _NOT_IN_ZONES or region else zone
