"""How what the collector's rows add up to agrees with what the kernel itself counted in the same network namespaces.

The kernel's counters are those of /proc/net/snmp, snmp6 and netstat (RFC 4022, 4113, 4293), read each minute: 0.3 ms a
namespace.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from kernel_collector.machine.network_namespaces import entered, processes_by_network_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from intake.columns import Columns, Tables
    from kernel_collector.machine.network_namespaces import NetworkNamespace

INTERVAL_NS = 60 * SECOND_NS
# Whose counters are kept to compare with, also where no process is in them for a while.
MOST_NAMESPACES = 4_096
_OWN_NET = Path("/proc/thread-self/net")

# What the kernel's counters add up to, by their names in the files.
KERNEL = {
    # OutSegs has no retransmits.
    "tcp.segments_sent": ("Tcp.OutSegs", "Tcp.RetransSegs"),
    "tcp.retransmits": ("Tcp.RetransSegs",),
    "udp.packets_sent": ("Udp.OutDatagrams", "Udp6OutDatagrams"),
    "udp.packets_received": ("Udp.InDatagrams", "Udp6InDatagrams", "Udp.RcvbufErrors", "Udp6RcvbufErrors"),
    "ip.bytes_sent": ("IpExt.OutOctets", "Ip6OutOctets"),
    "ip.bytes_received": ("IpExt.InOctets", "Ip6InOctets"),
}
_FILES = ("snmp", "snmp6", "netstat")


class Agreement:
    """Adds up rows and the kernel's counters from its making on.

    Args:
        proc: the host's /proc.
        named: the network namespaces that are watched; none: those of all processes.
        udp: whether rows tell of UDP.
        clock_ns: gives a time that nobody sets.

    """

    def __init__(
        self, proc: Path, named: Sequence[NetworkNamespace], clock_ns: Callable[[], int], *, udp: bool
    ) -> None:
        self._proc = proc
        self._named = named
        self._clock_ns = clock_ns
        self._measures = [measure for measure in KERNEL if udp or not measure.startswith("udp.")]
        self._counted = dict.fromkeys(KERNEL, 0)
        self._kernel = dict.fromkeys(KERNEL, 0)
        self._read = dict(self._namespaces())
        self._due_ns = clock_ns() + INTERVAL_NS
        self._told: list[intake_pb2.Agreement] = []

    def count(self, tables: Tables) -> None:
        """Add rows that are submitted."""
        if tcp := tables.get("tcp"):
            # A SYN-ACK is sent before there is a socket that could count it.
            accepted = int(tcp["opened"][tcp["role"] == intake_pb2.ROLE_ACCEPTOR].sum())
            self._counted["tcp.segments_sent"] += _total(tcp, "segments_sent") + accepted
            self._counted["tcp.retransmits"] += _total(tcp, "retransmits")
            self._add_bytes(tcp)
        if udp := tables.get("udp"):
            self._counted["udp.packets_sent"] += _total(udp, "packets_sent")
            self._counted["udp.packets_received"] += _total(udp, "packets_received")
            self._add_bytes(udp)

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Tell both totals as of the last reading, which is now if it is due."""
        if self._clock_ns() >= self._due_ns:
            self._due_ns = self._clock_ns() + INTERVAL_NS
            self._read_kernel()
            self._told = [
                intake_pb2.Agreement(
                    measure=measure, counted=self._counted[measure], counted_by_kernel=self._kernel[measure]
                )
                for measure in self._measures
            ]
        statistics.agreements.extend(self._told)

    def hasten(self) -> None:
        """Have the next `fill` read."""
        self._due_ns = 0

    def _add_bytes(self, rows: Columns) -> None:
        for direction in ("sent", "received"):
            self._counted[f"ip.bytes_{direction}"] += _total(rows, f"bytes_{direction}")

    def _read_kernel(self) -> None:
        """Add what each namespace has counted since it was read before, or since its making."""
        for inode, counters in self._namespaces():
            known = self._read.pop(inode, {})  # what was read last is last in the dict
            self._read[inode] = counters
            for measure, names in KERNEL.items():
                more = sum(counters.get(name, 0) - known.get(name, 0) for name in names)
                # One of the same number that has counted less is another one.
                self._kernel[measure] += more if more >= 0 else sum(counters.get(name, 0) for name in names)
        for inode in list(self._read)[:-MOST_NAMESPACES]:
            del self._read[inode]

    def _namespaces(self) -> Iterator[tuple[int, dict[str, int]]]:
        for namespace in self._named:
            with entered(namespace.fd):
                yield namespace.inode, read_counters(_OWN_NET)
        if not self._named:
            for inode, pid in processes_by_network_namespace(self._proc).items():
                if counters := read_counters(self._proc / str(pid) / "net"):  # else the process has ended
                    yield inode, counters


def read_counters(net: Path) -> dict[str, int]:
    """Return the counters of a network namespace: `Tcp.OutSegs`, `IpExt.InOctets`, `Udp6InDatagrams`, …."""
    counters: dict[str, int] = {}
    for file in _FILES:
        try:
            lines = [line.split() for line in (net / file).read_text().splitlines()]
        except OSError:  # there is no IPv6
            continue
        if file == "snmp6":
            counters |= {name: int(value) for name, value in lines}
        else:  # a line of names, then one of values
            for names, values in zip(lines[::2], lines[1::2], strict=True):
                group = names[0].removesuffix(":")
                counters |= {f"{group}.{name}": int(value) for name, value in zip(names[1:], values[1:], strict=True)}
    return counters


def _total(rows: Columns, column: str) -> int:
    return int(rows[column].sum())
