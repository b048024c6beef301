"""The UDP probe: traffic of each socket with each of its peers, and the sockets' owners and drops."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from kernel_collector.libbpf import BpfObject, ProgramCost, open_iterator, read_iterator
from kernel_collector.objects import OBJECTS
from kernel_collector.records import udp_record_dtypes

if TYPE_CHECKING:
    from pathlib import Path

OBJECT = "udp.bpf.o"
PROCESSES = "udp_of_processes"
PACKETS = ("udp_sent", "udp_received")
CREATED = "udp_created"
PROGRAMS = (PROCESSES, CREATED, *PACKETS)
# Peers of a socket that are told apart between two polls.
MOST_PEERS = 4096
_MAPS = ("traffic_0", "traffic_1")


class UdpTraffic(NamedTuple):
    """What sockets exchanged with peers: arrays of `udp_peer` and `udp_traffic`, a row each, no pair twice."""

    peers: np.ndarray
    counts: np.ndarray


class UdpProbe:
    """UDP sockets of the machine, or of some network namespaces, while it is open.

    Args:
        cgroup: the root of cgroup v2: packets of processes elsewhere are not seen.
        network_namespaces: inode numbers; sockets of others are passed over in the kernel. Empty: all are seen.
        most_peers: of a socket between two calls of `drain`; those beyond are counted as one.
        objects: the directory of the compiled programs.

    Raises:
        OSError: there is no such cgroup.
        LibbpfError: the kernel, or the lack of a capability or of libbpf, does not allow it.
        BtfError: the object is of another version than this module.

    """

    def __init__(
        self,
        cgroup: Path,
        network_namespaces: frozenset[int] = frozenset(),
        most_peers: int = MOST_PEERS,
        objects: Path = OBJECTS,
    ) -> None:
        self._object = BpfObject(objects / OBJECT)
        try:
            self._record, self._peer, self._traffic = udp_record_dtypes(self._object.btf)
            self._object.set_constant("network_namespaces_named", bytes([bool(network_namespaces)]))
            self._object.set_constant("most_peers", most_peers.to_bytes(4, "little"))
            self._object.load()
            for inode in network_namespaces:
                self._object.update("network_namespaces", inode.to_bytes(4, "little"), b"\1")
            self._variables = self._object.variables()
            self._counted_in = self._entries_added = 0
            directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._object.attach(CREATED, directory)
                # What sockets there are is known before the first packet asks.
                self._processes = self._object.attach(PROCESSES)
                self.poll()
                for program in PACKETS:
                    self._object.attach(program, directory)
            finally:
                os.close(directory)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and unload."""
        self._variables = {}
        self._object.close()

    @property
    def packets_untracked(self) -> int:
        """How many packets found no room for their socket and peer, and are not counted."""
        return int(self._variables["packets_untracked"][0])

    @property
    def packets_of_other_peers(self) -> int:
        """How many packets were counted as those of other peers, since their socket had too many."""
        return int(self._variables["packets_of_other_peers"][0])

    def drain(self) -> UdpTraffic:
        """Return the traffic since the call before."""
        added = int(self._variables["entries_added"][0])
        if added == self._entries_added:
            # To exchange the maps takes the kernel milliseconds.
            return UdpTraffic(np.empty(0, self._peer), np.empty(0, self._traffic))
        self._entries_added = added
        idle, self._counted_in = self._counted_in, 1 - self._counted_in
        self._variables["generation"][0] += 1
        # The kernel returns once no program counts in the map that was here (map_update_elem, synchronize_rcu).
        counted_in = self._object.map_fd(_MAPS[self._counted_in])
        self._object.update("traffic", bytes(4), counted_in.to_bytes(4, "little"))
        return UdpTraffic(*self._object.empty(_MAPS[idle], self._peer, self._traffic))

    def poll(self) -> np.ndarray:
        """Return a `udp_record` for each file descriptor, of any process of this pid namespace, that is a UDP socket.

        A socket that several processes hold, or one process several times, comes as often.
        """
        return np.frombuffer(read_iterator(open_iterator(self._processes)), self._record)

    def cost(self) -> dict[str, ProgramCost]:
        """Return what each program cost so far, while kernel.bpf_stats_enabled is 1."""
        return {program: self._object.cost(program) for program in PROGRAMS}
