"""Dropped packets as a concern of the collector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from intake.columns import DROP_COLUMNS
from kernel_collector.concern import Concern
from kernel_collector.drops.probe import Drops, DropsProbe, name_of_unknown, reason_names

if TYPE_CHECKING:
    from pathlib import Path

    from ebpf_net.v1 import intake_pb2

    from intake.columns import Columns, Tables
    from kernel_collector.concern import Surroundings

# What a row calls otherwise than a record.
_NAMES = {
    "local_address": "source_address",
    "remote_address": "destination_address",
    "local_port": "source_port",
    "remote_port": "destination_port",
}


class DropsConcern(Concern):
    """Packets that the kernel dropped, by flow and reason."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._reasons = reason_names()
        self._new = dict(self._reasons)
        self._probe = DropsProbe(surroundings.network_namespaces)

    def read(self) -> Tables:
        """Return the rows since the call before."""
        drops = self._probe.drain()
        for number in set(np.unique(drops.keys["reason"]).tolist()) - self._reasons.keys():
            self._reasons[number] = self._new[number] = name_of_unknown(number)
        return {"drops": rows_of(drops)}

    def announce(self, entities: intake_pb2.Entities) -> None:
        """Add the names of the reasons, once."""
        _add(entities, self._new)
        self._new.clear()

    def remind(self, entities: intake_pb2.Entities) -> None:
        """Add the names of all reasons."""
        _add(entities, self._reasons)

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Say how many packets are told without their flow, or not at all."""
        statistics.drops_of_other_flows = self._probe.of_other_flows
        statistics.drops_untracked = self._probe.untracked

    def close(self) -> None:
        """Detach."""
        self._probe.close()


def rows_of(drops: Drops) -> Columns:
    """Return a row of each record."""
    keys, counts = drops
    rows = {}
    for column in DROP_COLUMNS:
        name = _NAMES.get(column.name, column.name)
        source = keys if name in (keys.dtype.names or ()) else counts
        rows[column.name] = source[name].astype(column.dtype)
    return rows


def tried(_proc: Path, objects: Path) -> str:
    """Load the program and unload it; return how drops are watched.

    Raises:
        OSError: the kernel does not allow it.
        BtfError: the object is of another version.

    """
    reasons = reason_names()
    DropsProbe(objects=objects).close()
    return f"watched where packets are dropped (kfree_skb), for {len(reasons)} reasons"


def _add(entities: intake_pb2.Entities, reasons: dict[int, str]) -> None:
    for number, name in reasons.items():
        entities.drop_reasons.add(number=number, name=name)
