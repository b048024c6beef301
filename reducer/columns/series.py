"""What the pipeline gives the outputs: the series of one window, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reducer.columns.cells import Bins, CellKind

Labels = tuple[tuple[str, str], ...]
"""The labels of one end of a series, without the prefix `source.` or `dest.`, sorted by name, none empty."""

LEVELS = ("az_az", "az_id", "id_az", "id_id")
"""The aggregation levels: which of the ends is told by its identity alone (az), and which by its node (id)."""

FLOWS = "flows"
"""The name of the level that has flows, a `FlowLevel`: no series are made of it."""


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
