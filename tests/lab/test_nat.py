"""A connection whose addresses a machine translates is one flow, with both ends' names and the right bytes."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.lab.daemons import Exported
from tests.lab.network import forget_connections
from tests.lab.sockets import ClosedSockets, payload
from tests.lab.traffic import IPERF_COOKIE_BYTES, IPERF_PORT, Iperf, hand_over
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program
    from tests.lab.sockets import Socket

SIZE = 16 << 20
UDP_PORT, DATAGRAMS, BLOCK, ANSWER = 5300, 30, 700, 50
SERVICES = {"ipv4": "10.96.0.{}", "ipv6": "fd00:96::{}"}
TABLES = {"ipv4": "ip", "ipv6": "ip6"}


@dataclass
class Dial:
    """A client that dials an address, the server that is reached, and the two addresses of the one flow."""

    client: Host
    address: str
    server: Host
    flow: tuple[str, str]


class Cluster:
    """A machine with two pods behind it, which it translates for as kube-proxy does, and two other machines."""

    def __init__(self, lab: Lab, family: str) -> None:
        self.family = family
        self.node, self.one, self.other = (lab.host(name) for name in ("node", "one", "other"))
        self.first, self.second = (lab.network.behind(self.node, name) for name in ("first", "second"))
        node, first, second, one, other = map(self.of, (self.node, self.first, self.second, self.one, self.other))
        in_front, own, redirected = (SERVICES[family].format(number) for number in (1, 2, 3))
        pods = {"ipv4": self.node.pods_ipv4 + ".", "ipv6": self.node.pods_ipv6 + "::"}[family]
        subnets = [SERVICES[family].format(0), pods + "0"]
        for host in (self.one, self.other):
            for subnet in subnets:
                host.run("ip", "route", "add", f"{subnet}/{24 if family == 'ipv4' else 64}", "via", self.of(self.node))
        ip = TABLES[family]
        inside = f"{pods}0/{24 if family == 'ipv4' else 64}"
        self._translate(self.one, output=f"{ip} daddr {in_front} PORTS dnat to {second}")
        self._translate(
            self.node,
            prerouting=f"{ip} daddr {node} PORTS dnat to {first}\n"
            f"{ip} daddr {own} PORTS dnat to {second}\n"
            f"{ip} daddr {redirected} PORTS redirect",
            postrouting=f"{ip} daddr {first} PORTS masquerade\n"
            f"{ip} saddr {inside} {ip} daddr {second} PORTS masquerade\n"
            f"{ip} saddr {inside} {ip} daddr {other} PORTS snat to {node}",
        )
        self.dials = {
            "service, translated where the client is": Dial(self.one, in_front, self.second, (one, second)),
            "port of a node, translated and masqueraded": Dial(self.one, node, self.first, (one, node)),
            "out of a pod, source translated": Dial(self.first, other, self.other, (node, other)),
            "from pod to pod by a service": Dial(self.first, own, self.second, (f"{pods}1", second)),
            "redirected to a port of the node": Dial(self.other, redirected, self.node, (other, redirected)),
        }

    def of(self, host: Host) -> str:
        """Return the host's address."""
        return getattr(host, self.family)

    def start_collectors(self, lab: Lab, *options: str) -> list[Program]:
        """Start one on each machine; that of the node sees its pods."""
        watched = ((self.one,), (self.other,), (self.node, self.first, self.second))
        return [lab.start_collector(*hosts[:1], *hosts, options=options) for hosts in watched]

    def _translate(self, host: Host, **rules: str) -> None:
        ports = f"meta l4proto {{ tcp, udp }} th dport {{ {IPERF_PORT}, {UDP_PORT} }}"
        chains = "".join(
            f"chain {hook} {{ type nat hook {hook} priority {100 if hook == 'postrouting' else -100};\n{rule}\n}}\n"
            for hook, rule in rules.items()
        ).replace("PORTS", ports)
        host.run("nft", "-f", "-", input=f"table {TABLES[self.family]} services {{\n{chains}}}\n")


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_tcp_in_every_form_of_translation(lab: Lab, family: str) -> None:
    cluster = Cluster(lab, family)
    reducer = lab.start_reducer_with_sink()
    hosts = (cluster.one, cluster.other, cluster.node, cluster.first, cluster.second)
    closed = {host: ClosedSockets(lab.programs, host) for host in hosts}
    collectors = cluster.start_collectors(lab)

    def destroyed(host: Host) -> list[Socket]:
        return closed[host].sockets(lambda s: IPERF_PORT in (s.local_port, s.remote_port))

    expected = {}
    for dial in cluster.dials.values():
        ends = (dial.client, dial.server)
        before = [len(destroyed(host)) for host in ends]
        iperf = Iperf(lab.programs, dial.server, dial.client, dial.address, size=SIZE, bitrate="60M")
        moved = iperf.finish()
        wait_until(lambda: [len(destroyed(host)) - n for host, n in zip(ends, before, strict=True)] == [2, 2], 60, "ss")  # noqa: B023
        there, back = (payload(destroyed(host)[n:]) for host, n in zip(ends, before, strict=True))
        assert there > moved + IPERF_COOKIE_BYTES
        expected[dial.flow] = there
        expected[dial.flow[::-1]] = back
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    names = {"source__process__name": "iperf3", "dest__process__name": "iperf3"}
    for (source, dest), total in expected.items():
        ends = {"source__ip": source, "dest__ip": dest} | names
        assert exported.total("tcp.bytes", **ends) == total, ends
        opened = 2 if any(dial.flow == (source, dest) for dial in cluster.dials.values()) else 0
        assert exported.total("tcp.new_sockets", **ends) == opened, ends
        assert exported.total("tcp.closed_sockets", **ends) == opened, ends
    for name in names:
        assert exported.total("tcp.bytes", **{name: "iperf3"}) == sum(expected.values()), "no other flow has any of it"


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_udp_in_every_form_of_translation(lab: Lab, family: str) -> None:
    cluster = Cluster(lab, family)
    reducer = lab.start_reducer_with_sink()
    collectors = cluster.start_collectors(lab)
    for dial in cluster.dials.values():
        exchange_datagrams(dial.client, dial.address, dial.server)
    time.sleep(0.5)
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    there, back = DATAGRAMS * BLOCK, DATAGRAMS * ANSWER
    for name, dial in cluster.dials.items():
        for (source, dest), total in {dial.flow: there, dial.flow[::-1]: back}.items():
            ends = {"source__ip": source, "dest__ip": dest}
            assert exported.total("udp.bytes", **ends) == total, name
            assert exported.total("udp.packets", **ends) == DATAGRAMS, name
    assert exported.total("udp.bytes") == len(cluster.dials) * (there + back), "no other flow has any of it"


