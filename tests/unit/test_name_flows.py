"""Cases: entities and flows in, the labels of the flow's other end out."""

import netaddr
import pytest
from ebpf_net.v1 import intake_pb2
from mmdb_writer import MMDBWriter

from intake.clock import SECOND_NS
from reducer.autonomous_systems import AutonomousSystems
from tests.flow_rows import CLIENT, Feed, acceptor_row, connector_row, series_of
from tests.rows import packed

K8S, CLOUD = intake_pb2.COLLECTOR_KIND_K8S, intake_pb2.COLLECTOR_KIND_CLOUD
CLUSTER, CLIENT_SESSION, SERVER_SESSION = 8, 0, 1
POD = "10.1.0.7"
PUBLIC = "93.184.216.34"


def pod(name, *addresses, **fields):
    fields = {"uid": f"uid-{name}", "owner_name": f"{name}-app", "owner_uid": f"owner-{name}"} | fields
    fields = {"owner_kind": "Deployment", "node": "node-9", "namespace": "front"} | fields
    return intake_pb2.Pod(name=name, addresses=map(packed, addresses), **fields)


def service(*addresses, **port):
    ports = [{"port": 80, "protocol": 6} | port]
    return {
        "uid": "s",
        "name": "web-svc",
        "namespace": "front",
        "addresses": [packed(each) for each in addresses],
        "ports": ports,
    }


def interface(name, *addresses, public=(), **fields):
    fields = {"provider": "aws", "zone": "eu-1c", "network": "vpc-1", "role": name, **fields}
    told = intake_pb2.CloudInterface(id=f"eni-{name}", addresses=map(packed, addresses), **fields)
    for outer, inner in public:
        told.public_addresses.add(public=packed(outer), private=packed(inner))
    return told


class Case:
    """One flow of a client, whose other end the entities name."""

    def __init__(self, **options):
        self.feed = Feed(("az_az", "id_id"), **options)
        self.client()

    def client(self, environment="prod", **host):
        told = intake_pb2.Host(name="host-0", zone="zone-0", environment=environment, **host)
        self.feed.session(CLIENT_SESSION, "wget", host=told)

    def tell(self, number=CLUSTER, at_s=1, kind=K8S, environment="prod", **entities):
        if number not in self.feed.numbers and number != CLIENT_SESSION:
            host = intake_pb2.Host(name=f"teller-{number}", environment=environment)
            self.feed.session(number, host=host, kind=kind)
        self.feed.take(number, at_s, entities=intake_pb2.Entities(**entities))

    def dials(self, address, at_s=5, port=80, *, udp=False, **values):
        row = connector_row(remote_address=address, remote_port=port, **{"bytes_sent": 7, "opened": 1} | values)
        if udp:
            del row["role"], row["opened"]
        self.feed.take(CLIENT_SESSION, at_s, *(() if udp else (row,)), udp=(row,) if udp else ())

    def seal(self, index=0):
        """Return the labels of whom the client sent to, at level id_id, by bytes sent."""
        return sent(self.feed.seal(index))

    def unknown(self):
        return {reason: count for reason, count in self.feed.pipeline.statistics().ends_unknown.items() if count}


def sent(window, process="wget"):
    """Return the labels of the destinations of what a process sent, by bytes."""
    level, ends = window.levels[1], window.ends
    found = {}
    for source, dest, *moved in zip(
        level.source, level.dest, level.values["bytes"], level.values["udp_bytes"], strict=True
    ):
        if sum(moved) and dict(ends.labels[source]).get("process.name") == process:
            found[int(sum(moved))] = dict(ends.labels[dest])
    return found


def only(labels, *names):
    return tuple(labels.get(name) for name in names)


