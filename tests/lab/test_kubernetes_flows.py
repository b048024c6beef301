"""Flows of a cluster: pods behind nodes, services that the nodes translate, and what Kubernetes tells of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.k8s_objects import controller, owned, pod, status
from tests.lab.cgroups import hierarchy, inside
from tests.lab.daemons import INTAKE_PORT, Exported
from tests.lab.network import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.cgroups import Hierarchy
    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program

PORT, TARGET_PORT, DNS_PORT = 80, 8080, 53
WEB, FAR, RESOLVER, OUTSIDE = ("10.96.0.10", "10.96.0.20", "10.96.0.53", "10.96.0.99")
DATABASE = "203.0.113.7"
REQUEST, ANSWER = 70_001, 300_007
WINDOW_S = 30
# Serve one connection: read all, then answer.
SERVER = """
import socket, sys
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    print("listening", flush=True)
    connection, _ = listener.accept()
with connection:
    received = 0
    while data := connection.recv(1 << 16): received += len(data)
    connection.sendall(bytes(int(sys.argv[2])))
    print("received", received, flush=True)
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
    connection.sendall(bytes(int(sys.argv[3])))
    connection.shutdown(socket.SHUT_WR)
    received = 0
    while data := connection.recv(1 << 16): received += len(data)
    print("received", received, flush=True)
"""
RESOLVING = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as serving:
    serving.bind(("0.0.0.0", int(sys.argv[1])))
    print("listening", flush=True)
    query, client = serving.recvfrom(2048)
    serving.sendto(query[:2] + b"\\x81\\x80" + query[4:], client)
"""
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04shop\x00\x00\x01\x00\x01"
ASKING = f"""
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as asking:
    asking.settimeout(10)
    asking.connect((sys.argv[1], {DNS_PORT}))
    asking.send({QUERY!r})
    assert len(asking.recv(2048)) == {len(QUERY)}
"""


