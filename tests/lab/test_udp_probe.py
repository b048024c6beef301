"""The UDP probe alone, against what this test itself did to the running kernel."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.packets import Packets
from kernel_collector.udp.probe import UdpProbe
from kernel_collector.workloads.cgroup_tree import v2_hierarchy
from tests.lab.network import Network
from tests.lab.sockets import arrival, cookie
from tests.rows import packed

UDP_SEGMENT, UDP_GRO = 103, 104
LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}


@pytest.fixture
def probe(host):
    with (
        NetworkNamespace(host.namespace) as namespace,
        Packets(Path("/proc"), ("udp",), frozenset([namespace.inode])) as packets,
        arrival(host) as arrived,
    ):
        opened = UdpProbe(packets)
        drain = opened.drain
        opened.drain = lambda: (arrived(), drain())[1]
        yield opened


def udp_socket(host, address):
    with host.entered():
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, 0))
    opened.settimeout(5)
    return opened


def own_cgroup():
    (path,) = (line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    return Path(f"{v2_hierarchy(Path('/proc'))}{path[3:]}").stat().st_ino


def counted(traffic, sock):
    """Bytes and packets sent and received by a socket, of all its peers."""
    counts = traffic.counts[traffic.peers["cookie"] == cookie(sock)]
    return tuple(
        int(counts[name].sum()) for name in ("bytes_sent", "packets_sent", "bytes_received", "packets_received")
    )


@pytest.mark.parametrize("address", LOOPBACK.values(), ids=LOOPBACK)
def test_both_directions_connected_or_not(host, probe, address):
    with udp_socket(host, address) as server, udp_socket(host, address) as client, udp_socket(host, address) as other:
        client.connect(server.getsockname()[:2])
        for length in (0, 1, 1400, 30_000):  # the last one is cut into fragments on a wire of 1500
            client.send(b"x" * length)
            server.recv(65_536)
        server.sendto(b"y" * 7, client.getsockname()[:2])
        other.sendto(b"z" * 11, server.getsockname()[:2])
        traffic = probe.drain()
        assert counted(traffic, client) == (31_401, 4, 7, 1)
        assert counted(traffic, server) == (7, 1, 31_412, 5)
        assert counted(traffic, other) == (11, 1, 0, 0)
        peers = traffic.peers[traffic.peers["cookie"] == cookie(server)]
        assert set(peers["remote_port"].tolist()) == {client.getsockname()[1], other.getsockname()[1]}
        assert {bytes(peer["local_address"]) for peer in peers} == {packed(address)}
        assert {bytes(peer["remote_address"]) for peer in peers} == {packed(address)}
        assert not len(probe.drain().peers)


@pytest.mark.parametrize("joined", [False, True], ids=["cut again before the socket", "joined up to the socket"])
@pytest.mark.parametrize("address", LOOPBACK.values(), ids=LOOPBACK)
def test_segments_count_as_packets_on_the_wire(host, probe, address, joined):
    with udp_socket(host, address) as server, udp_socket(host, address) as client:
        server.setsockopt(socket.IPPROTO_UDP, UDP_GRO, joined)
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        client.sendto(b"x" * 4_500, server.getsockname()[:2])
        traffic = probe.drain()
        assert counted(traffic, client) == (4_500, 5, 0, 0)
        assert counted(traffic, server) == (0, 0, 4_500, 5)


def test_ipv6_extension_headers_are_passed_over(host, probe):
    with udp_socket(host, "::1") as server, udp_socket(host, "::1") as client:
        padding = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # PadN, RFC 8200 4.2
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, padding)
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, padding)
        client.sendto(b"x" * 123, server.getsockname()[:2])
        assert server.recv(200) == b"x" * 123
        traffic = probe.drain()
        assert counted(traffic, client) == (123, 1, 0, 0)
        assert counted(traffic, server) == (0, 0, 123, 1)


def test_peers_beyond_the_limit_are_one_and_nothing_is_lost(host):
    count, limit = 300, 100
    packed_limit = limit.to_bytes(4, "little")
    with (
        NetworkNamespace(host.namespace) as namespace,
        Packets(Path("/proc"), ("udp",), frozenset([namespace.inode]), {"udp_most_peers": packed_limit}) as packets,
        udp_socket(host, "127.0.0.1") as server,
    ):
        probe = UdpProbe(packets)
        for _ in range(2):  # the limit begins anew with each reading
            before = probe.packets_of_other_peers
            with contextlib.ExitStack() as clients:  # open together: none gets the port of another
                for number in range(count):
                    clients.enter_context(udp_socket(host, "127.0.0.1")).sendto(b"x" * number, server.getsockname())
                    server.recv(1000)
            traffic = probe.drain()
            assert counted(traffic, server) == (0, 0, count * (count - 1) // 2, count)
            of_server = traffic.peers["cookie"] == cookie(server)
            peers, counts = traffic.peers[of_server], traffic.counts[of_server]
            others = peers["remote_port"] == 0
            assert len(peers) == limit + 1
            assert [bytes(address) for address in peers["remote_address"][others]] == [bytes(16)]
            assert counts["packets_received"][others].tolist() == [count - limit]
            assert probe.packets_of_other_peers - before == count - limit
        assert probe.packets_untracked == 0


def test_other_network_namespaces_are_passed_over(probe):
    with contextlib.closing(Network()) as elsewhere, udp_socket(elsewhere.centre, "127.0.0.1") as other:
        other.sendto(b"x", other.getsockname())
        assert not len(probe.drain().peers)


def test_drops_are_those_of_the_kernel(host, probe):
    with udp_socket(host, "127.0.0.1") as server, udp_socket(host, "127.0.0.1") as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(500):
            client.sendto(b"x" * 500, server.getsockname())
        records = probe.poll()
        of_server = records[records["cookie"] == cookie(server)]
        assert of_server["cgroup"].tolist() == [own_cgroup()]
        dropped = int(of_server["drops"][0])
        lines = [line.split() for line in host.run("cat", "/proc/net/udp").splitlines()[1:]]
        port = f"{server.getsockname()[1]:04X}"
        assert dropped == sum(int(line[-1]) for line in lines if line[1].endswith(port)) > 400
        assert counted(probe.drain(), server)[3] == 500  # what the socket drops has reached it
        told = probe.dropped()
        of_server = told.cookies == cookie(server)
    assert (told.before[of_server].tolist(), told.now[of_server].tolist()) == ([0], [dropped])


def test_who_opened_a_socket_that_no_poll_saw(host, probe):
    program = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x' * 9, ('127.0.0.1', 9))"
    with host.entered():
        ended = subprocess.Popen([sys.executable, "-c", program])
    assert ended.wait(20) == 0
    _, counts = probe.drain()
    assert counts["cgroup"].tolist() == [own_cgroup()]
    assert counts["pid"].tolist() == [ended.pid]
    assert counts["bytes_sent"].tolist() == [9]


def test_nothing_new_is_told_without_waiting_for_the_kernel(probe, monkeypatch):
    probe.drain()
    monkeypatch.setattr(BpfObject, "update", pytest.fail)  # it exchanges maps, for which the kernel takes its time
    assert not len(probe.drain().peers)


def test_nothing_is_lost_or_told_twice_while_maps_are_exchanged(host, probe):
    program = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM)\n"
        "for _ in range(300_000): s.sendto(b'x' * 10, ('127.0.0.1', 9))"
    )
    with host.entered():
        sender = subprocess.Popen([sys.executable, "-c", program])
    parts = []
    while sender.poll() is None:
        parts.append(probe.drain().counts)
    parts.append(probe.drain().counts)
    total = np.concatenate(parts)
    assert len(total) > 3
    assert int(total["packets_sent"].sum()) == 300_000
    assert int(total["bytes_sent"].sum()) == 3_000_000