OF_POD = {
    "workload.name": "web-app",
    "workload.uid": "owner-web",
    "namespace.name": "front",
    "resolution_type": "K8S_CONTAINER",
    "environment": "prod",
    "pod": "web",
}
REMOTE_CASES = {
    "pod by its address": (
        {"pods": [pod("web", POD)]},
        (POD, 80),
        OF_POD | {"availability_zone": "(unknown)", "id": "node-9", "ip": POD},
    ),
    "pod by its IPv6 address": (
        {"pods": [pod("web", POD, "fd00::7")]},
        ("fd00::7", 80),
        OF_POD | {"availability_zone": "(unknown)", "id": "node-9", "ip": "fd00::7"},
    ),
    "pod with the zone of its node and its only container": (
        {
            "pods": [
                pod("web", POD, containers=[{"name": "nginx", "image": "nginx:1.2"}, {"name": "i", "kind": "init"}])
            ],
            "nodes": [{"uid": "n", "name": "node-9", "zone": "eu-1b"}],
        },
        (POD, 80),
        OF_POD
        | {"availability_zone": "eu-1b", "id": "node-9", "ip": POD}
        | {"container.name": "nginx", "image_version": "1.2"},
    ),
    "pod of several containers": (
        {"pods": [pod("web", POD, containers=[{"name": "b", "image": "b:2"}, {"name": "a", "image": "r/a:1"}])]},
        (POD, 80),
        OF_POD | {"availability_zone": "(unknown)", "id": "node-9", "ip": POD, "image_version": "'b:2','r/a:1'"},
    ),
    "pod without a controller": (
        {"pods": [pod("web", POD, owner_name="", owner_uid="", node="")]},
        (POD, 80),
        {
            "workload.name": "web",
            "namespace.name": "front",
            "resolution_type": "K8S_CONTAINER",
            "environment": "prod",
            "availability_zone": "(unknown)",
            "pod": "web",
            "id": POD,
            "ip": POD,
        },
    ),
    "pod of the host's network does not have the node's address": (
        {
            "pods": [pod("web", "10.0.0.9", host_network=True)],
            "nodes": [{"uid": "n", "name": "node-9", "zone": "eu-1b", "addresses": [packed("10.0.0.9")]}],
        },
        ("10.0.0.9", 80),
        {
            "workload.name": "node-9",
            "workload.uid": "n",
            "resolution_type": "K8S_NODE",
            "environment": "prod",
            "availability_zone": "eu-1b",
            "id": "node-9",
            "ip": "10.0.0.9",
        },
    ),
    "service address that was not translated": (
        {"services": [service("10.2.0.1")]},
        ("10.2.0.1", 80),
        {
            "workload.name": "web-svc",
            "workload.uid": "s",
            "namespace.name": "front",
            "resolution_type": "K8S_SERVICE",
            "environment": "prod",
            "availability_zone": "(unknown)",
            "id": "10.2.0.1",
            "ip": "10.2.0.1",
        },
    ),
    "service address at a port that it has not": ({"services": [service("10.2.0.1")]}, ("10.2.0.1", 9), "web-svc"),
    "one of two services of an address": (
        {
            "services": [
                service("10.2.0.1"),
                service("10.2.0.1", port=443) | {"uid": "t", "name": "other"},
            ]
        },
        ("10.2.0.1", 443),
        "other",
    ),
    "port of a service on all nodes": (
        {
            "services": [service(node_port=30080)],
            "nodes": [{"uid": "n", "name": "node-9", "addresses": [packed("10.0.0.9")]}],
        },
        ("10.0.0.9", 30080),
        "web-svc",
    ),
    "other port of a node": (
        {
            "services": [service(node_port=30080)],
            "nodes": [{"uid": "n", "name": "node-9", "addresses": [packed("10.0.0.9")]}],
        },
        ("10.0.0.9", 30081),
        "node-9",
    ),
    "address of a node that a service has too": (
        {
            "services": [service("10.2.0.1", "10.0.0.9")],
            "nodes": [{"uid": "n", "name": "node-9", "addresses": [packed("10.0.0.9")]}],
        },
        ("10.0.0.9", 80),
        "web-svc",
    ),
    "other port of a node whose address a service has too": (
        {
            "services": [service("10.2.0.1", "10.0.0.9")],
            "nodes": [{"uid": "n", "name": "node-9", "addresses": [packed("10.0.0.9")]}],
        },
        ("10.0.0.9", 10250),
        "node-9",
    ),
    "pod before service, node and name": (
        {
            "pods": [pod("web", POD)],
            "services": [service(POD)],
            "nodes": [{"uid": "n", "name": "n", "addresses": [packed(POD)]}],
        },
        (POD, 80),
        "web-app",
    ),
    "port 53": (
        {"pods": [pod("web", POD)]},
        (POD, 53),
        OF_POD | {"workload.name": "DNS", "availability_zone": "(unknown)", "id": "node-9", "ip": POD},
    ),
    "instance metadata": (
        {},
        ("169.254.169.254", 80),
        {
            "workload.name": "instance metadata",
            "resolution_type": "INSTANCE_METADATA",
            "availability_zone": "zone-0",
            "environment": "(no agent)",
            "id": "host-0",
            "ip": "169.254.169.254",
        },
    ),
}


