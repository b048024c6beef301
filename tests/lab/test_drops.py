"""Dropped packets as the kernel tells them, against what nft counted or the test sent."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.concern import Surroundings
from kernel_collector.drops.concern import DropsConcern, tried
from kernel_collector.drops.probe import DropsProbe, reason_names
from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.objects import OBJECTS
from kernel_collector.options import Settings
from tests.lab.network import Network
from tests.lab.sockets import cookie, kernel_counter, udp_counter
from tests.lab.waiting import wait_until
from tests.rows import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.network import Host

PORT, SENT, SIZE = 5300, 25, 700
REASONS = reason_names()
UDP_SEGMENT = 103


@pytest.fixture
def hosts():
    with contextlib.closing(Network()) as network:
        yield network.host("client"), network.host("server")


@pytest.fixture
def open_probe(hosts):
    """A probe of the drops on the server, or on a host."""
    with contextlib.ExitStack() as stack:

        def opened(host=hosts[1], **options):
            namespace = stack.enter_context(NetworkNamespace(host.namespace))
            return stack.enter_context(DropsProbe(frozenset([namespace.inode]), **options))

        yield opened


def socket_on(host: Host, kind: int, family: str) -> socket.socket:
    with host.entered():
        opened = socket.socket(socket.AF_INET6 if family == "ipv6" else socket.AF_INET, kind)
    opened.settimeout(0.5)
    return opened


def listening(server: Host, family: str) -> socket.socket:
    with server.entered():
        return socket.create_server(
            (getattr(server, family), PORT), family=socket.AF_INET6 if family == "ipv6" else socket.AF_INET
        )


def send(client: Host, to: str, count: int = SENT, size: int = SIZE) -> int:
    """Send datagrams from one socket; return its port."""
    with socket_on(client, socket.SOCK_DGRAM, "ipv6" if ":" in to else "ipv4") as one:
        for _ in range(count):
            with contextlib.suppress(ConnectionRefusedError):
                one.sendto(b"x" * size, (to, PORT))
        return one.getsockname()[1]


def drained(probe: DropsProbe, server: Host, packets: int):
    """Return what is told of drops once the server's firewall has counted so many; a busy kernel is behind."""
    wait_until(lambda: server.counted("drops")[0] >= packets, 60, "the drops")
    return probe.drain()


def told(drops, reason: str) -> dict:
    """Packets and bytes by transport and ends, of one reason."""
    return {
        (
            int(key["transport"]),
            key["source_address"].tobytes(),
            int(key["source_port"]),
            key["destination_address"].tobytes(),
            int(key["destination_port"]),
        ): (int(count["packets"]), int(count["bytes"]))
        for key, count in zip(drops.keys, drops.counts, strict=True)
        if REASONS[int(key["reason"])] == reason
    }


def added(entries: dict) -> tuple[int, ...]:
    return tuple(map(sum, zip(*entries.values(), strict=True)))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_firewalls_drops_equal_its_counter(hosts, open_probe, family):
    client, server = hosts
    to, source = getattr(server, family), getattr(client, family)
    server.firewall("drops", input_rules=f"meta l4proto {{ tcp, udp }} th dport {PORT} counter drop")
    probe = open_probe()
    port = send(client, to)
    with socket_on(client, socket.SOCK_STREAM, family) as one, contextlib.suppress(TimeoutError):
        one.settimeout(0.2)
        one.connect((to, PORT))
    found = told(drained(probe, server, SENT + 1), "NETFILTER_DROP")
    header = 28 if family == "ipv4" else 48
    assert found[socket.IPPROTO_UDP, packed(source), port, packed(to), PORT] == (SENT, SENT * (SIZE + header))
    assert added(found) == server.counted("drops")
    assert {key[0] for key in found} == {socket.IPPROTO_UDP, socket.IPPROTO_TCP}
    assert told(probe.drain(), "NETFILTER_DROP") == {}, "each is told once"


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_packets_for_closed_ports(hosts, open_probe, family):
    client, server = hosts
    to, source = getattr(server, family), getattr(client, family)
    probe = open_probe()
    port = send(client, to)
    with socket_on(client, socket.SOCK_STREAM, family) as one, contextlib.suppress(ConnectionRefusedError):
        one.bind((source, 0))
        tcp_port = one.getsockname()[1]
        one.connect((to, PORT))
    wait_until(lambda: udp_counter(server, family, "NoPorts") >= SENT, 60, "the datagrams")
    found = told(probe.drain(), "NO_SOCKET")
    assert found[socket.IPPROTO_UDP, packed(source), port, packed(to), PORT][0] == SENT
    assert found[socket.IPPROTO_TCP, packed(source), tcp_port, packed(to), PORT][0] == 1