def exchange_datagrams(client: Host, address: str, server: Host) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        with server.entered():
            serving = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        serving.bind(("::" if ":" in address else "0.0.0.0", UDP_PORT))
        with client.entered():
            asking = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        for each in (serving, asking):
            each.settimeout(5)
        for number in range(DATAGRAMS):
            if number == DATAGRAMS // 2:
                time.sleep(1)  # a poll between them
            asking.sendto(b"x" * BLOCK, (address, UDP_PORT))
            serving.sendto(b"y" * ANSWER, serving.recvfrom(2048)[1])
            assert len(asking.recv(2048)) == ANSWER


def test_translated_before_the_start_and_forgotten_by_the_kernel_before_the_end(lab: Lab) -> None:
    cluster = Cluster(lab, "ipv4")
    dials = [cluster.dials[name] for name in list(cluster.dials)[:3]]
    reducer = lab.start_reducer_with_sink()
    with contextlib.ExitStack() as stack:
        pairs = []
        for dial in dials:
            with dial.server.entered():
                listener = stack.enter_context(socket.create_server(("0.0.0.0", IPERF_PORT)))
            with dial.client.entered():
                client = stack.enter_context(socket.create_connection((dial.address, IPERF_PORT)))
            pairs.append((client, stack.enter_context(listener.accept()[0])))
        collectors = cluster.start_collectors(lab)
        time.sleep(1)
        for number, (client, server) in enumerate(pairs, 1):
            client.sendall(b"x" * 1000 * number)
            server.recv(1 << 20)
        time.sleep(1)
        for host in (cluster.node, cluster.one):
            forget_connections(host)
            host.run("nft", "flush", "ruleset")
    time.sleep(0.5)
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    for number, dial in enumerate(dials, 1):
        ends = {"source__ip": dial.flow[0], "dest__ip": dial.flow[1]}
        assert exported.total("tcp.bytes", **ends) == 1000 * number
        assert exported.total("tcp.closed_sockets", **ends) == 1


