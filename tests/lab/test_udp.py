"""UDP between hosts is exported to the byte and the packet, with the names of both ends."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.daemons import INTAKE_PORT, Exported, script
from tests.lab.network import wait_for_listener
from tests.lab.sockets import udp_counter
from tests.lab.traffic import IPERF_PORT
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from tests.lab.daemons import Lab
    from tests.lab.network import Host

# iperf3 begins with a datagram of 4 bytes each way (iperf_udp_connect).
GREETING_BYTES = 4
BLOCK_BYTES, BLOCKS = 1200, 10_000
GROUP_PORT = 5400


def drops(host: Host, port: int) -> int:
    """Return what the kernel counted for the IPv4 sockets that are bound to a port."""
    lines = [line.split() for line in host.run("cat", "/proc/net/udp").splitlines()[1:]]
    return sum(int(line[-1]) for line in lines if line[1].endswith(f":{port:04X}"))


def udp_socket(host: Host, address: str, port: int = 0) -> socket.socket:
    with host.entered():
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, port))
    opened.settimeout(5)
    return opened


def totals(exported: Exported, source: str, dest: str, **names: str) -> tuple[float, float]:
    ends = {"source__ip": source, "dest__ip": dest} | names
    return exported.total("udp.bytes", **ends), exported.total("udp.packets", **ends)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_iperf3_with_a_collector_on_each_host(lab: Lab, family: str) -> None:
    client, server = lab.host("client"), lab.host("server")
    ips = {host: getattr(host, family) for host in (client, server)}
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    listening = lab.programs.start("iperf3-server", "iperf3", "--server", "--one-off", "--json", host=server)
    wait_for_listener(server, IPERF_PORT)
    block = ("--length", f"{BLOCK_BYTES}", "--bytes", f"{BLOCK_BYTES * BLOCKS}", "--bitrate", "40M")
    sending = lab.programs.start(
        "iperf3-client", "iperf3", "--client", ips[server], "--udp", *block, "--json", host=client
    )
    wait_until(lambda: udp_counter(client, family, "OutDatagrams") > 100, 60, "iperf3 to send")
    # What the client says at its end on the control connection waits until the server has read all datagrams.
    server.firewall("hold", input_rules=f"tcp dport {IPERF_PORT} drop")
    wait_until(lambda: _read_or_dropped(server, family) > BLOCKS, 60, "the server to read all")
    server.firewall("hold")
    assert (sending.wait(), listening.wait()) == (0, 0), sending.tail()
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())

    sent = json.loads(sending.output())["end"]["streams"][0]["udp"]
    received = json.loads(listening.output())["end"]["sum_received"]
    # On a busy machine the server's socket may run full; what it drops has reached it.
    lost = received["lost_packets"]
    assert received["bytes"] + lost * BLOCK_BYTES == sent["bytes"] == BLOCK_BYTES * BLOCKS
    names = {"source__process__name": "iperf3", "dest__process__name": "iperf3"}
    there = (sent["bytes"] + GREETING_BYTES, sent["packets"] + 1)
    assert totals(exported, ips[client], ips[server], **names) == there
    assert totals(exported, ips[server], ips[client], **names) == (GREETING_BYTES, 1)
    assert exported.total("udp.bytes", "az_az", **names) == there[0] + GREETING_BYTES
    assert exported.total("udp.drops") <= lost
    assert udp_counter(client, family, "OutDatagrams") == there[1]


def test_a_server_of_many_peers_and_one_that_drops(lab: Lab) -> None:
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    answer = 3
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(udp_socket(server, "0.0.0.0"))
        full = stack.enter_context(udp_socket(server, server.ipv4))
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peers = [stack.enter_context(udp_socket(client, client.ipv4)) for _ in range(200)]
        time.sleep(1)  # the sockets are seen before they drop anything
        for number, peer in enumerate(peers):
            peer.sendto(b"x" * number, (server.ipv4, serving.getsockname()[1]))
            _, where = serving.recvfrom(1000)
            serving.sendto(b"y" * answer, where)
            assert peer.recv(1000) == b"y" * answer
        for _ in range(300):
            peers[0].sendto(b"z" * 500, full.getsockname())
        dropped = drops(server, full.getsockname()[1])
        assert dropped > 200
        lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    there, back = sum(range(200)), answer * 200
    assert totals(exported, client.ipv4, server.ipv4) == (there + 300 * 500, 200 + 300)
    assert totals(exported, server.ipv4, client.ipv4) == (back, 200)
    assert exported.total("udp.drops", source__ip=client.ipv4, dest__ip=server.ipv4) == dropped
    assert exported.total("udp.drops") == dropped
    assert exported.total("udp.active", source__ip=server.ipv4, dest__ip=client.ipv4) >= 200


def test_drops_of_a_socket_that_ends_between_two_polls(lab: Lab) -> None:
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    with udp_socket(server, server.ipv4) as full, udp_socket(client, client.ipv4) as sending:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(300):
            sending.sendto(b"z" * 500, full.getsockname())
        dropped = drops(server, full.getsockname()[1])
    assert dropped > 200
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    assert exported.total("udp.drops", source__ip=client.ipv4, dest__ip=server.ipv4) == dropped
    assert exported.total("udp.drops") == dropped


@pytest.mark.parametrize(
    ("group", "sender"), [("239.1.2.3", "unwatched"), ("ff05::1234", "before"), ("255.255.255.255", "unwatched")]
)
def test_what_several_receive_of_one_datagram_counts_once(lab: Lab, group: str, sender: str) -> None:
    """What only receivers tell of, or a sender that was there before its collector."""
    one, other, source = lab.host("one"), lab.host("other"), lab.host("source")
    address = source.ipv6 if ":" in group else source.ipv4
    source.run("ip", "route", "add", "default", "dev", "eth0")
    with contextlib.ExitStack() as stack:
        sending = stack.enter_context(udp_socket(source, address))
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        reducer = lab.start_reducer_with_sink()
        collectors = [lab.start_collector(host) for host in (one, other, *([source] if sender == "before" else []))]
        members = [stack.enter_context(_member(host, group)) for host in (one, one, other)]
        for _ in range(10):
            sending.sendto(b"x" * 100, (group, GROUP_PORT))
            for member in members:
                assert len(member.recv(1000)) == 100
        lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    assert totals(exported, address, group) == (1000, 10)


def test_udp_that_is_switched_off_is_not_counted(lab: Lab) -> None:
    host = lab.host("host")
    reducer = lab.start_reducer_with_sink()
    collector = lab.start_collector(host, options=["--disable-udp-metrics"])
    with udp_socket(host, host.ipv4) as one:
        one.sendto(b"x", (lab.centre.ipv4, 9))
    lab.finish(reducer, collector)
    assert not Exported(lab.sink.points()).points("udp.bytes")


def test_where_udp_is_refused_it_is_told_once_and_tcp_is_counted(lab: Lab) -> None:
    host = lab.host("host")
    reducer = lab.start_reducer_with_sink()
    # Without the capabilities it can neither look at the machine's mounts, nor mount cgroups, nor enter a namespace.
    denied = 'umount --all --lazy --types cgroup2; exec setpriv --bounding-set -sys_ptrace,-sys_admin "$0" "$@"'
    collector = lab.programs.start(
        "collector",
        *("unshare", "--mount", "sh", "-c", denied),
        *(script("kernel-collector"), "--log-console", "--no-log-file"),
        host=host,
        env={"EBPF_NET_INTAKE_HOST": lab.centre.ipv4, "EBPF_NET_INTAKE_PORT": f"{INTAKE_PORT}"},
    )
    collector.wait_for("connected to the reducer")
    with (
        lab.centre.entered(),
        socket.create_server((lab.centre.ipv4, 0)) as listener,
        udp_socket(host, host.ipv4) as other,
        host.entered(),
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.sendall(b"x" * 777)
        other.sendto(b"y" * 5, (lab.centre.ipv4, 9))
    time.sleep(1.5)  # two polls
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    assert exported.total("tcp.bytes", source__ip=host.ipv4, dest__ip=lab.centre.ipv4) >= 777
    assert not exported.points("udp.bytes")
    assert collector.output().count("UDP is not watched") == 1


def _member(host: Host, group: str) -> socket.socket:
    """Return a socket that receives what is sent to *group*, beside others."""
    with host.entered():
        opened = socket.socket(socket.AF_INET6 if ":" in group else socket.AF_INET, socket.SOCK_DGRAM)
        device = socket.if_nametoindex("eth0")
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.settimeout(5)
    if ":" in group:
        joined = socket.inet_pton(socket.AF_INET6, group) + struct.pack("I", device)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
    elif group != "255.255.255.255":
        joined = socket.inet_aton(group) + socket.inet_aton(host.ipv4)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    opened.bind(("", GROUP_PORT))
    return opened


def _read_or_dropped(host: Host, family: str) -> int:
    return udp_counter(host, family, "InDatagrams") + udp_counter(host, family, "InErrors")
