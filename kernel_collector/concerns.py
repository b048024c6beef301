"""The concerns that there are, and all that are open taken together."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from intake.columns import stacked
from kernel_collector.bpf.btf import BtfError
from kernel_collector.concern import Concern, Kind
from kernel_collector.drops import concern as drops_concern
from kernel_collector.drops.concern import DropsConcern
from kernel_collector.http.concern import HttpConcern
from kernel_collector.nat import concern as nat_concern
from kernel_collector.nat.concern import NatConcern
from kernel_collector.packets import Packets
from kernel_collector.udp.concern import UdpConcern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy as np
    from ebpf_net.v1 import intake_pb2

    from intake.columns import Columns, Tables
    from kernel_collector.concern import Surroundings
    from kernel_collector.options import Settings

_LOGGER = logging.getLogger(__name__)
# As many go out together: what they become takes several times their memory.
ENOUGH_ROWS = 8_192


def _tried_on_packets(part: str, proc: Path, objects: Path) -> str:
    with Packets(proc, (part,), objects=objects) as packets:
        packets.require(part)
        if part == "udp" and packets.in_udp_functions:
            return "counted in the kernel's functions for it (fentry): other protocols cost nothing"
    return "watched by a program on packets (cgroup_skb)"


def _open_dns(surroundings: Surroundings) -> Concern:
    from kernel_collector.dns.concern import DnsConcern  # noqa: PLC0415  # dnspython takes 4 MiB

    return DnsConcern(surroundings)


_PACKETS_NEED = "see to cgroup v2 and CAP_NET_ADMIN"
KINDS = (
    Kind(
        "UDP",
        f"{_PACKETS_NEED}, or give --disable-udp-metrics",
        lambda settings: settings.udp_metrics,
        UdpConcern,
        partial(_tried_on_packets, "udp"),
        "udp",
    ),
    Kind(
        "HTTP",
        f"{_PACKETS_NEED}, or give --disable-http-metrics",
        lambda settings: settings.http_metrics,
        HttpConcern,
        partial(_tried_on_packets, "http"),
        "http",
    ),
    Kind(
        "drops",
        "or give --disable-drop-metrics",
        lambda settings: settings.drop_metrics,
        DropsConcern,
        drops_concern.tried,
    ),
    Kind(
        "NAT",
        "see to CAP_NET_ADMIN and the module nf_conntrack_netlink, or give --disable-nat",
        lambda settings: not settings.disable_nat,
        NatConcern,
        nat_concern.tried,
    ),
    Kind(
        "DNS",
        f"{_PACKETS_NEED}, or give --disable-dns-metrics",
        lambda settings: settings.dns_metrics,
        _open_dns,
        partial(_tried_on_packets, "dns"),
        "dns",
    ),
)


def watched_on_packets(settings: Settings) -> list[str]:
    """Return the wanted concerns that look at packets, by their keys in `packets.PREFIXES`."""
    return [kind.part for kind in KINDS if kind.part and kind.wanted(settings)]


class Concerns:
    """The concerns that are wanted and that this kernel allows; what it refuses is logged, and the rest runs.

    Attributes:
        more: `read` has left rows to be read by another call.

    """

    def __init__(self, surroundings: Surroundings) -> None:
        self.more = False
        self._open: list[Concern] = []
        for kind in KINDS:
            if kind.wanted(surroundings.settings):
                try:
                    self._open.append(kind.open(surroundings))
                except (OSError, BtfError) as error:
                    _LOGGER.warning("%s is not watched, all else is: %s; %s", kind.name, error, kind.remedy)
        self._unread = [*self._open]

    def __iter__(self) -> Iterator[Concern]:
        return iter(self._open)

    def drain(self) -> None:
        """Take what would not find room until the next poll."""
        for concern in self._open:
            concern.drain()

    def early(self) -> Tables:
        """Return the rows that need not wait for the poll."""
        return joined(concern.early() for concern in self._open)

    def gather(self) -> None:
        """Take what the kernel has, before the ends of sockets are read."""
        for concern in self._open:
            concern.gather()

    def read(self) -> Tables:
        """Return the rows since the call before, or some of them where they are many."""
        parts: list[Tables] = []
        rows = 0
        while self._unread and rows < ENOUGH_ROWS:
            concern = self._unread[0]
            parts.append(concern.read())
            rows += sum(len(columns["socket"]) for columns in parts[-1].values())
            if not concern.more:
                del self._unread[0]
        self.more = bool(self._unread)
        if not self.more:
            self._unread = [*self._open]
        return joined(parts)

    def rewrite(self, tables: Tables) -> Tables:
        """Return the rows of all, and of TCP, as they are to be sent."""
        for concern in self._open:
            tables = concern.rewrite(tables)
        return tables

    def drain_one(self, number: int) -> None:
        """Have one, by its place, take what would not find room until the next poll."""
        self._open[number].drain()

    def processes(self) -> list[np.ndarray]:
        """Return the ids of the processes that later rows may refer to."""
        return [concern.processes() for concern in self._open]

    def cgroups(self) -> list[np.ndarray]:
        """Return the ids of the cgroups that later rows may refer to."""
        return [concern.cgroups() for concern in self._open]

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Complete the statistics of the collector."""
        for concern in self._open:
            concern.fill(statistics)

    def announce(self, entities: intake_pb2.Entities) -> None:
        """Add the entities that are new since the call before."""
        for concern in self._open:
            concern.announce(entities)

    def remind(self, entities: intake_pb2.Entities) -> None:
        """Add all entities that are to be known."""
        for concern in self._open:
            concern.remind(entities)

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.pop().close()


def joined(parts: Iterable[Tables]) -> Tables:
    """Return the tables of all *parts*: the rows of one that several have stand one after the other."""
    found: dict[str, list[Columns]] = {}
    for tables in parts:
        for table, columns in tables.items():
            found.setdefault(table, []).append(columns)
    return {table: stacked(of_table) for table, of_table in found.items()}
