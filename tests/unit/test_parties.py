# Cases: entities and flows in, the labels of an end of the flow out.

import pytest
from ebpf_net.v1 import intake_pb2

from k8s_collector.endpoint_slices import endpoint_slice_message
from tests.flow_rows import CLIENT, acceptor_row
from tests.named_flows import (
    CLIENT_SESSION,
    CLOUD,
    POD,
    PUBLIC,
    SERVER_SESSION,
    Case,
    interface,
    only,
    pod,
    seconds,
    service,
)
from tests.rows import packed

OF_POD = {
    "workload.name": "web-app",
    "workload.uid": "owner-web",
    "namespace.name": "front",
    "resolution_type": "K8S_CONTAINER",
    "environment": "prod",
    "pod": "web",
}
NODE_9 = {"uid": "n", "name": "node-9", "addresses": [packed("10.0.0.9")]}


def endpoints(service, address, port, service_uid=""):
    """What the collector of Kubernetes tells of an endpoint that is no pod."""
    metadata = {"uid": "e", "name": "x", "namespace": "front", "labels": {"kubernetes.io/service-name": service}}
    ends, ports = [{"addresses": [address]}], [{"port": port, "protocol": "TCP"}]
    message = endpoint_slice_message({"metadata": metadata, "endpoints": ends, "ports": ports})
    message.service_uid = service_uid
    return message


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
    "end of a service outside of the cluster": (
        {"services": [endpoints("database", "203.0.113.7", 5432)]},
        ("203.0.113.7", 5432),
        {
            "workload.name": "database",
            "workload.uid": "e",
            "namespace.name": "front",
            "resolution_type": "K8S_SERVICE",
            "environment": "prod",
            "availability_zone": "(unknown)",
            "id": "203.0.113.7",
            "ip": "203.0.113.7",
        },
    ),
    "end outside of the cluster, with the uid of the service": (
        {"services": [endpoints("database", "203.0.113.7", 5432, service_uid="s")]},
        ("203.0.113.7", 5432),
        {
            "workload.name": "database",
            "workload.uid": "s",
            "namespace.name": "front",
            "resolution_type": "K8S_SERVICE",
            "environment": "prod",
            "availability_zone": "(unknown)",
            "id": "203.0.113.7",
            "ip": "203.0.113.7",
        },
    ),
    "API server on a node": (
        {"services": [endpoints("kubernetes", "10.0.0.9", 6443)], "nodes": [NODE_9]},
        ("10.0.0.9", 6443),
        "kubernetes",
    ),
    "other port of a node with an API server": (
        {"services": [endpoints("kubernetes", "10.0.0.9", 6443)], "nodes": [NODE_9]},
        ("10.0.0.9", 10250),
        "node-9",
    ),
    "port of the service's own address on a node with an API server": (
        {
            "services": [service("10.2.0.1", port=443), endpoints("kubernetes", "10.0.0.9", 6443)],
            "nodes": [NODE_9],
        },
        ("10.0.0.9", 443),
        "node-9",
    ),
    "other port of an API server that is on no node": (
        {"services": [endpoints("kubernetes", "10.0.0.9", 6443)]},
        ("10.0.0.9", 10250),
        "kubernetes",
    ),
    "pod that is an endpoint without saying so": (
        {"pods": [pod("web", POD)], "services": [endpoints("kubernetes", POD, 80)]},
        (POD, 80),
        "web-app",
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


def test_an_end_that_its_host_names_is_known():
    case = Case()
    case.client(service="billing")
    case.dials(POD, process=99)
    case.seal()
    assert case.unknown() == {"no_collector": 1}


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


@pytest.mark.parametrize(("provider", "kind"), [("aws", "AWS"), ("gcp", "GCP"), ("azure", "AZURE")])
def test_each_cloud_is_told(provider, kind):
    case = Case(use_interfaces=True)
    told = interface("x", "10.0.0.5", provider=provider, role="", instance_id="i-7", zone="", region="eu-1")
    case.tell(9, kind=CLOUD, cloud_interfaces=[told])
    case.dials("10.0.0.5")
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "resolution_type", "availability_zone") == ("i-7", kind, "eu-1")


def test_what_both_collectors_see_needs_no_address():
    case = Case()
    case.feed.session(SERVER_SESSION, "-", "nginx")
    case.tell(pods=[pod("web", "10.0.0.2")], environment="elsewhere")
    case.dials("10.0.0.2", bytes_sent=5)
    case.feed.take(SERVER_SESSION, 6, acceptor_row(bytes_received=5))
    (labels,) = case.seal().values()
    assert labels["workload.name"] == "nginx"
