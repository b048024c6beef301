"""How rows agree with the kernel's own counters: kernel_collector/agreement.py."""

from __future__ import annotations

import os

import pytest
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from kernel_collector.agreement import INTERVAL_NS, Agreement
from tests.rows import table_of, tcp_rows


class Machine:
    """A /proc of processes in network namespaces, and a clock."""

    def __init__(self, proc):
        self.proc = proc
        self.now_ns = 0

    def process(self, pid, namespace_of=None):
        """Make a process in a network namespace of its own, or in that of another process."""
        directory = self.proc / str(pid) / "ns"
        directory.mkdir(parents=True)
        if namespace_of is None:
            (directory / "net").touch()
        else:
            os.link(self.proc / str(namespace_of) / "ns" / "net", directory / "net")

    def counts(self, pid, *, segments=0, retransmits=0, sent=0, received=0, no_room=0, octets=0, ipv6=None):
        net = self.proc / str(pid) / "net"
        net.mkdir(exist_ok=True)
        (net / "snmp").write_text(
            f"Tcp: OutSegs RetransSegs\nTcp: {segments} {retransmits}\n"
            f"Udp: InDatagrams OutDatagrams RcvbufErrors\nUdp: {received} {sent} {no_room}\n"
        )
        (net / "netstat").write_text(f"IpExt: InOctets OutOctets\nIpExt: {octets} {octets}\n")
        if ipv6 is not None:
            (net / "snmp6").write_text(f"Udp6OutDatagrams \t{ipv6}\nIp6OutOctets\t{ipv6}\n")

    def agreement(self, *, udp=True):
        return Agreement(self.proc, [], lambda: self.now_ns, udp=udp)

    def told(self, agreement):
        """Return what is told a minute later: counted, and counted by the kernel, by measure."""
        self.now_ns += INTERVAL_NS
        statistics = intake_pb2.CollectorStatistics()
        agreement.fill(statistics)
        return {each.measure: (each.counted, each.counted_by_kernel) for each in statistics.agreements}


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    made.process(1)
    made.counts(1, segments=1_000, retransmits=7, sent=100, received=200, no_room=3, octets=5_000)
    return made


def test_the_kernel_counts_from_the_start_of_the_collector_on(machine):
    agreement = machine.agreement()
    machine.counts(1, segments=1_100, retransmits=9, sent=104, received=205, no_room=4, octets=5_600, ipv6=50)
    assert machine.told(agreement) == {
        "tcp.segments_sent": (0, 102),
        "tcp.retransmits": (0, 2),
        "udp.packets_sent": (0, 54),
        "udp.packets_received": (0, 6),
        "ip.bytes_sent": (0, 650),
        "ip.bytes_received": (0, 600),
    }
    machine.counts(1, segments=1_101, retransmits=9, sent=104, received=205, no_room=4, octets=5_600, ipv6=50)
    assert machine.told(agreement)["tcp.segments_sent"] == (0, 103)


def test_rows_are_added_up(machine):
    agreement = machine.agreement()
    tcp = {"segments_sent": 10, "retransmits": 2, "bytes_sent": 100, "bytes_received": 1_000}
    agreement.count({"tcp": tcp_rows(tcp, tcp | {"role": intake_pb2.ROLE_ACCEPTOR, "opened": 1})})
    udp = {"packets_sent": 3, "packets_received": 4, "bytes_sent": 30, "bytes_received": 40}
    agreement.count({"udp": table_of("udp", udp), "drops": table_of("drops", {"packets": 1})})
    assert {measure: counted for measure, (counted, _) in machine.told(agreement).items()} == {
        "tcp.segments_sent": 21,  # the SYN-ACK was sent before there was a socket
        "tcp.retransmits": 4,
        "udp.packets_sent": 3,
        "udp.packets_received": 4,
        "ip.bytes_sent": 230,
        "ip.bytes_received": 2_040,
    }


def test_a_namespace_counts_once_and_one_that_is_new_from_its_making_on(machine):
    agreement = machine.agreement()
    machine.process(2, namespace_of=1)
    machine.counts(2, segments=1_000, retransmits=7)
    machine.process(3)
    machine.counts(3, segments=20, retransmits=1)
    assert machine.told(agreement)["tcp.segments_sent"] == (0, 21)


def test_a_namespace_that_has_counted_less_is_another_one(machine):
    agreement = machine.agreement()
    machine.counts(1, segments=40, retransmits=0)
    assert machine.told(agreement)["tcp.segments_sent"] == (0, 40)


def test_the_kernel_is_read_each_minute_or_in_haste(machine):
    agreement = machine.agreement()
    machine.counts(1, segments=1_001, retransmits=7)
    machine.now_ns += INTERVAL_NS - SECOND_NS
    early = intake_pb2.CollectorStatistics()
    agreement.fill(early)
    assert not early.agreements
    agreement.hasten()
    agreement.fill(early)
    assert [each.counted_by_kernel for each in early.agreements if each.measure == "tcp.segments_sent"] == [1]
    machine.counts(1, segments=1_002, retransmits=7)
    again = intake_pb2.CollectorStatistics()
    agreement.fill(again)
    assert again.agreements == early.agreements


def test_without_udp_nothing_is_told_of_it(machine):
    told = machine.told(machine.agreement(udp=False))
    assert set(told) == {"tcp.segments_sent", "tcp.retransmits", "ip.bytes_sent", "ip.bytes_received"}