@pytest.mark.parametrize(("entities", "dialled", "expected"), REMOTE_CASES.values(), ids=REMOTE_CASES)
@pytest.mark.parametrize("entities_come", ["before", "after"])
def test_ends_without_a_collector(entities, dialled, expected, entities_come):
    case = Case()
    if entities_come == "before":
        case.tell(**entities)
    case.dials(dialled[0], port=dialled[1])
    if entities_come == "after":
        case.tell(at_s=20, **entities)
    (labels,) = case.seal().values()
    assert (labels["workload.name"] if isinstance(expected, str) else labels) == expected
    assert case.unknown() == {}


def seconds(**times):
    return {f"{name}_time_unix_ns": value * SECOND_NS for name, value in times.items()}


def test_an_address_that_was_given_to_another_pod_names_each_flow_by_its_time():
    case = Case()
    case.tell(pods=[pod("a", POD, **seconds(start=1))])
    case.dials(POD, at_s=5, local_port=1, bytes_sent=1)
    case.dials(POD, at_s=25, local_port=2, bytes_sent=2, socket=2)
    case.tell(at_s=28, pods=[pod("a", POD, **seconds(start=1, end=10)), pod("b", POD, **seconds(start=12))])
    named = {moved: labels["workload.name"] for moved, labels in case.seal().items()}
    assert named == {1: "a-app", 2: "b-app"}


def test_a_connection_stays_with_the_pod_that_it_was_made_with():
    case = Case()
    case.tell(pods=[pod("a", POD)])
    case.dials(POD, at_s=5)
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a-app"]
    case.tell(at_s=40, retired_pods=["uid-a"], pods=[pod("b", POD, **seconds(start=41))])
    case.dials(POD, at_s=50, opened=0)
    case.dials(POD, at_s=51, local_port=2, socket=2, bytes_sent=2)
    assert {moved: labels["workload.name"] for moved, labels in case.seal(1).items()} == {7: "a-app", 2: "b-app"}
    case.dials(POD, at_s=70, socket=3)  # the same ports, by another socket
    assert [labels["workload.name"] for labels in case.seal(2).values()] == ["b-app"]


@pytest.mark.parametrize(("age_ms", "workload"), [(3_500, "old-app"), (1_500, "new-app"), (0, "new-app")])
@pytest.mark.parametrize("what", [{"opened": 1}, {"opened": 0, "failed": 1}], ids=["opened", "failed"])
def test_a_connection_is_with_who_had_the_address_when_it_was_made_within_a_poll(age_ms, workload, what):
    case = Case()
    case.tell(pods=[pod("old", POD, start_time_unix_ns=SECOND_NS, end_time_unix_ns=3 * SECOND_NS)])
    case.tell(pods=[pod("new", POD, start_time_unix_ns=3 * SECOND_NS)])
    case.dials(POD, at_s=5, age_ms=age_ms, **what)
    assert case.seal()[7]["workload.name"] == workload


def test_datagrams_go_to_who_has_the_address():
    case = Case()
    case.tell(pods=[pod("a", POD)])
    case.dials(POD, at_s=5, udp=True)
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a-app"]
    case.tell(at_s=31, retired_pods=["uid-a"], pods=[pod("b", POD, **seconds(start=32))])
    case.dials(POD, at_s=50, udp=True)
    assert [labels["workload.name"] for labels in case.seal(1).values()] == ["b-app"]


@pytest.mark.parametrize(
    ("told", "address", "reason"),
    [
        ({}, POD, "no_collector"),
        ({"pods": [pod("a", POD, **seconds(start=28))]}, POD, "not_then"),
        ({"pods": [pod("a", POD, **seconds(start=1, end=2))]}, POD, "not_then"),
        ({}, "::", "peers_not_told"),
    ],
)
def test_why_an_end_is_not_known(told, address, reason):
    case = Case()
    case.tell(**told)
    case.dials(address, at_s=25)
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "resolution_type", "id") == ("(unknown)", "IP", labels["ip"])
    assert case.unknown() == {reason: 1}


def test_a_host_whose_collector_tells_of_no_such_socket():
    case = Case()
    case.feed.session(SERVER_SESSION, host=intake_pb2.Host(name="s", addresses=[packed("10.0.0.9")]))
    case.dials("10.0.0.9")
    case.seal()
    assert case.unknown() == {"no_socket": 1}


def test_a_process_that_its_collector_does_not_know():
    case = Case()
    case.dials(POD, process=99)
    case.seal()
    assert case.unknown() == {"no_process": 1, "no_collector": 1}


