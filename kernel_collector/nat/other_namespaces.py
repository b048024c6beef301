"""The network namespaces besides the machine's own, of containers and pods: which they are, and what they translate.

Their events come through a socket in the machine's namespace, with a number (nsid) in place of the inode number that
rows have. None is held: a descriptor of one, or a socket in it, would keep its interfaces when its last program ends.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from intake.clock import SECOND_NS
from kernel_collector.closing import Closing
from kernel_collector.machine.network_namespaces import (
    OWN_NETWORK_NAMESPACE,
    NetworkNamespace,
    entered,
    processes_by_network_namespace,
)
from kernel_collector.nat.conntrack_dumps import ConntrackDumps
from kernel_collector.nat.conntrack_messages import CONNECTION
from kernel_collector.nat.namespace_ids import NamespaceIds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_LOGGER = logging.getLogger(__name__)
MOST_NAMESPACES = 4_096
# They are looked for at most a fiftieth of the time, over some seconds: each look takes 10 us a process.
LOOK_BUDGET = 50
_AHEAD_NS = 10 * SECOND_NS
# A dump takes 10 ms and more however little it tells: so many namespaces are read again at a time.
MOST_READ_AGAIN = 4


class Dumped(NamedTuple):
    """A namespace, by its inode number, and its connections, an array of `CONNECTION`."""

    inode: int
    connections: np.ndarray


class OtherNamespaces(Closing):
    """Those of all processes; made by a thread in the machine's namespace.

    Args:
        proc: the host's /proc.

    Attributes:
        unread: messages of connection tracking whose form is not known.

    Raises:
        OSError: the kernel refuses sockets.

    """

    def __init__(self, proc: Path) -> None:
        self.unread = 0
        self._proc = proc
        self._ids = NamespaceIds()
        self._own = NetworkNamespace(OWN_NETWORK_NAMESPACE)
        self._inodes: dict[int, int] = {}  # by number
        self._known = {self._own.inode}
        self._missing: set[int] = set()  # inode numbers and others
        self._paid_ns = 0  # until when the looks so far have used up their share of the time
        self._new: dict[int, int] = {}  # a process of each, by inode number
        self._again: dict[int, int] = {}
        self._told = False
        self._look()

    def close(self) -> None:
        """Let go of the sockets."""
        self._ids.close()
        self._own.close()

    def inode(self, number: int) -> int | None:
        """Return the inode number of the namespace with this number; None: it was not found."""
        return self._inodes.get(number)

    def seek(self, wanted: Collection[int]) -> None:
        """Look for namespaces that are not known yet, by inode number or number, unless that was in vain just now."""
        now_ns = time.monotonic_ns()
        if now_ns > self._paid_ns:
            self._missing.clear()
        unknown = not self._known.union(self._inodes, self._missing).issuperset(wanted)
        if unknown and now_ns > self._paid_ns - _AHEAD_NS:
            self._look()
            self._missing.update(set(wanted).difference(self._known, self._inodes))

    def ended(self) -> list[int]:
        """Return the inode numbers of namespaces that are gone; call it before events are read."""
        ended = self._ids.ended()
        numbers = list(self._inodes) if ended is None else [number for number in ended if number in self._inodes]
        inodes = {self._inodes.pop(number) for number in numbers} - {self._own.inode}
        self._known -= inodes
        self._missing.difference_update(self._missing if ended is None else ended)
        return list(inodes)

    def read_again(self) -> None:
        """Have `dumps` tell all again, some at a time; first those that are still due."""
        found = self._processes()
        due = dict.fromkeys([*self._again, *(self._known - {self._own.inode})])
        self._again = {inode: found[inode] for inode in due if inode in found}

    def dumps(self) -> Iterator[Dumped]:
        """Yield the connections of namespaces that were met since the call before, and of some to be read again."""
        due, self._new = self._new, {}
        for inode in list(self._again)[:MOST_READ_AGAIN]:
            due[inode] = self._again.pop(inode)
        for inode, pid in due.items():
            try:
                with NetworkNamespace(self._proc / str(pid) / "ns" / "net") as namespace:
                    if namespace.inode == inode:
                        # Events of one that had its number before may have been taken for its own.
                        yield Dumped(inode, self._dump(namespace) if self._tracks(pid) else np.empty(0, CONNECTION))
            except (FileNotFoundError, ProcessLookupError):  # the process has ended
                continue
            except OSError as error:
                self._tell(error)

    def _look(self) -> None:
        """Find the namespaces of processes, and give those that are new their numbers."""
        begin_ns = time.monotonic_ns()
        try:
            own = self._ids.known(self._own.fd)
            if own is not None:  # its own events then have it too, before commit 88b126b39f97
                self._inodes[own] = self._own.inode
        except OSError as error:
            self._tell(error)
        for inode, pid in self._processes().items():
            if inode not in self._known and len(self._known) < MOST_NAMESPACES:
                try:
                    with NetworkNamespace(self._proc / str(pid) / "ns" / "net") as namespace:
                        self._inodes[self._ids.of(namespace.fd)] = namespace.inode
                        self._known.add(namespace.inode)
                        self._new[namespace.inode] = pid
                except (FileNotFoundError, ProcessLookupError):
                    continue
                except OSError as error:
                    self._tell(error)
        self._paid_ns = max(self._paid_ns, begin_ns) + LOOK_BUDGET * (time.monotonic_ns() - begin_ns)

    def _processes(self) -> dict[int, int]:
        try:
            return processes_by_network_namespace(self._proc)
        except OSError as error:
            self._tell(error)
            return {}

    def _tracks(self, pid: int) -> bool:
        """Return whether connections are tracked in the namespace of a process: most have no rules that ask for it."""
        try:
            _, counters, *_ = (self._proc / str(pid) / "net" / "stat" / "nf_conntrack").read_text().splitlines()
            return int(counters.split()[0], 16) > 0
        except (OSError, ValueError):  # a kernel without CONFIG_NF_CONNTRACK_PROCFS
            return True

    def _dump(self, namespace: NetworkNamespace) -> np.ndarray:
        with entered(namespace.fd):
            dumps = ConntrackDumps()
        with dumps:
            connections = dumps.read()
        self.unread += dumps.unread
        return connections

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            _LOGGER.warning("connections that containers translated before the collector came are not known: %s", error)
