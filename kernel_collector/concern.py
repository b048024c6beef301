"""What the collector watches besides TCP sockets: the interface of such a concern, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ebpf_net.v1 import intake_pb2

    from intake.columns import Tables
    from kernel_collector.options import Settings
    from kernel_collector.packets import Packets
    from kernel_collector.tcp.sockets import SocketTable


class Concern:
    """Its methods are called in one thread, at each poll: `gather`, `read`, then `fill` and `announce`.

    What stands here is right for a concern that has nothing of the kind.

    Attributes:
        wakeup_fd: a file descriptor that is readable when `drain` should be called; None: that is never so.

    """

    wakeup_fd: int | None = None

    def drain(self) -> None:
        """Take what would not find room until the next poll; also called before events of TCP are read."""

    def early(self) -> Tables:
        """Return the rows that need not wait for the poll, of what `drain` has taken."""
        return {}

    def gather(self) -> None:
        """Take what the kernel has of sockets, before their ends are read: then `read` finds their owners."""

    def read(self) -> Tables:
        """Return the rows since the call before, or some of them where they are many."""
        raise NotImplementedError

    @property
    def more(self) -> bool:
        """Whether `read` has left rows, to be read by another call."""
        return False

    def rewrite(self, tables: Tables) -> Tables:
        """Return the rows of all concerns, and of TCP, as they are to be sent."""
        return tables

    def processes(self) -> np.ndarray:
        """Return the ids of the processes that later rows may refer to, in any order and number."""
        return np.empty(0, np.uint32)

    def cgroups(self) -> np.ndarray:
        """Return the ids of the cgroups that later rows may refer to, in any order and number."""
        return np.empty(0, np.uint64)

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Set what is this concern's, and add to what all have: `events_lost`, `sockets_tracked`, …."""

    def announce(self, entities: intake_pb2.Entities) -> None:
        """Add the entities that are new since the call before."""

    def remind(self, entities: intake_pb2.Entities) -> None:
        """Add all entities that unacknowledged batches or later rows may refer to, for a reducer that knows none."""

    def close(self) -> None:
        """Let go of what it holds in the kernel."""


class Identifier(Protocol):
    """What a concern asks of processes."""

    def identify(self, records: np.ndarray) -> np.ndarray:
        """Return the id of each record's process; see `ProcessTable`."""


class Surroundings(NamedTuple):
    """What a concern is given when it is opened.

    Attributes:
        settings: of the operator.
        network_namespaces: inode numbers of those to which it is limited; none: it sees all.
        packets: in which the concerns are watched that need it.
        processes: that rows refer to.
        sockets: of TCP, with their owners.

    """

    settings: Settings
    network_namespaces: frozenset[int]
    packets: Packets
    processes: Identifier
    sockets: SocketTable


class Kind(NamedTuple):
    """A kind of concern.

    Attributes:
        name: for people.
        remedy: what to see to, or to leave out, where the kernel refuses it.
        wanted: whether the operator wants it.
        open: open it; raises OSError or BtfError where the kernel, or the lack of a capability, does not allow it.
        tried: open and close it, by /proc and the directory of the compiled programs; return how it is watched.
        part: its key in `packets.PREFIXES`; empty where it does not look at packets.

    """

    name: str
    remedy: str
    wanted: Callable[[Settings], bool]
    open: Callable[[Surroundings], Concern]
    tried: Callable[[Path, Path], str]
    part: str = ""