CLUSTERS = {"a": [pod("a", POD)], "b": [pod("b", POD)]}


@pytest.mark.parametrize(("environment", "workload"), [("a", "a-app"), ("b", "b-app"), ("c", "(unknown)")])
def test_an_address_of_two_clusters_is_that_of_the_observers_own(environment, workload):
    case = Case()
    case.client(environment)
    for number, (cluster, pods) in enumerate(CLUSTERS.items(), CLUSTER):
        case.tell(number, environment=cluster, pods=pods)
    case.dials(POD)
    (labels,) = case.seal().values()
    assert labels["workload.name"] == workload
    assert case.unknown() == ({"several": 1} if environment == "c" else {})


def test_an_address_of_one_cluster_is_known_in_all():
    case = Case()
    case.tell(environment="elsewhere", pods=[pod("a", POD)])
    case.dials(POD)
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "environment") == ("a-app", "elsewhere")


OWNED_CASES = {
    "by the pod's uid": ({"pod_uid": "uid-web"}, {"pods": [pod("web")]}, "web-app", "K8S_CONTAINER"),
    "by the container's id": (
        {"container_id": "c1", "runtime": "containerd"},
        {"pods": [pod("web", containers=[{"id": "c1", "name": "nginx"}])]},
        "web-app",
        "K8S_CONTAINER",
    ),
    "by its address": ({}, {"pods": [pod("web", CLIENT)]}, "web-app", "K8S_CONTAINER"),
    "uid before address": ({"pod_uid": "uid-a"}, {"pods": [pod("a"), pod("b", CLIENT)]}, "a-app", "K8S_CONTAINER"),
    "before what Docker says": (
        {"pod_uid": "uid-web", "container_name": "k8s_nginx", "kubernetes_container": "nginx"},
        {"pods": [pod("web")]},
        "web-app",
        "K8S_CONTAINER",
    ),
    "pods that nobody told": (
        {"pod_uid": "uid-web", "kubernetes_container": "nginx"},
        {"pods": [pod("other")]},
        "nginx",
        "CONTAINER",
    ),
    "on the host's network": (
        {"pod_uid": "uid-web"},
        {"pods": [pod("web", CLIENT, host_network=True)]},
        "web-app",
        "K8S_CONTAINER",
    ),
    "a process of the host beside it": ({}, {"pods": [pod("web", CLIENT, host_network=True)]}, "wget", "PROCESS"),
    "a service address means nothing where a collector is": ({}, {"services": [service(CLIENT)]}, "wget", "PROCESS"),
}


@pytest.mark.parametrize(("cgroup", "entities", "workload", "kind"), OWNED_CASES.values(), ids=OWNED_CASES)
@pytest.mark.parametrize("entities_come", ["before", "after"])
def test_pods_where_a_collector_is(cgroup, entities, workload, kind, entities_come):
    case = Case()
    if entities_come == "before":
        case.tell(**entities)
    case.tell(CLIENT_SESSION, cgroups=[{"id": 9, **cgroup}] if cgroup else [])
    case.dials(PUBLIC, cgroup=9)
    if entities_come == "after":
        case.tell(at_s=20, **entities)
    window = case.feed.seal()
    (source,) = (dict(labels) for labels in window.ends.labels if dict(labels).get("ip") == CLIENT)
    assert only(source, "workload.name", "resolution_type", "process.name") == (workload, kind, "wget")
    assert only(source, "id", "environment", "availability_zone") == ("host-0", "prod", "zone-0")


def test_the_container_of_a_pod_is_the_one_of_the_cgroup():
    case = Case()
    containers = [{"id": "c1", "name": "nginx", "image": "nginx:1.2"}, {"id": "c2", "name": "side", "image": "side:3"}]
    case.tell(pods=[pod("web", containers=containers)])
    case.tell(CLIENT_SESSION, cgroups=[{"id": 9, "pod_uid": "uid-web", "container_id": "c2"}])
    case.dials(PUBLIC, cgroup=9)
    (source,) = (dict(labels) for labels in case.feed.seal().ends.labels if ("ip", CLIENT) in labels)
    assert only(source, "container.name", "image_version", "pod") == ("side", "3", "web")


def test_a_pod_of_another_cluster_with_the_address_of_a_host():
    case = Case()
    case.tell(environment="elsewhere", pods=[pod("web", CLIENT)])
    case.dials(PUBLIC)
    (source,) = (dict(labels) for labels in case.feed.seal().ends.labels if ("ip", CLIENT) in labels)
    assert source["workload.name"] == "wget"