def test_drops_of_what_a_host_sends_itself_tell_the_socket(hosts, open_probe):
    client, server = hosts
    client.firewall("drops", output_rules=f"udp dport {PORT} counter drop")
    probe = open_probe(client)
    with socket_on(client, socket.SOCK_DGRAM, "ipv4") as one:
        number = cookie(one)
        for _ in range(SENT):
            with contextlib.suppress(PermissionError):
                one.sendto(b"x", (server.ipv4, PORT))
    drops = probe.drain()
    assert added(told(drops, "NETFILTER_DROP")) == client.counted("drops") == (SENT, SENT * 29)
    assert number in drops.counts["socket"]


def test_segments_that_are_joined_count_one_by_one(hosts, open_probe):
    client, server = hosts
    server.firewall("drops", input_rules=f"udp dport {PORT} counter drop")
    probe = open_probe()
    with socket_on(client, socket.SOCK_DGRAM, "ipv4") as one:
        one.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        one.sendto(b"x" * 4500, (server.ipv4, PORT))
    assert added(told(drained(probe, server, 1), "NETFILTER_DROP"))[0] == 5


def test_a_later_fragment_tells_no_flow(hosts, open_probe):
    client, server = hosts
    server.firewall("drops")
    server.run("nft", "add chain inet drops early { type filter hook prerouting priority -450; }")
    server.run("nft", "add rule inet drops early ip frag-off & 0x1fff != 0 counter drop")
    probe = open_probe()
    send(client, server.ipv4, count=1, size=4000)
    found = told(drained(probe, server, 2), "NETFILTER_DROP")
    assert found == {(0, bytes(16), 0, bytes(16), 0): (2, 4000 + 8 - 1480 + 2 * 20)}


def test_flows_beyond_the_limit_are_told_together(hosts, open_probe):
    client, server = hosts
    server.firewall("drops", input_rules=f"udp dport {PORT} counter drop")
    probe = open_probe(most_flows=3)
    sent = 0
    for _ in range(2):
        for _ in range(20):
            send(client, server.ipv4, count=2)
        sent += 40
        found = told(drained(probe, server, sent), "NETFILTER_DROP")
        others = found.pop((socket.IPPROTO_UDP, bytes(16), 0, bytes(16), 0))
        assert len(found) <= 3
        assert others[0] + added(found)[0] == 40
    assert probe.of_other_flows >= 2 * 34
    assert probe.untracked == 0


def test_what_is_not_dropped_is_not_told(hosts, open_probe):
    client, server = hosts
    probe = open_probe()
    with socket_on(server, socket.SOCK_DGRAM, "ipv4") as serving:
        serving.bind((server.ipv4, PORT))
        send(client, server.ipv4)
        for _ in range(SENT):
            serving.recv(2000)
    drops = probe.drain()
    assert PORT not in drops.keys["destination_port"]


@pytest.mark.parametrize("of", ["client", "server"])
def test_the_end_of_a_connection_is_no_drop(hosts, open_probe, of):
    client, server = hosts
    probe = open_probe(client if of == "client" else server)
    with listening(server, "ipv4") as listener:
        for _ in range(SENT):
            with client.entered(), socket.create_connection(listener.getsockname()[:2]) as one:
                accepted = listener.accept()[0]
                one.sendall(b"x" * SIZE)
            with accepted:
                while accepted.recv(2000):
                    pass
    drops = probe.drain()
    of_connections = (drops.keys["destination_port"] == PORT) | (drops.keys["source_port"] == PORT)
    assert drops.counts["packets"][of_connections].sum() <= segments_sent_again(*hosts)


def segments_sent_again(*hosts: Host) -> int:
    """Return how many the kernels sent again (RFC 4022), as busy ones do: each may be dropped, or what answers it."""
    return sum(kernel_counter(host, "Tcp", "RetransSegs") for host in hosts)