@dataclass
class Pod:
    """A pod: where it runs, what the API tells of it, and the cgroup of its container."""

    name: str
    deployment: str
    host: Host
    node: Host
    uid: str
    container: str
    cgroup: str

    def object(self, *, ended: bool = False) -> dict[str, Any]:
        """Return the pod as the API server has it now, begun or ended."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = {"terminated": {"startedAt": self.started, "finishedAt": now}} if ended else {}
        if not ended:
            self.started = now
            state = {"running": {"startedAt": now}}
        gone = {"deletionTimestamp": now} if ended else {}
        return pod(
            self.uid,
            controller("ReplicaSet", f"rs-{self.deployment}"),
            ips=(self.host.ipv4,),
            metadata={"name": self.name, **gone},
            spec={"nodeName": self.node.name},
            containerStatuses=[status("main", f"containerd://{self.container}", **state)],
        )

    def owners(self) -> list[dict[str, Any]]:
        """Return the ReplicaSet between the pod and its Deployment."""
        deployment = controller("Deployment", f"d-{self.deployment}", self.deployment)
        return [owned(f"rs-{self.deployment}", deployment)]

    def labels(self, end: str) -> dict[str, str]:
        """Return what names it at an end of a flow."""
        identity = self.identity(end)
        return identity | {f"{end}__pod": self.name, f"{end}__ip": self.host.ipv4, f"{end}__id": self.node.name}

    def identity(self, end: str) -> dict[str, str]:
        """Return what names its workload at an end of a flow."""
        labels = {
            "workload__name": self.deployment,
            "workload__uid": f"d-{self.deployment}",
            "namespace__name": "shop",
            "resolution_type": "K8S_CONTAINER",
            "availability_zone": f"zone-{self.node.name}",
            "image_version": "1",
            "container__name": "main",
        }
        return {f"{end}__{name}": value for name, value in labels.items()}


class Cluster:
    """Nodes `one` and `two` with a kernel collector, `three` without; what Kubernetes knows is told by a session."""

    def __init__(self, lab: Lab, cgroups: Hierarchy, stack: contextlib.ExitStack) -> None:
        self.lab = lab
        self._stack = stack
        self._cgroups = cgroups
        self.nodes = {name: lab.host(name) for name in ("one", "two", "three")}
        for node, other in itertools.permutations(self.nodes.values(), 2):
            node.run("ip", "route", "add", f"{other.pods_ipv4}.0/24", "via", other.ipv4)
        self.pods: list[Pod] = []
        self._told = 0

    def pod(self, name: str, deployment: str, node: str) -> Pod:
        uid, container = str(uuid.uuid4()), os.urandom(32).hex()
        host = self.lab.network.behind(self.nodes[node], name)
        slices = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice"
        cgroup = str(self._cgroups.make(f"{slices}/cri-containerd-{container}.scope"))
        self.pods.append(Pod(name, deployment, host, self.nodes[node], uid, container, cgroup))
        return self.pods[-1]

    def translate(self, *services: tuple[str, int, Pod, int]) -> None:
        """Translate addresses of services on all nodes, as kube-proxy does."""
        rules = "\n".join(
            f"ip daddr {address} meta l4proto {{ tcp, udp }} th dport {port} dnat to {server.host.ipv4}:{target}"
            for address, port, server, target in services
        )
        for node in self.nodes.values():
            chain = f"chain prerouting {{ type nat hook prerouting priority -100;\n{rules}\n}}"
            node.run("nft", "-f", "-", input=f"table ip services {{\n{chain}\n}}\n")

    def start_collectors(self) -> list[Program]:
        """Start those of nodes one and two."""
        collectors = []
        for node in list(self.nodes.values())[:2]:
            pods = [each.host for each in self.pods if each.node is node]
            collectors.append(self.lab.start_collector(node, node, *pods))
        return collectors

    def start_telling(self, *pods: Pod, services: tuple[tuple[str, str, int], ...] = ()) -> None:
        """Begin the session of Kubernetes with the nodes, services and these pods."""
        pipe = self.lab.directory / "cluster"
        os.mkfifo(pipe)
        command = (sys.executable, "-m", "tests.lab.cluster_teller", self.lab.centre.ipv4, f"{INTAKE_PORT}", str(pipe))
        self._teller = self.lab.programs.start("cluster", *command, host=self.lab.centre)
        self._pipe = self._stack.enter_context(pipe.open("w"))
        nodes = [
            {
                "metadata": {
                    "name": name,
                    "uid": f"n-{name}",
                    "labels": {"topology.kubernetes.io/zone": f"zone-{name}"},
                },
                "status": {"addresses": [{"type": "InternalIP", "address": host.ipv4}]},
            }
            for name, host in self.nodes.items()
        ]
        objects = [
            {
                "metadata": {"name": name, "namespace": "shop", "uid": f"s-{name}"},
                "spec": {"clusterIPs": [address], "ports": [{"port": port, "protocol": "TCP"}]},
            }
            for name, address, port in services
        ]
        owners = [owner for each in self.pods for owner in each.owners()]
        self.tell(nodes=nodes, services=objects, replicasets=owners, pods=[each.object() for each in pods])

    def tell(self, deleted: tuple[Pod, ...] = (), **changed: list[dict[str, Any]]) -> None:
        """Have the reducer told what changed."""
        changes = [[plural, value] for plural, values in changed.items() for value in values]
        self._pipe.write(json.dumps([changes, [["pods", each.uid] for each in deleted]]) + "\n")
        self._pipe.flush()
        self._told = self._teller.wait_for("told .*\n", after=self._told).end()

    def start(self, who: Pod, name: str, source: str, *arguments: object) -> Program:
        """Start a program in a pod's container."""
        command = inside(who.cgroup, sys.executable, "-c", source, *map(str, arguments))
        return self.lab.programs.start(name, *command, host=who.host)

    def exchange(self, client: Pod, server: Pod, address: str, port: int = PORT, request: int = REQUEST) -> None:
        """Have a client send a request to an address, and a server its answer."""
        serving = self.start(server, "server", SERVER, TARGET_PORT, ANSWER)
        serving.wait_for("listening")
        asking = self.start(client, "client", CLIENT, address, port, request)
        assert (asking.wait(), serving.wait()) == (0, 0)
        serving.wait_for(f"received {request}$")
        asking.wait_for(f"received {ANSWER}$")

    def finish(self, reducer: Program, collectors: list[Program]) -> Exported:
        """End all in good order; return what was exported."""
        time.sleep(0.5)
        self._pipe.close()
        assert self._teller.wait() == 0
        self.lab.finish(reducer, *collectors)
        return Exported(self.lab.sink.points())