def test_a_pod_that_is_retired_names_the_flows_of_before():
    case = Case()
    case.tell(pods=[pod("web", POD)])
    case.dials(POD)
    case.tell(at_s=20, retired_pods=["uid-web"])
    assert [labels["workload.name"] for labels in case.seal().values()] == ["web-app"]


def test_interfaces_name_ends_only_where_asked_for():
    for asked_for in (False, True):
        case = Case(use_interfaces=asked_for)
        case.tell(9, kind=CLOUD, cloud_interfaces=[interface("db", "10.0.0.5")])
        case.dials("10.0.0.5")
        (labels,) = case.seal().values()
        found = only(labels, "workload.name", "resolution_type", "availability_zone", "id", "ip", "environment")
        named = ("db", "AWS", "eu-1c", "eni-db/10.0.0.5", "10.0.0.5", "(no agent)")
        assert found == (named if asked_for else ("(unknown)", "IP", "(unknown)", "10.0.0.5", "10.0.0.5", "(no agent)"))


def test_private_addresses_of_two_networks_are_told_apart_by_the_observers_network():
    for instance, expected in (("i-1", "one"), ("i-2", "two"), ("i-3", "(unknown)"), ("", "(unknown)")):
        case = Case(use_interfaces=True)
        case.client(cloud={"provider": "aws", "instance_id": instance})
        machines = [
            interface(f"machine-{index}", f"10.{index}.0.1", network=f"vpc-{index}", instance_id=f"i-{index}")
            for index in (1, 2, 3)
        ]
        alike = [interface("one", "10.0.0.5", network="vpc-1"), interface("two", "10.0.0.5", network="vpc-2")]
        case.tell(9, kind=CLOUD, cloud_interfaces=machines + alike)
        case.dials("10.0.0.5")
        (labels,) = case.seal().values()
        assert labels["workload.name"] == expected
        assert case.unknown() == ({} if expected in ("one", "two") else {"several": 1})


def test_both_views_of_an_interface_are_one_end():
    case = Case(use_interfaces=True)
    case.tell(9, kind=CLOUD, cloud_interfaces=[interface("db", "10.0.0.5", public=[("54.1.1.1", "10.0.0.5")])])
    case.dials("10.0.0.5", bytes_sent=1)
    case.dials("54.1.1.1", bytes_sent=2, socket=2, local_port=2)
    window = case.feed.seal()
    assert [labels["id"] for labels in sent(window).values()] == ["eni-db/54.1.1.1"]


def test_both_views_of_a_host_are_one_end():
    case = Case()
    public = {"addresses": [{"public": packed("54.1.1.1"), "private": packed(CLIENT)}]}
    case.client(cloud=public)
    case.dials(POD)
    window = case.feed.seal()
    assert ("ip", "54.1.1.1") in window.ends.labels[window.levels[1].source[0]] + window.ends.labels[
        window.levels[1].dest[0]
    ]


@pytest.mark.parametrize(("provider", "kind"), [("aws", "AWS"), ("gcp", "GCP"), ("azure", "AZURE")])
def test_each_cloud_is_told(provider, kind):
    case = Case(use_interfaces=True)
    told = interface("x", "10.0.0.5", provider=provider, role="", instance_id="i-7", zone="", region="eu-1")
    case.tell(9, kind=CLOUD, cloud_interfaces=[told])
    case.dials("10.0.0.5")
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "resolution_type", "availability_zone") == ("i-7", kind, "eu-1")


def dns(name, *addresses):
    return {"dns_names": [{"name": name, "addresses": [packed(address) for address in addresses]}]}


def test_names_of_the_dns_name_what_was_resolved_on_that_machine():
    case = Case()
    case.feed.session(SERVER_SESSION, "curl")
    case.tell(CLIENT_SESSION, **dns("api.example.com", PUBLIC, "2606:2800::1"))
    case.tell(SERVER_SESSION, **dns("other.example.com", PUBLIC))
    case.dials(PUBLIC)
    case.feed.take(SERVER_SESSION, 6, connector_row(local_address="10.0.0.3", remote_address=PUBLIC, bytes_sent=9))
    window = case.feed.seal()
    (labels,), (of_other,) = sent(window).values(), sent(window, "curl").values()
    assert labels == {
        "workload.name": "api.example.com",
        "resolution_type": "DNS",
        "availability_zone": "(unknown)",
        "environment": "(no agent)",
        "id": PUBLIC,
        "ip": PUBLIC,
    }
    assert of_other["workload.name"] == "other.example.com"
    assert case.unknown() == {}


