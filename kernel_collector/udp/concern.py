"""UDP as a concern of the collector: probe, table and processes put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_collector.concern import Concern
from kernel_collector.udp.probe import UdpProbe
from kernel_collector.udp.sockets import UdpSocketTable

if TYPE_CHECKING:
    import numpy as np
    from ebpf_net.v1 import intake_pb2

    from intake.columns import Tables
    from kernel_collector.concern import Surroundings


class UdpConcern(Concern):
    """What UDP sockets exchange with their peers, and what they drop."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._probe = UdpProbe(surroundings.packets)
        self._processes = surroundings.processes
        self._sockets = UdpSocketTable()

    def read(self) -> Tables:
        """Return the rows since the call before."""
        traffic, dropped, polled = self._probe.drain(), self._probe.dropped(), self._probe.poll()
        creators, holders = self._processes.identify(traffic.counts), self._processes.identify(polled)
        return {"udp": self._sockets.update(traffic, creators, polled, holders, dropped)}

    def processes(self) -> np.ndarray:
        """Return the ids of the owners of sockets."""
        return self._sockets.processes()

    def cgroups(self) -> np.ndarray:
        """Return the ids of the cgroups of sockets."""
        return self._sockets.cgroups()

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Say how many sockets there are, and what found no room."""
        statistics.sockets_untracked += self._sockets.untracked
        statistics.sockets_tracked += len(self._sockets)
        statistics.udp_packets_untracked = self._probe.packets_untracked
        statistics.udp_packets_of_other_peers = self._probe.packets_of_other_peers
