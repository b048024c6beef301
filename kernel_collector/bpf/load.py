"""What the collector's rings, maps and programs are to the kernel: how full, and what they cost."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from intake.clock import SECOND_NS
from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.libbpf import LibbpfError, count_runs
from kernel_collector.bpf.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from ebpf_net.v1 import intake_pb2

_LOGGER = logging.getLogger(__name__)
# To count the entries of maps takes 0.1 us each.
_MAPS_INTERVAL_NS = 60 * SECOND_NS


class Load:
    """Tells of all objects and rings that are open in this process.

    Args:
        clock_ns: gives a time that nobody sets.
        count: whether the kernel is asked to count what all BPF programs of the machine cost, while this is open.

    """

    def __init__(self, clock_ns: Callable[[], int], *, count: bool = False) -> None:
        self._clock_ns = clock_ns
        self._maps_due_ns = 0
        self._maps: list[tuple[str, int, int]] = []
        self._counting: int | None = None
        if count:
            try:
                self._counting = count_runs()
            except LibbpfError as error:
                _LOGGER.warning("%s: see to CAP_SYS_ADMIN, or leave out --enable-bpf-stats", error)

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Add rings, maps and programs."""
        for ring in sorted(Ring.opened, key=lambda ring: ring.name):
            statistics.rings.add(
                name=ring.name, size_bytes=ring.size, fullest_bytes=ring.take_fullest(), events_lost=ring.lost
            )
        if self._clock_ns() >= self._maps_due_ns:
            self._maps_due_ns = self._clock_ns() + _MAPS_INTERVAL_NS
            self._maps = [
                (f"{each.name}_{name}", fill.entries, fill.most)
                for each in _objects()
                for name, fill in each.fills().items()
            ]
        for name, entries, most in self._maps:
            statistics.maps.add(name=name, entries=entries, most_entries=most)
        for each in _objects():
            with contextlib.suppress(LibbpfError):  # told for its sake alone, nothing is worth an end
                for name, cost in each.costs().items():
                    statistics.programs.add(name=name, runs=cost.run_count, run_time_ns=cost.run_time_ns)

    def close(self) -> None:
        """Have the kernel count no more."""
        if self._counting is not None:
            os.close(self._counting)
            self._counting = None


def _objects() -> list[BpfObject]:
    return sorted(BpfObject.opened, key=lambda each: each.name)
