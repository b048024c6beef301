"""The TCP probe: what the kernel tells of sockets, as arrays of `tcp_record` (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from kernel_collector.bpf_object import BpfObject, ProgramCost
from kernel_collector.libbpf import open_iterator, read_iterator
from kernel_collector.network_namespaces import entered
from kernel_collector.objects import OBJECTS
from kernel_collector.records import tcp_record_dtype
from kernel_collector.ring import Ring

if TYPE_CHECKING:
    from pathlib import Path

OBJECT = "tcp.bpf.o"
EVENTS = "tcp_state_changed"
RESETS = "tcp_reset_sent"
PROCESSES = "tcp_of_processes"
NETWORK_NAMESPACE = "tcp_of_network_namespace"
PROGRAMS = (EVENTS, RESETS, PROCESSES, NETWORK_NAMESPACE)


class TcpProbe:
    """TCP sockets of the machine, or of some network namespaces, while it is open.

    Args:
        network_namespaces: inode numbers; sockets of others are passed over in the kernel. Empty: all are seen.
        objects: the directory of the compiled programs.

    Attributes:
        record: the dtype of all its arrays.

    Raises:
        LibbpfError: the kernel, or the lack of a capability or of libbpf, does not allow it.
        BtfError: the object is of another version than this module.

    """

    def __init__(self, network_namespaces: frozenset[int] = frozenset(), objects: Path = OBJECTS) -> None:
        self._object = BpfObject(objects / OBJECT)
        try:
            self.record = tcp_record_dtype(self._object.btf)
            self._object.set_constant("network_namespaces_named", bytes([bool(network_namespaces)]))
            self._object.load()
            for inode in network_namespaces:
                self._object.update("network_namespaces", inode.to_bytes(4, "little"), b"\1")
            self._ring = Ring(self._object, self.record)
            self._processes = self._object.attach(PROCESSES)
            self._network_namespace = self._object.attach(NETWORK_NAMESPACE)
            self._object.attach(RESETS)
            self._object.attach(EVENTS)
        except BaseException:
            self._object.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and unload."""
        self._ring.close()
        self._object.close()

    @property
    def events_lost(self) -> int:
        """How many events found the ring buffer full."""
        return self._ring.lost

    @property
    def wakeup_fd(self) -> int:
        """Readable when `drain` should be called before its time; at other times call it as often as suits."""
        return self._ring.wakeup_fd

    def drain(self) -> np.ndarray:
        """Return the events since the call before, in their order: all kinds but LIVE."""
        return self._ring.drain()

    def poll(self) -> np.ndarray:
        """Return a LIVE record for each file descriptor, of any process of this pid namespace, that is a TCP socket.

        A socket that several processes hold, or one process several times, comes as often.
        """
        return self._read(open_iterator(self._processes))

    def walk(self, network_namespace: int) -> np.ndarray:
        """Return a LIVE record, without owner, for each TCP socket of a network namespace; 2.3 ms at the least.

        It finds those without a file descriptor: in an accept queue, orphaned, of io_uring, of the kernel.

        Args:
            network_namespace: a file descriptor of it. The calling thread is in it for a moment.

        Raises:
            OSError: the namespace cannot be entered: CAP_SYS_ADMIN is missing.

        """
        with entered(network_namespace):
            iterator = open_iterator(self._network_namespace)
        return self._read(iterator)

    def cost(self) -> dict[str, ProgramCost]:
        """Return what each program cost so far, while kernel.bpf_stats_enabled is 1."""
        return {program: self._object.cost(program) for program in PROGRAMS}

    def _read(self, iterator: int) -> np.ndarray:
        return np.frombuffer(read_iterator(iterator), self.record)