def test_a_pods_dial_that_ends_on_the_loopback_of_its_node(lab: Lab) -> None:
    """As the node's cache of the DNS, or its proxy of instance metadata, may listen."""
    node, service = lab.host("node"), "10.96.0.1"
    pod = lab.network.behind(node, "pod")
    node.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    rule = f"ip daddr {service} meta l4proto {{ tcp, udp }} th dport {UDP_PORT} dnat to 127.0.0.1"
    node.run(
        *("nft", "-f", "-"),
        input=f"table ip services {{ chain in {{ type nat hook prerouting priority -100;\n{rule}\n}}\n}}\n",
    )
    reducer = lab.start_reducer_with_sink("--keep-loopback")
    collector = lab.start_collector(node, node, pod)
    exchange_datagrams(pod, service, node)
    with node.entered():
        listener = socket.create_server(("127.0.0.1", UDP_PORT))
    with (
        listener,
        pod.entered(),
        socket.create_connection((service, UDP_PORT)) as client,
        listener.accept()[0] as server,
    ):
        hand_over(client, server, 7000)
    time.sleep(0.5)
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    ends = {"source__ip": pod.ipv4, "dest__ip": service}
    assert exported.total("tcp.bytes", **ends) == exported.total("tcp.bytes", source__ip=pod.ipv4) == 7000
    assert exported.total("tcp.new_sockets", **ends) == exported.total("tcp.new_sockets", source__ip=pod.ipv4) == 1
    assert exported.total("udp.bytes", **ends) == exported.total("udp.bytes", source__ip=pod.ipv4) == DATAGRAMS * BLOCK
    assert not exported.points("tcp.bytes", dest__ip="127.0.0.1")


def test_what_a_machine_redirects_to_a_port_of_its_own(lab: Lab) -> None:
    host, service = lab.host("host"), "10.96.0.1"
    rules = (
        f"chain output {{ type nat hook output priority -100;\nip daddr {service} tcp dport 80 redirect to :8080\n}}"
    )
    host.run("nft", "-f", "-", input=f"table ip services {{\n{rules}\n}}\n")
    host.run("ip", "route", "add", f"{service}/32", "via", lab.centre.ipv4)
    reducer = lab.start_reducer_with_sink("--keep-loopback")
    collector = lab.start_collector(host)
    with host.entered():
        listener = socket.create_server(("0.0.0.0", 8080))
        client = socket.create_connection((service, 80))
    with listener, client, listener.accept()[0] as server:
        assert server.getsockname() == ("127.0.0.1", 8080)
        hand_over(client, server, 7000)
    time.sleep(0.5)
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    assert exported.total("tcp.bytes", source__ip=host.ipv4, dest__ip="127.0.0.1") == 7000
    assert exported.total("tcp.new_sockets", dest__ip="127.0.0.1") == 1
    assert not exported.points("tcp.bytes", dest__ip=service)