def endpoint_slice(service: str, address: str, port: int) -> dict[str, Any]:
    """Return what says that a service has an end outside of the cluster."""
    labels = {"kubernetes.io/service-name": service}
    return {
        "metadata": {"name": f"{service}-1", "namespace": "shop", "uid": f"e-{service}", "labels": labels},
        "endpoints": [{"addresses": [address]}],
        "ports": [{"port": port, "protocol": "TCP"}],
    }


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    with hierarchy("cgroup2") as cgroups, contextlib.ExitStack() as stack:
        yield Cluster(lab, cgroups, stack)
        lab.programs.close()  # which live in the cgroups


def test_pods_services_and_the_dns(lab: Lab, cluster: Cluster) -> None:
    shop, web, far = (
        cluster.pod("shop-1", "shop", "one"),
        cluster.pod("web-1", "web", "two"),
        cluster.pod("far-1", "far", "three"),
    )
    resolver = cluster.pod("resolver-1", "resolver", "two")
    outside = cluster.nodes["three"]
    for address in (OUTSIDE, DATABASE):
        run("ip", "-n", outside.namespace.name, "address", "add", f"{address}/32", "dev", "lo")
        for node in list(cluster.nodes.values())[:2]:
            node.run("ip", "route", "add", f"{address}/32", "via", outside.ipv4)
    cluster.translate(
        (WEB, PORT, web, TARGET_PORT), (FAR, PORT, far, TARGET_PORT), (RESOLVER, DNS_PORT, resolver, DNS_PORT)
    )
    reducer = lab.start_reducer_with_sink()
    collectors = cluster.start_collectors()
    services = (("web", WEB, PORT), ("far", FAR, PORT), ("resolver", RESOLVER, DNS_PORT), ("outside", OUTSIDE, PORT))
    cluster.start_telling(*cluster.pods, services=services)
    cluster.tell(endpointslices=[endpoint_slice("database", DATABASE, PORT)])

    cluster.exchange(shop, web, WEB)
    cluster.exchange(shop, far, FAR)
    beyond = lab.programs.start("outside", sys.executable, "-c", SERVER, f"{PORT}", f"{ANSWER}", host=outside)
    beyond.wait_for("listening")
    assert cluster.start(shop, "client", CLIENT, OUTSIDE, PORT, REQUEST).wait() == 0
    database = lab.programs.start("database", sys.executable, "-c", SERVER, f"{PORT}", f"{ANSWER}", host=outside)
    database.wait_for("listening")
    assert cluster.start(shop, "client", CLIENT, DATABASE, PORT, REQUEST).wait() == 0
    cluster.start(resolver, "resolver", RESOLVING, DNS_PORT).wait_for("listening")
    assert cluster.start(shop, "asking", ASKING, RESOLVER).wait() == 0
    exported = cluster.finish(reducer, collectors)

    for server in (web, far):
        there = {**shop.labels("source"), **server.labels("dest")}
        back = {**server.labels("source"), **shop.labels("dest")}
        assert exported.total("tcp.bytes", **there) == REQUEST
        assert exported.total("tcp.bytes", **back) == ANSWER
        assert exported.total("tcp.bytes", "az_az", **shop.identity("source"), **server.identity("dest")) == REQUEST
        assert exported.total("tcp.bytes", "az_az", **server.identity("source"), **shop.identity("dest")) == ANSWER
    for name, address in (("outside", OUTSIDE), ("database", DATABASE)):
        service = {
            "dest__workload__name": name,
            "dest__resolution_type": "K8S_SERVICE",
            "dest__namespace__name": "shop",
        }
        assert exported.total("tcp.bytes", **shop.labels("source"), **service, dest__ip=address) == REQUEST
    dns = resolver.labels("dest") | {"dest__workload__name": "DNS"}
    assert exported.total("udp.bytes", **shop.labels("source"), **dns) == len(QUERY)
    # No other flow has any of it, at either level.
    for level in ("id_id", "az_az"):
        assert exported.total("tcp.bytes", level, source__workload__name="shop") == 4 * REQUEST
        assert exported.total("tcp.bytes", level, dest__workload__name="shop") == 4 * ANSWER
        assert exported.total("udp.bytes", level, source__workload__name="shop") == len(QUERY)
    assert not exported.points("tcp.bytes", dest__ip=WEB)
    assert not exported.points("tcp.bytes", dest__ip=FAR)


