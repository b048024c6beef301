"""HTTP as a concern of the collector: what the probe gives, with the owners of TCP sockets."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from kernel_collector.columns.structured import concatenated
from kernel_collector.concern import Concern
from kernel_collector.http.probe import HttpProbe
from kernel_collector.http.rows import http_rows, statuses_untold

if TYPE_CHECKING:
    from intake.columns import Columns, Tables
    from kernel_collector.concern import Surroundings
    from kernel_collector.tcp.sockets import SocketTable


def owners(table: SocketTable, sockets: Columns) -> np.ndarray:
    """Return the id of the owner of each socket, uint32; 0 where unknown.

    Args:
        table: of TCP sockets.
        sockets: `socket`, `network_namespace`, `local_address`, `local_port` and `role`, as rows have them.

    """
    found, _ = table.owners(sockets["socket"])
    # One that waits to be accepted has no owner yet, but its listener's.
    accepted = np.flatnonzero((found == 0) & (sockets["role"] == intake_pb2.ROLE_ACCEPTOR))
    ends = (sockets[name][accepted] for name in ("network_namespace", "local_address", "local_port"))
    found[accepted] = table.listener_owners(*ends)
    return found


class HttpConcern(Concern):
    """What TCP sockets ask and answer by HTTP/1."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._probe = HttpProbe(surroundings.packets)
        self._sockets = surroundings.sockets
        self._taken: list[np.ndarray] = []
        self._statuses_untold = 0
        self.wakeup_fd = self._probe.wakeup_fd

    def drain(self) -> None:
        """Take what sockets that ended left."""
        self._taken.append(self._probe.drain())

    def gather(self) -> None:
        """Take what all sockets have to tell."""
        self._taken.append(self._probe.poll())
        self.drain()

    def early(self) -> Tables:
        """Return the rows of sockets that ended."""
        return self.read()

    def read(self) -> Tables:
        """Return the rows of what was taken."""
        records, self._taken = concatenated([np.empty(0, self._probe.record), *self._taken]), []
        if not len(records):
            return {}
        self._statuses_untold += statuses_untold(records)
        return http_rows(records, partial(owners, self._sockets))

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Say what was lost or not understood."""
        statistics.events_lost += self._probe.events_lost
        statistics.http_sockets_untracked = self._probe.sockets_untracked
        statistics.http_heads_unknown = self._probe.heads_unknown
        statistics.http_requests_untimed = self._probe.requests_untimed
        statistics.http_packets_cut = self._probe.packets_cut
        statistics.http_places_taken = self._probe.places_taken
        statistics.http_statuses_untold = self._statuses_untold

    def close(self) -> None:
        """Let go of the ring."""
        self._probe.close()