def test_a_name_of_the_dns_is_that_of_the_time_when_the_flow_began():
    case = Case()
    case.tell(CLIENT_SESSION, at_s=2, **dns("a.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=5, bytes_sent=1)
    case.tell(CLIENT_SESSION, at_s=10, **dns("b.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=15, bytes_sent=2, local_port=2, socket=2)
    assert {moved: labels["workload.name"] for moved, labels in case.seal().items()} == {
        1: "a.example.com",
        2: "b.example.com",
    }
    case.tell(CLIENT_SESSION, at_s=40, **dns("c.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=45, opened=0, bytes_sent=3)
    assert [labels["workload.name"] for labels in case.seal(1).values()] == ["a.example.com"]


def test_a_name_that_one_poll_told_with_the_connections_is_theirs():
    case = Case()
    case.tell(CLIENT_SESSION, at_s=2, **dns("a.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=5, bytes_sent=1, age_ms=2_000)
    case.tell(CLIENT_SESSION, at_s=10, **dns("b.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=10, bytes_sent=2, local_port=2, socket=2, age_ms=4_000)
    assert {moved: labels["workload.name"] for moved, labels in case.seal().items()} == {
        1: "a.example.com",
        2: "b.example.com",
    }


def test_a_name_that_comes_after_the_flow_names_it_while_the_window_is_open():
    case = Case()
    case.dials(PUBLIC)
    case.tell(CLIENT_SESSION, at_s=10, **dns("a.example.com", PUBLIC))
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a.example.com"]


@pytest.fixture
def systems(tmp_path):
    writer = MMDBWriter(6, "GeoLite2-ASN", ipv4_compatible=True)
    organisation = {"autonomous_system_number": 15133, "autonomous_system_organization": "EDGECAST"}
    writer.insert_network(netaddr.IPSet(["93.184.216.0/24"]), organisation)
    writer.to_db_file(str(tmp_path / "asn.mmdb"))
    found = AutonomousSystems(tmp_path / "asn.mmdb")
    yield found
    found.close()


@pytest.mark.parametrize("with_ip", [False, True])
def test_an_autonomous_system_is_the_zone_of_the_internet(systems, with_ip):
    case = Case(systems=systems, system_ip=with_ip)
    for index, address in enumerate((PUBLIC, "93.184.216.99"), 1):
        case.dials(address, bytes_sent=index, local_port=index, socket=index)
    case.dials(POD, bytes_sent=9, local_port=9, socket=9)
    found = case.seal()
    common = {
        "workload.name": "(internet)",
        "resolution_type": "IP",
        "availability_zone": "EDGECAST",
        "environment": "(no agent)",
    }
    if with_ip:
        assert found[1] == common | {"id": PUBLIC, "ip": PUBLIC}
        assert found[2] == common | {"id": "93.184.216.99", "ip": "93.184.216.99"}
    else:
        assert found[3] == common | {"id": "AS", "ip": "AS"}
    assert found[9]["workload.name"] == "(unknown)"
    assert case.unknown() == {"no_collector": 1}


def test_a_name_of_the_dns_comes_before_the_system_but_has_its_zone(systems):
    case = Case(systems=systems)
    case.tell(CLIENT_SESSION, **dns("api.example.com", PUBLIC))
    case.dials(PUBLIC)
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "resolution_type", "availability_zone", "ip") == (
        "api.example.com",
        "DNS",
        "EDGECAST",
        PUBLIC,
    )


def test_interface_before_name_before_system(systems):
    case = Case(systems=systems, use_interfaces=True)
    case.tell(CLIENT_SESSION, **dns("db.example.com", PUBLIC))
    case.tell(9, kind=CLOUD, cloud_interfaces=[interface("db", "10.0.0.5", public=[(PUBLIC, "10.0.0.5")])])
    case.dials(PUBLIC)
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "resolution_type") == ("db", "AWS")


def test_what_both_collectors_see_needs_no_address():
    case = Case()
    case.feed.session(SERVER_SESSION, "-", "nginx")
    case.tell(pods=[pod("web", "10.0.0.2")], environment="elsewhere")
    case.dials("10.0.0.2", bytes_sent=5)
    case.feed.take(SERVER_SESSION, 6, acceptor_row(bytes_received=5))
    (labels,) = case.seal().values()
    assert labels["workload.name"] == "nginx"


def two_flows_of_one_address(case, hosts):
    """Let the client's host alone tell of a connection in one network, and the server's alone of one in the other."""
    for number, host in enumerate(hosts):
        case.feed.session(number, "wget", "nginx", host=host)
    case.feed.take(0, 5, connector_row(bytes_sent=6, opened=1))
    case.feed.take(1, 6, acceptor_row(bytes_received=5, opened=1))
    az = case.feed.seal(heard=(0, 1)).levels[0]
    return sorted(az.values["bytes"].tolist()), int(az.values["opened"].sum())


@pytest.mark.parametrize(("networks", "told"), [((1, 2), ([5, 6], 2)), ((1, 1), ([6], 1))])
def test_flows_of_equal_addresses_in_two_networks_are_two(networks, told):
    case = Case()
    machines = [
        interface(f"{side}{network}", address, network=f"vpc-{network}", instance_id=f"{side}{network}")
        for network in (1, 2)
        for side, address in (("a", CLIENT), ("b", "10.0.0.2"))
    ]
    case.tell(9, kind=CLOUD, cloud_interfaces=machines)
    clouds = [
        {"provider": "aws", "instance_id": f"{side}{network}"} for side, network in zip("ab", networks, strict=True)
    ]
    assert two_flows_of_one_address(case, [intake_pb2.Host(name="h", cloud=cloud) for cloud in clouds]) == told


@pytest.mark.parametrize(("clusters", "told"), [("ab", ([5, 6], 2)), ("aa", ([6], 1))])
def test_flows_of_equal_addresses_in_two_clusters_are_two(clusters, told):
    case = Case()
    for index, cluster in enumerate("ab"):
        pods = [pod(f"{cluster}1", CLIENT), pod(f"{cluster}2", "10.0.0.2")]
        case.tell(CLUSTER + index, environment=cluster, pods=pods)
    hosts = [intake_pb2.Host(name="h", environment=cluster) for cluster in clusters]
    assert two_flows_of_one_address(case, hosts) == told


def test_the_public_and_the_private_view_of_a_machine_are_one_flow():
    inner, outer = "10.0.0.5", "54.1.1.1"
    case = Case()
    case.client(cloud={"addresses": [{"public": packed("3.3.3.3"), "private": packed(CLIENT)}]})
    cloud = {"provider": "aws", "addresses": [{"public": packed(outer), "private": packed(inner)}]}
    case.feed.session(SERVER_SESSION, "-", "nginx", host=intake_pb2.Host(name="server", cloud=cloud))
    case.dials(outer, bytes_sent=5)
    server = {"local_address": inner, "remote_address": "3.3.3.3", "bytes_received": 5, "opened": 1}
    case.feed.take(SERVER_SESSION, 6, acceptor_row(**server))
    within = {"local_address": inner, "remote_address": CLIENT, "remote_port": 9, "bytes_received": 6}
    case.dials(inner, bytes_sent=6, socket=3, local_port=9)
    case.feed.take(SERVER_SESSION, 6, acceptor_row(socket=3, **within))
    window = case.feed.seal(heard=(0, 1))
    assert len(window.levels[1].source) == 1 or sum(window.levels[1].values["opened"]) == 2
    (labels,) = sent(window).values()
    assert only(labels, "workload.name", "ip", "id") == ("nginx", outer, "server")
    assert sum(window.levels[0].values["bytes"]) == 11


def test_what_docker_proxy_passes_on_is_counted_once_and_is_the_containers():
    """The reference's rule; here a proxy is its process, so those of two published ports are two."""
    case = Case()
    case.feed.session(SERVER_SESSION, "docker-proxy", "docker-proxy", "nginx", "redis-server")
    containers = [
        {"id": index, "container_id": f"c{index}", "container_name": name} for index, name in ((7, "web"), (8, "db"))
    ]
    case.tell(SERVER_SESSION, cgroups=containers)
    for index, (proxy, port, inner) in enumerate(((1, 80, "172.17.0.2"), (2, 6379, "172.17.0.3"))):
        moved, near, far = 100 + index, 41000 + index, 40000 + index
        case.dials("10.0.0.2", port=port, local_port=far, socket=9 + index, bytes_sent=moved)
        received = {"bytes_received": moved, "opened": 1}
        taken = acceptor_row(process=proxy, socket=10 + index, local_port=port, remote_port=far, **received)
        passed = connector_row(
            process=proxy,
            socket=20 + index,
            local_address="172.17.0.1",
            local_port=near,
            remote_address=inner,
            remote_port=port,
            bytes_sent=moved,
            opened=1,
        )
        reached = acceptor_row(
            process=3 + index,
            cgroup=7 + index,
            socket=30 + index,
            local_address=inner,
            local_port=port,
            remote_address="172.17.0.1",
            remote_port=near,
            **received,
        )
        case.feed.take(SERVER_SESSION, 6, taken, passed, reached)
    window = case.feed.seal(heard=(0, 1))
    found = sent(window)
    assert {moved: only(labels, "workload.name", "process.name") for moved, labels in found.items()} == {
        100: ("web", "nginx"),
        101: ("db", "redis-server"),
    }
    assert sum(window.levels[0].values["bytes"]) == 201
    assert sum(window.levels[0].values["opened"]) == 2
    assert case.feed.pipeline.statistics().flows_of_docker_proxy == 2


def test_docker_proxy_itself_is_named_while_its_container_is_not_known():
    case = Case()
    case.feed.session(SERVER_SESSION, "-", "docker-proxy")
    case.dials("10.0.0.2", bytes_sent=5)
    case.feed.take(SERVER_SESSION, 6, acceptor_row(bytes_received=5))
    (labels,) = case.seal().values()
    assert labels["workload.name"] == "docker-proxy"


def test_datagrams_of_a_socket_that_is_closed_went_to_who_had_the_address():
    case = Case()
    case.tell(pods=[pod("a", POD, **seconds(start=1))])
    case.dials(POD, at_s=5, udp=True)
    case.tell(at_s=28, pods=[pod("a", POD, **seconds(start=1, end=10)), pod("b", POD, **seconds(start=12))])
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a-app"]


def handed_on(case):
    """Let a pod's address be another's from 12 s on."""
    case.tell(at_s=28, pods=[pod("a", POD, **seconds(start=1, end=10)), pod("b", POD, **seconds(start=12))])


def test_ports_used_again_to_an_address_that_was_handed_on_are_two_flows():
    case = Case()
    case.dials(POD, at_s=5, bytes_sent=5, bytes_received=50, closed=1)
    case.dials(POD, at_s=6, bytes_sent=1, opened=0)
    case.dials(POD, at_s=20, bytes_sent=7, bytes_received=70, socket=2)
    handed_on(case)
    window = case.feed.seal()
    assert {moved: labels["workload.name"] for moved, labels in sent(window).items()} == {6: "a-app", 7: "b-app"}
    assert sent(window).keys() == {6, 7}
    back = series_of(window, 1, label="pod")
    assert {source: values["bytes"] for (source, _), values in back.items() if source} == {"a": 50, "b": 70}
    forward = {dest: values for (source, dest), values in back.items() if dest}
    assert {dest: (values["opened"], values.get("closed"), values["active"]) for dest, values in forward.items()} == {
        "a": (1, 1, 1),
        "b": (1, None, 1),
    }


def test_datagrams_of_one_socket_are_each_with_who_had_the_address():
    case = Case()
    for at_s, moved in ((3, 1), (8, 2), (15, 4), (20, 8)):
        case.dials(POD, at_s=at_s, udp=True, bytes_sent=moved, packets_sent=1, bytes_received=10 * moved)
    handed_on(case)
    window = case.feed.seal()
    assert {moved: labels["workload.name"] for moved, labels in sent(window).items()} == {3: "a-app", 12: "b-app"}
    assert sum(window.levels[0].values["udp_bytes"]) == 11 * 15
    assert sum(window.levels[0].values["udp_packets"]) == 4


def test_a_connection_to_an_address_that_was_handed_on_stays_one_flow():
    case = Case()
    for at_s in (5, 15, 25):
        case.dials(POD, at_s=at_s, opened=int(at_s == 5), bytes_sent=1)
    handed_on(case)
    assert {moved: labels["workload.name"] for moved, labels in case.seal().items()} == {3: "a-app"}
    case.dials(POD, at_s=35, opened=0, bytes_sent=1)
    assert {moved: labels["workload.name"] for moved, labels in case.seal(1).items()} == {1: "a-app"}


def test_what_both_ends_tell_of_is_not_split():
    case = Case()
    case.feed.session(SERVER_SESSION, "-", "nginx")
    for at_s in (5, 20):
        case.dials(POD, at_s=at_s, bytes_sent=5)
        case.feed.take(SERVER_SESSION, at_s, acceptor_row(local_address=POD, bytes_received=5))
    handed_on(case)
    assert sum(case.feed.seal(heard=(0, 1)).levels[0].values["bytes"]) == 10
