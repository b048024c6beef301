"""The labels of ends, encoded once for an output and kept as long as the pipeline's table of ends lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from reducer.knowledge.entities import UNKNOWN
from reducer.outputs.conventions import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from reducer.columns.series import EndTable
    from reducer.outputs.conventions import Attribute, Conventions

Encoded = TypeVar("Encoded")


class EncodedEnds(Generic[Encoded]):
    """The encoded labels of each end of an `EndTable`, as source and as destination.

    Attributes:
        source: by index in the table, what *encode* made of the attributes of a source by *conventions*.
        dest: the same for a destination.
        zones: the same by what `az_equal` returns, of the attribute that tells whether both ends are in one zone.

    """

    def __init__(
        self, encode: Callable[[tuple[Attribute, ...]], Encoded], conventions: Conventions = REFERENCE
    ) -> None:
        self.source: list[Encoded] = []
        self.dest: list[Encoded] = []
        self.zones = [encode(attributes) for attributes in conventions.zones]
        self._encode = encode
        self._conventions = conventions
        self._generation = -1
        self._zones = np.empty(0, np.int64)
        self._zone_numbers: dict[str, int] = {}

    def update(self, ends: EndTable) -> bool:
        """Encode what is new in *ends*; return whether the table was cleared, so that indexes mean other ends now."""
        cleared = ends.generation != self._generation
        if cleared:
            self._generation = ends.generation
            self.source, self.dest, self._zones = [], [], np.empty(0, np.int64)
            self._zone_numbers = {"": 0, UNKNOWN: 0}
        zones = []
        for labels in ends.labels[len(self.source) :]:
            self.source.append(self._encode(self._conventions.source_attributes(labels)))
            self.dest.append(self._encode(self._conventions.dest_attributes(labels)))
            zone = dict(labels).get("availability_zone", "")
            zones.append(self._zone_numbers.setdefault(zone, len(self._zone_numbers) - 1))
        if zones:
            self._zones = np.concatenate((self._zones, zones))
        return cleared

    def az_equal(self, source: np.ndarray, dest: np.ndarray) -> np.ndarray:
        """Return 1 for each pair of ends in one zone, 2 for one in two, 0 where a zone is not known, int64."""
        source_zone, dest_zone = self._zones[source], self._zones[dest]
        return np.where((source_zone == 0) | (dest_zone == 0), 0, np.where(source_zone == dest_zone, 1, 2))
