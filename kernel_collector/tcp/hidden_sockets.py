"""Sockets that no process holds a descriptor of: which network namespaces have them, and what they are.

A walk of a namespace takes 2.3 ms even where it is empty, so only those are walked that have more sockets than the poll
saw, or of whose known sockets some are missing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kernel_collector.machine.network_namespaces import (
    NetworkNamespace,
    processes_by_network_namespace,
    tcp_sockets_in_use,
)
from kernel_collector.tcp.states import TcpState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kernel_collector.tcp.probe import TcpProbe

_LOGGER = logging.getLogger(__name__)


class Walk(NamedTuple):
    """What walks found: arrays of `tcp_record`, and the inode numbers of the namespaces walked, uint32."""

    records: list[np.ndarray]
    namespaces: np.ndarray


class HiddenSockets:
    """Walks the network namespaces *named*, or if there are none, those of all processes.

    Args:
        tcp: the probe.
        proc: the host's /proc.
        named: see above.

    """

    def __init__(self, tcp: TcpProbe, proc: Path, named: Sequence[NetworkNamespace]) -> None:
        self._tcp = tcp
        self._proc = proc
        self._named = {namespace.inode: namespace for namespace in named}
        self._told = False

    def walk(self, polled: np.ndarray, missing: np.ndarray) -> Walk:
        """Walk where it is needed.

        Args:
            polled: `tcp_record`s of a poll just made.
            missing: namespaces, by inode number, with sockets that polls do not see any more.

        """
        seen = _count_by_namespace(polled)
        pids = processes_by_network_namespace(self._proc)
        records, walked = [], []
        for inode in self._named or pids:
            pid = pids.get(inode)
            try:
                if inode in missing or pid is None or tcp_sockets_in_use(pid, self._proc) > seen.get(inode, 0):
                    records.append(self._walk(inode, pid))
                    walked.append(inode)
            except (FileNotFoundError, ProcessLookupError):  # the process has ended
                continue
            except OSError as error:
                self._tell(error)
        return Walk(records, np.array(walked, np.uint32))

    def _walk(self, inode: int, pid: int | None) -> np.ndarray:
        if inode in self._named:
            return self._tcp.walk(self._named[inode].fd)
        with NetworkNamespace(self._proc / str(pid) / "ns" / "net") as namespace:
            return self._tcp.walk(namespace.fd)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            _LOGGER.warning("sockets that no process holds are told only when they close: %s", error)


def _count_by_namespace(polled: np.ndarray) -> dict[int, int]:
    """Return how many sockets of a poll, each counted once, a namespace's count of sockets in use includes."""
    in_use = polled.compress(polled["state"] != TcpState.CLOSE)
    _, first = np.unique(in_use["cookie"], return_index=True)
    namespaces, counts = np.unique(in_use["network_namespace"][first], return_counts=True)
    return dict(zip(namespaces.tolist(), counts.tolist(), strict=True))
