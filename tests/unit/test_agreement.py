from __future__ import annotations

from pathlib import Path

import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import empty_columns
from kernel_collector.agreement import INTERVAL_NS, Agreement, read_counters
from kernel_collector.network_namespaces import processes_by_network_namespace

SNMP = """Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm OutSegs RetransSegs MaxConn
Tcp: 1 {sent} {retransmitted} -1
Udp: InDatagrams RcvbufErrors OutDatagrams
Udp: 5 1 7
"""
SNMP6 = "Ip6OutOctets                    \t1000\nUdp6OutDatagrams 3\n"
NETSTAT = "IpExt: InNoRoutes OutOctets\nIpExt: 0 {octets}\n"


class World:
    """A /proc with one process in each network namespace, and a clock."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.now_ns = 0
        self.pids = {}
        monkeypatch.setattr("kernel_collector.agreement.processes_by_network_namespace", lambda proc: {**self.pids})

    def put(self, inode, sent, retransmitted=0, octets=0):
        self.pids[inode] = inode
        net = self.root / str(inode) / "net"
        net.mkdir(parents=True, exist_ok=True)
        (net / "snmp").write_text(SNMP.format(sent=sent, retransmitted=retransmitted))
        (net / "snmp6").write_text(SNMP6)
        (net / "netstat").write_text(NETSTAT.format(octets=octets))

    def agreement(self, *, udp=False):
        return Agreement(self.root, [], lambda: self.now_ns, udp=udp)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def told(agreement):
    statistics = intake_pb2.CollectorStatistics()
    agreement.fill(statistics)
    return {each.measure: (each.counted, each.counted_by_kernel) for each in statistics.agreements}


def tcp_rows(**values):
    rows = empty_columns(1)
    for name, value in values.items():
        rows[name][:] = value
    return {"tcp": rows}


def test_what_is_told(world):
    world.put(1, sent=1_000, octets=50)
    agreement = world.agreement(udp=True)
    assert told(agreement) == {}
    rows = {"segments_sent": 90, "retransmits": 10, "bytes_sent": 700, "bytes_received": 4}
    agreement.count(tcp_rows(**rows, opened=1, role=intake_pb2.ROLE_ACCEPTOR))
    agreement.count(tcp_rows(opened=1, role=intake_pb2.ROLE_CONNECTOR))
    udp = empty_columns(1, "udp")
    udp["packets_sent"][:], udp["bytes_sent"][:] = 6, 100
    agreement.count({"udp": udp})
    world.put(1, sent=1_080, retransmitted=12, octets=1_050)
    assert told(agreement) == {}
    agreement.hasten()
    expected = {
        "tcp.segments_sent": (91, 92),
        "tcp.retransmits": (10, 12),
        "udp.packets_sent": (6, 0),
        "udp.packets_received": (0, 0),
        "ip.bytes_sent": (800, 1_000),
        "ip.bytes_received": (4, 0),
    }
    assert told(agreement) == expected
    agreement.count(tcp_rows(segments_sent=5))
    assert told(agreement) == expected, "both are of one moment"
    world.now_ns += INTERVAL_NS
    assert told(agreement)["tcp.segments_sent"] == (96, 92)


def test_udp_is_compared_only_where_it_is_counted(world):
    world.put(1, sent=0)
    agreement = world.agreement()
    agreement.hasten()
    assert not [measure for measure in told(agreement) if measure.startswith("udp")]


def test_namespaces_come_and_go(world):
    world.put(1, sent=100)
    agreement = world.agreement()
    world.put(2, sent=30)  # made since
    agreement.hasten()
    assert told(agreement)["tcp.segments_sent"] == (0, 30)
    del world.pids[2]
    agreement.hasten()
    assert told(agreement)["tcp.segments_sent"] == (0, 30)
    world.put(2, sent=35)  # without a process for a while
    agreement.hasten()
    assert told(agreement)["tcp.segments_sent"] == (0, 35)
    world.put(2, sent=4)  # another one of its number
    agreement.hasten()
    assert told(agreement)["tcp.segments_sent"] == (0, 39)
    world.pids[3] = 3  # its process has ended: there are no files
    agreement.hasten()
    assert told(agreement)["tcp.segments_sent"] == (0, 39)


def test_counters_of_this_machine():
    counters = read_counters(Path("/proc/self/net"))
    assert counters["Tcp.OutSegs"] >= 0
    assert counters["IpExt.InOctets"] >= 0
    assert processes_by_network_namespace(Path("/proc"))