@pytest.mark.parametrize("node", ["two", "three"], ids=["with a collector", "without a collector"])
def test_an_address_that_another_pod_takes_over_within_a_window(lab: Lab, cluster: Cluster, node: str) -> None:
    client, before, after = (
        cluster.pod("shop-1", "shop", "one"),
        cluster.pod("before-1", "before", node),
        cluster.pod("after-1", "after", node),
    )
    cluster.translate((WEB, PORT, before, TARGET_PORT))
    # Both connections are told by one poll.
    reducer = lab.start_reducer_with_sink("--window", f"{WINDOW_S}", "--poll-interval", f"{WINDOW_S / 2}")
    collectors = cluster.start_collectors()
    cluster.start_telling(client, before, services=(("web", WEB, PORT),))
    if time.time() % WINDOW_S > WINDOW_S / 3:  # too little is left of it, for a busy machine
        time.sleep(-time.time() % WINDOW_S)
    window = time.time() // WINDOW_S

    cluster.exchange(client, before, WEB)
    ended = before.object(ended=True)
    run("ip", "-n", before.host.namespace.name, "link", "set", "eth0", "down")
    time.sleep(1.01 - time.time() % 1)  # the API tells seconds
    on, own = after.host.namespace.name, after.host.ipv4
    run("ip", "-n", on, "address", "delete", f"{own}/24", "dev", "eth0")
    run("ip", "-n", on, "address", "add", f"{before.host.ipv4}/24", "dev", "eth0")
    run("ip", "-n", on, "route", "replace", "default", "via", f"{after.node.pods_ipv4}.1")
    run("ip", "-n", after.node.namespace.name, "neighbour", "flush", "dev", "pods")
    after.host.ipv4 = before.host.ipv4
    begun = after.object()
    cluster.exchange(client, after, WEB, request=2 * REQUEST)
    assert time.time() // WINDOW_S == window
    # What the API tells comes after what it tells of, the new one before the old one's end.
    cluster.tell(pods=[begun])
    cluster.tell(pods=[ended])
    cluster.tell(deleted=(before,))
    exported = cluster.finish(reducer, collectors)

    for server, sent in ((before, REQUEST), (after, 2 * REQUEST)):
        assert exported.total("tcp.bytes", **client.labels("source"), **server.labels("dest")) == sent
        assert exported.total("tcp.bytes", **server.labels("source"), **client.labels("dest")) == ANSWER
        assert exported.total("tcp.bytes", "az_az", **client.identity("source"), **server.identity("dest")) == sent
    assert exported.total("tcp.bytes", source__workload__name="shop") == 3 * REQUEST
    assert exported.total("tcp.bytes", dest__workload__name="shop") == 2 * ANSWER
