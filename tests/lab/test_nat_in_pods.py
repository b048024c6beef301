"""What pods translate in their own network namespaces, as for the proxies of a mesh, is one flow with both names."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from kernel_collector.nat.namespace_ids import NamespaceIds
from tests.lab.daemons import Exported, script
from tests.lab.network import wait_for_listener
from tests.lab.sockets import wait_until_closed
from tests.lab.test_conntrack import wait_until_free
from tests.lab.test_nat import BLOCK, DATAGRAMS, UDP_PORT, exchange_datagrams
from tests.lab.traffic import DISCARDING_SERVER, hand_over
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program

SERVICE, NESTED_SERVICE = "10.96.0.1", "10.96.1.1"
PORT, PROXY_PORT, LATER_PORT = 8080, 15006, 9090
SIZE = 70_000


class Mesh:
    """A machine with two pods behind it. It translates a service's address to the second pod.

    The first pod redirects what it sends to port 81 to a proxy of its own, the second what comes to its ports.
    """

    def __init__(self, lab: Lab, node: Host) -> None:
        self._lab = lab
        self.node = node
        self.first, self.second = (lab.network.behind(self.node, name) for name in ("first", "second"))
        ports = f"{{ {PORT}, {LATER_PORT} }}"
        translate(self.node, "prerouting", f"ip daddr {SERVICE} tcp dport {ports} dnat to {self.second.ipv4}")
        translate(
            self.first,
            "output",
            f"tcp dport 81 redirect to :{PROXY_PORT}\nip daddr {NESTED_SERVICE} dnat to {self.second.ipv4}",
        )
        translate(self.second, "prerouting", f"tcp dport {PORT} redirect to :{PROXY_PORT}")
        translate(self.second, "prerouting", f"tcp dport {LATER_PORT} redirect to :{LATER_PORT + 1}")
        lab.programs.start("init", "sleep", "600", host=self.node)
        self.servers = [self.serve(host) for host in (self.first, self.second)]

    def serve(self, host: Host) -> Program:
        """Start a program that takes what comes to the port of the proxy."""
        server = self._lab.programs.start("server", "python3", "-c", DISCARDING_SERVER, f"{PROXY_PORT}", host=host)
        wait_for_listener(host, PROXY_PORT)
        return server


def translate(host: Host, hook: str, rules: str) -> None:
    """Add rules of NAT."""
    chain = f"chain {hook} {{ type nat hook {hook} priority -100;\n{rules}\n}}\n"
    host.run("nft", "-f", "-", input=f"table ip services {{\n{chain}}}\n")


def send(host: Host, address: str, port: int = PORT) -> None:
    """Have a program of that machine send SIZE bytes, and wait until the other end has read and closed."""
    host.run("bash", "-c", f"head -c {SIZE} /dev/zero > /dev/tcp/{address}/{port}")
    wait_until_closed(host, port)


def assert_one_flow(exported: Exported, source: str, address: str, connections: int = 1) -> None:
    """Assert that what was sent from an address is one flow to this one, with the names of both programs."""
    flow = {"source__ip": source, "dest__ip": address}
    flow |= {"source__process__name": "bash", "dest__process__name": "python3"}
    assert exported.total("tcp.bytes", **flow) == connections * SIZE
    assert exported.total("tcp.new_sockets", **flow) == connections
    assert exported.total("tcp.closed_sockets", **flow) == connections


def test_what_pods_redirect_is_one_flow_with_both_names(lab: Lab) -> None:
    """The pods come after the collector, which has to find them."""
    reducer = lab.start_reducer_with_sink("--keep-loopback")
    node = lab.host("node")
    collector = lab.start_collector(node, everywhere=True)
    mesh = Mesh(lab, node)
    send(mesh.first, mesh.second.ipv4)
    send(mesh.first, SERVICE)
    send(mesh.first, mesh.node.ipv4, 81)
    time.sleep(0.5)
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    assert_one_flow(exported, mesh.first.ipv4, mesh.second.ipv4, 2)
    assert_one_flow(exported, mesh.first.ipv4, "127.0.0.1")
    sent = {"source__ip": mesh.first.ipv4}
    assert exported.total("tcp.bytes", **sent) == 3 * SIZE, "no other flow has any of it"
    assert exported.total("tcp.new_sockets", **sent) == 3


def test_pods_that_are_named_are_one_flow_with_another_machine(lab: Lab) -> None:
    node, elsewhere = (lab.host(name) for name in ("node", "elsewhere"))
    mesh = Mesh(lab, node)
    mesh.serve(elsewhere)
    elsewhere.run("ip", "route", "add", f"{SERVICE}/32", "via", node.ipv4)
    translate(mesh.first, "output", f"ip daddr {SERVICE} dnat to {elsewhere.ipv4}")
    translate(node, "postrouting", f"ip daddr {elsewhere.ipv4} ip saddr {mesh.first.ipv4} masquerade")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(elsewhere), lab.start_collector(node, node, mesh.first, mesh.second)]
    send(elsewhere, SERVICE)
    send(mesh.first, SERVICE, PROXY_PORT)
    time.sleep(0.5)
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    assert_one_flow(exported, elsewhere.ipv4, SERVICE)
    assert_one_flow(exported, node.ipv4, elsewhere.ipv4)
    assert exported.total("tcp.new_sockets", source__process__name="bash") == 2, "no flow has one of them alone"


def test_what_was_translated_in_a_pod_before_the_start_and_a_datagram(lab: Lab) -> None:
    mesh = Mesh(lab, lab.host("node"))
    reducer = lab.start_reducer_with_sink()
    with mesh.second.entered():
        listener = socket.create_server(("0.0.0.0", LATER_PORT + 1))
    with mesh.first.entered():
        client = socket.create_connection((SERVICE, LATER_PORT))
    with listener, client, listener.accept()[0] as server:
        collector = lab.start_collector(mesh.node, everywhere=True)
        exchange_datagrams(mesh.first, NESTED_SERVICE, mesh.second)
        hand_over(client, server, SIZE)
    time.sleep(0.5)
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    flow = {"source__ip": mesh.first.ipv4, "dest__ip": mesh.second.ipv4}
    assert exported.total("tcp.bytes", **flow) == exported.total("tcp.bytes", source__ip=mesh.first.ipv4) == SIZE
    assert exported.total("tcp.closed_sockets", **flow) == 1
    assert exported.total("tcp.closed_sockets", source__ip=mesh.first.ipv4) == 1
    assert exported.total("udp.bytes", **flow) == DATAGRAMS * BLOCK
    assert exported.total("udp.bytes", source__ip=mesh.first.ipv4) == DATAGRAMS * BLOCK, "no other flow has any of it"
    assert UDP_PORT not in (PORT, LATER_PORT)


def test_a_pod_goes_when_its_last_program_does(lab: Lab) -> None:
    lab.start_reducer_with_sink()
    mesh = Mesh(lab, lab.host("node"))
    lab.start_collector(mesh.node, everywhere=True)
    send(mesh.first, mesh.second.ipv4)
    time.sleep(1)
    with mesh.node.entered():
        ids = NamespaceIds()
    with ids, mesh.second.namespace.open() as namespace:
        number = ids.of(namespace.fileno())
        namespace.close()
        before = mesh.node.run("ip", "-o", "link")
        mesh.servers[1].stop()
        lab.network.remove(mesh.second)
        wait_until(lambda: mesh.node.run("ip", "-o", "link") != before, 60, "the interfaces of the pod to go")
        wait_until_free(ids, number)


@pytest.mark.parametrize(
    ("capability", "told"),
    [
        ("net_broadcast", "what containers translate themselves is not known: CAP_NET_BROADCAST is missing"),
        ("sys_admin", "connections that containers translated before the collector came are not known"),
    ],
)
def test_without_a_capability_for_it_all_else_goes_on(lab: Lab, capability: str, told: str) -> None:
    mesh = Mesh(lab, lab.host("node"))
    send(mesh.first, mesh.second.ipv4)
    without = ("setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", "--")
    collector = lab.programs.start("collector", *without, script("kernel-collector"), "--log-console", "--no-log-file")
    collector.wait_for(told)
    collector.wait_for("watching .* sockets are open")
    assert "NAT is not watched" not in collector.tail()
