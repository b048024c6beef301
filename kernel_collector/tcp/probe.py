"""The TCP probe: what the kernel tells of sockets, as arrays of `tcp_record` (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernel_collector.bpf.event_probe import EventProbe
from kernel_collector.bpf.libbpf import open_iterator, read_iterator
from kernel_collector.bpf.records import tcp_record_dtype
from kernel_collector.bpf.watched_namespaces import load_watching
from kernel_collector.machine.network_namespaces import entered
from kernel_collector.objects import OBJECTS

if TYPE_CHECKING:
    from pathlib import Path

    from kernel_collector.bpf.bpf_object import ProgramCost

OBJECT = "tcp.bpf.o"
EVENTS = "tcp_state_changed"
RESETS = "tcp_reset_sent"
PROCESSES = "tcp_of_processes"
NETWORK_NAMESPACE = "tcp_of_network_namespace"
PROGRAMS = (PROCESSES, NETWORK_NAMESPACE, RESETS, EVENTS)


class TcpProbe(EventProbe):
    """TCP sockets of the machine, or of some network namespaces, while it is open: `drain` gives all kinds but LIVE.

    Args:
        network_namespaces: inode numbers; sockets of others are passed over in the kernel. Empty: all are seen.
        objects: the directory of the compiled programs.

    """

    def __init__(self, network_namespaces: frozenset[int] = frozenset(), objects: Path = OBJECTS) -> None:
        super().__init__(
            OBJECT, PROGRAMS, tcp_record_dtype, objects, lambda opened: load_watching(opened, network_namespaces)
        )

    def poll(self) -> np.ndarray:
        """Return a LIVE record for each file descriptor, of any process of this pid namespace, that is a TCP socket.

        A socket that several processes hold, or one process several times, comes as often.
        """
        return self._read(open_iterator(self.links[PROCESSES]))

    def walk(self, network_namespace: int) -> np.ndarray:
        """Return a LIVE record, without owner, for each TCP socket of a network namespace; 2.3 ms at the least.

        It finds those without a file descriptor: in an accept queue, orphaned, of io_uring, of the kernel.

        Args:
            network_namespace: a file descriptor of it. The calling thread is in it for a moment.

        Raises:
            OSError: the namespace cannot be entered: CAP_SYS_ADMIN is missing.

        """
        with entered(network_namespace):
            iterator = open_iterator(self.links[NETWORK_NAMESPACE])
        return self._read(iterator)

    def cost(self) -> dict[str, ProgramCost]:
        """Return what each program cost so far, while kernel.bpf_stats_enabled is 1."""
        return {program: self._object.cost(program) for program in PROGRAMS}

    def _read(self, iterator: int) -> np.ndarray:
        return np.frombuffer(read_iterator(iterator), self.record)