def left_by_their_client(client: Host, server: Host, family: str) -> Iterator[socket.socket]:
    """Yield connections of the server whose client has closed, and is in TIME_WAIT or FIN_WAIT2 without a program."""
    with listening(server, family) as listener:
        for _ in range(SENT):
            with client.entered(), socket.create_connection(listener.getsockname()[:2]):
                accepted = listener.accept()[0]
            with accepted:
                assert not accepted.recv(1)
                wait_until(lambda: not client.run("ss", "-tnOH", "state", "fin-wait-1"), 60, "the client's end")
                yield accepted


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_end_of_who_closes_second_is_no_drop(hosts, open_probe, family):
    client, server = hosts
    probe = open_probe(client)
    assert sum(1 for _ in left_by_their_client(client, server, family)) == SENT
    drops = probe.drain()
    of_connections = (drops.keys["destination_port"] == PORT) | (drops.keys["source_port"] == PORT)
    assert drops.counts["packets"][of_connections].sum() <= segments_sent_again(*hosts)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_data_for_who_has_closed_is_a_drop(hosts, open_probe, family):
    client, server = hosts
    probe = open_probe(client)
    for connection in left_by_their_client(client, server, family):
        connection.sendall(b"x" * SIZE)
    packets = 0

    def all_told() -> bool:
        nonlocal packets
        drops = probe.drain()
        packets += drops.counts["packets"][drops.keys["source_port"] == PORT].sum()
        return packets >= SENT

    wait_until(all_told, 60, "the drops")


@contextlib.contextmanager
def no_drop_from_the_client(client: Host, server: Host, family: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the ends of a connection, client and server; nothing that the client sends may then be told as dropped."""
    # Before Linux 6.11 the namespace of such a packet is not told.
    with listening(server, family) as listener, DropsProbe(frozenset()) as probe:
        with (
            client.entered(),
            socket.create_connection(listener.getsockname()[:2]) as connection,
            listener.accept()[0] as accepted,
        ):
            of_client = connection.getsockname()[1]
            yield connection, accepted
        drops = probe.drain()
    from_client = (drops.keys["source_port"] == of_client) & (drops.keys["destination_port"] == PORT)
    assert drops.counts["packets"][from_client].sum() <= segments_sent_again(client, server)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_what_only_acknowledges_after_its_end_is_no_drop(hosts, family):
    with no_drop_from_the_client(*hosts, family) as (connection, accepted):
        connection.shutdown(socket.SHUT_WR)
        assert not accepted.recv(1)
        for _ in range(SENT):
            accepted.sendall(b"x" * SIZE)
            assert len(connection.recv(SIZE, socket.MSG_WAITALL)) == SIZE
        accepted.sendall(bytes(100 * SIZE))
        accepted.close()
        assert len(connection.recv(101 * SIZE, socket.MSG_WAITALL)) == 100 * SIZE


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_what_asks_whether_one_is_still_there_is_no_drop(hosts, family):
    with no_drop_from_the_client(*hosts, family) as (connection, accepted):
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1)):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        before = segments_received(accepted)
        wait_until(lambda: segments_received(accepted) > before, 60, "the question")


def segments_received(sock: socket.socket) -> int:
    """Return how many segments came (tcpi_segs_in)."""
    return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 140)[0]


def test_rows_and_the_names_of_their_reasons(hosts):
    client, server = hosts
    server.firewall("drops", input_rules=f"udp dport {PORT} counter drop")
    with NetworkNamespace(server.namespace) as namespace:
        concern = DropsConcern(Surroundings(Settings(), frozenset([namespace.inode]), None, None, None))
        with contextlib.closing(concern):
            port = send(client, server.ipv4)
            wait_until(lambda: server.counted("drops")[0] >= SENT, 60, "the drops")
            rows = concern.read()["drops"]
            (row,) = [number for number, each in enumerate(rows["local_port"]) if each == port]
            assert rows["remote_port"][row] == PORT
            assert rows["remote_address"][row].tobytes() == packed(server.ipv4)
            assert rows["network_namespace"][row] == namespace.inode
            assert (rows["packets"][row], rows["bytes"][row]) == (SENT, SENT * (SIZE + 28))
            entities, again, all_ = (intake_pb2.Entities() for _ in range(3))
            concern.announce(entities)
            concern.announce(again)
            concern.remind(all_)
    names = {reason.number: reason.name for reason in entities.drop_reasons}
    assert names[int(rows["reason"][row])] == "NETFILTER_DROP"
    assert not again.drop_reasons
    assert all_ == entities


def test_preflight_tells_that_it_can():
    assert "kfree_skb" in tried(Path("/proc"), OBJECTS)
