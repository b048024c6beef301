import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from reducer.knowledge.entities import Pod, image_version
from reducer.knowledge.owners import Owner, Owners
from reducer.live import _Known as Known
from reducer.matching.match import Special
from reducer.naming.labels import identity_labels, node_labels
from reducer.naming.name import Names
from reducer.naming.parties import Party
from reducer.outputs.metrics import documentation
from tests.rows import packed, session_id, tcp_rows

HOST = intake_pb2.Host(name="node-7", environment="prod", namespace="shop", zone="eu-1a", service="billing")
PLAIN = np.zeros(8, np.uint8)


def test_a_process_names_its_workload():
    assert identity_labels(Party(Owner(HOST, "nginx"))) == (
        ("availability_zone", "eu-1a"),
        ("environment", "prod"),
        ("namespace.name", "shop"),
        ("process.name", "nginx"),
        ("resolution_type", "PROCESS"),
        ("workload.name", "nginx"),
    )


def test_without_a_process_the_hosts_service_names_it():
    labels = dict(identity_labels(Party(Owner(HOST, ""))))
    assert labels["workload.name"] == "billing"
    assert "process.name" not in labels
    assert labels["availability_zone"] == "eu-1a"


def test_a_host_without_labels_leaves_them_out():
    assert identity_labels(Party(Owner(intake_pb2.Host(), ""))) == (
        ("resolution_type", "PROCESS"),
        ("workload.name", "(unknown)"),
    )


def test_an_end_without_a_collector():
    assert dict(identity_labels(Party(None))) == {
        "workload.name": "(unknown)",
        "availability_zone": "(unknown)",
        "environment": "(no agent)",
        "resolution_type": "IP",
    }


CONTAINER = {
    "container_id": "ab",
    "runtime": "docker",
    "container_name": "shop-web-1",
    "image": "reg:5000/shop/web:1.2",
}
KUBERNETES = {"kubernetes_container": "web", "kubernetes_pod": "web-0", "kubernetes_namespace": "front", "pod_uid": "u"}
ECS = {"ecs_task_family": "shop-front", "ecs_task_version": "7", "ecs_container": "front"}
NOMAD = {"nomad_job": "shop", "nomad_group": "front", "nomad_task": "web", "nomad_namespace": "blue"}
# Process, its service, its cgroup -> the labels that are not those of every end on HOST.
CASES = {
    "container": (
        ("node", "", CONTAINER),
        {
            "workload.name": "shop-web-1",
            "container.name": "shop-web-1",
            "image_version": "1.2",
            "resolution_type": "CONTAINER",
        },
    ),
    "container of Kubernetes": (
        ("node", "", CONTAINER | KUBERNETES),
        {
            "workload.name": "web",
            "container.name": "web",
            "image_version": "1.2",
            "namespace.name": "front",
            "resolution_type": "CONTAINER",
        },
    ),
    "pause container": (
        ("pause", "", CONTAINER | KUBERNETES | {"kubernetes_container": "POD", "container_name": "k8s_POD_web-0"}),
        {
            "workload.name": "k8s_POD_web-0",
            "container.name": "POD",
            "image_version": "1.2",
            "namespace.name": "front",
            "resolution_type": "CONTAINER",
        },
    ),
    "task of ECS before Kubernetes": (
        ("node", "", CONTAINER | ECS | {"container_name": "ecs-shop-front-7-front-f0"}),
        {
            "workload.name": "shop-front",
            "container.name": "front",
            "image_version": "7",
            "resolution_type": "CONTAINER",
        },
    ),
    "task of Nomad before all": (
        ("node", "", CONTAINER | ECS | NOMAD),
        {
            "workload.name": "shop.front.web",
            "container.name": "front",
            "image_version": "1.2",
            "namespace.name": "blue",
            "resolution_type": "NOMAD",
        },
    ),
    "task of Nomad by its path": (
        ("node", "", {"container_id": "u", "runtime": "nomad", "nomad_task": "web"}),
        {"workload.name": "<unknown>.<unknown>.web", "resolution_type": "NOMAD"},
    ),
    "namespace by a label": (
        ("node", "", CONTAINER | {"namespace": "blue"}),
        {
            "workload.name": "shop-web-1",
            "container.name": "shop-web-1",
            "image_version": "1.2",
            "namespace.name": "blue",
            "resolution_type": "CONTAINER",
        },
    ),
    "container before the service in it": (
        ("node", "x", CONTAINER | {"service": "nginx"}),
        {
            "workload.name": "shop-web-1",
            "container.name": "shop-web-1",
            "image_version": "1.2",
            "resolution_type": "CONTAINER",
        },
    ),
    "container without a name": (("node", "", {"container_id": "ab"}), {"workload.name": "node"}),
    "pod without more": (
        ("node", "", {"pod_uid": "u", "container_id": "ab", "runtime": "containerd"}),
        {"workload.name": "node"},
    ),
    "service of systemd before runit": (("node", "b", {"service": "a"}), {"workload.name": "a"}),
    "service of runit": (("node", "b", None), {"workload.name": "b"}),
    "service before no process": (("", "", {"service": "a"}), {"workload.name": "a"}),
    "process": (("node", "", None), {"workload.name": "node"}),
    "kubelet": (("kubelet", "", {"service": "snap.kubelet"}), {"workload.name": "kubelet"}),
}


@pytest.mark.parametrize(("given", "expected"), CASES.values(), ids=CASES)
def test_precedence(given, expected):
    process, service, cgroup = given
    owner = Owner(HOST, process, service, None if cgroup is None else intake_pb2.Cgroup(id=9, **cgroup))
    common = {
        "availability_zone": "eu-1a",
        "environment": "prod",
        "namespace.name": "shop",
        "resolution_type": "PROCESS",
    }
    common |= {"process.name": process} if process else {}
    assert dict(identity_labels(Party(owner))) == common | expected


def test_every_label_is_documented():
    owner = Owner(HOST, "node", "", intake_pb2.Cgroup(id=1, **CONTAINER | KUBERNETES))
    labels = dict(node_labels(identity_labels(Party(owner)), Party(owner), packed("10.1.2.3")))
    assert len(labels) == 11
    assert [label for label in labels if f"`{label}`" not in documentation()] == []


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("nginx", ""),
        ("nginx:1.2", "1.2"),
        ("reg:5000/shop/nginx", ""),
        ("reg:5000/shop/nginx:1.2", "1.2"),
        ("nginx@sha256:ab", "sha256:ab"),
        ("reg/nginx:1.2@sha256:ab", "sha256:ab"),
        ("sha256:abcd", "sha256:abcd"),
        ("nginx:", ""),
        ("", ""),
    ],
)
def test_image_versions(image, version):
    assert image_version(image) == version


def test_dns_servers_are_named_by_their_port_whoever_they_are():
    owner = Owner(HOST, "coredns", "", intake_pb2.Cgroup(id=1, **CONTAINER))
    assert dict(identity_labels(Party(owner), Special.DNS)) == dict(identity_labels(Party(owner))) | {
        "workload.name": "DNS"
    }
    assert dict(identity_labels(Party(None), Special.DNS)) == dict(identity_labels(Party(None))) | {
        "workload.name": "DNS"
    }


def test_a_kubelet_at_the_port_of_the_dns_is_the_kubelet():
    owner = Party(Owner(HOST, "kubelet"))
    assert identity_labels(owner, Special.DNS) == identity_labels(owner)


def test_the_instance_metadata_service_is_in_the_zone_of_who_asks_it():
    asking = Owner(HOST, "agent")
    labels = identity_labels(Party(asking), Special.INSTANCE_METADATA)
    assert dict(labels) == {
        "workload.name": "instance metadata",
        "resolution_type": "INSTANCE_METADATA",
        "availability_zone": "eu-1a",
        "environment": "(no agent)",
    }
    assert dict(node_labels(labels, Party(asking), packed("169.254.169.254")))["id"] == "node-7"
    assert dict(identity_labels(Party(None), Special.INSTANCE_METADATA))["availability_zone"] == "(unknown)"


def test_the_instance_metadata_service_is_not_the_pod_that_asks_it():
    cgroup = intake_pb2.Cgroup(id=1, pod_uid="u", kubernetes_pod="web-1")
    pod = Pod("prod", "shop", "web-1", "web", "o", "node-7", zone="eu-1b")
    asking = Party(Owner(intake_pb2.Host(name="node-7"), "agent", "", cgroup), pod)
    identity = identity_labels(asking, Special.INSTANCE_METADATA)
    labels = dict(node_labels(identity, asking, packed("169.254.169.254")))
    assert (labels["id"], labels["availability_zone"], "pod" in labels) == ("node-7", "eu-1b", False)


def test_special_ends_have_indexes_of_their_own():
    owners, of = known_owners()
    names = Names()
    special = np.array([Special.NONE, Special.INSTANCE_METADATA, Special.DNS, Special.NONE], np.uint8)
    owner = np.array([of[0], 0, of[0], 0], np.uint32)
    ends = names.identities(owner, special, Known(owners.view()))
    workloads = [dict(names.ends.labels[end])["workload.name"] for end in ends]
    assert workloads == ["a", "instance metadata", "DNS", "(unknown)"]
    assert ("id", "node-7") in names.ends.labels[
        names.nodes(owner, special, words(*["10.0.0.1"] * 4), Known(owners.view()), 1)[1]
    ]


def test_what_is_known_later_names_the_same_owner():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    cgroup = intake_pb2.Cgroup(id=9, container_id="ab")
    owners.learn(session_id(0), intake_pb2.Entities(cgroups=[cgroup]))
    of = owners.of(session_id(0), np.zeros(1, np.uint32), np.array([9], np.uint64))
    names = Names()

    def workloads():
        named = (
            names.identities(of, PLAIN[:1], Known(owners.view())),
            names.nodes(of, PLAIN[:1], words("10.0.0.1"), Known(owners.view()), seed=1),
        )
        return [dict(names.ends.labels[ends[0]])["workload.name"] for ends in named]

    assert workloads() == ["billing", "billing"]
    cgroup.container_name = "web"
    owners.learn(session_id(0), intake_pb2.Entities(cgroups=[cgroup]))
    assert workloads() == ["web", "web"]


def test_nodes_have_the_pod():
    owner = Owner(HOST, "node", "", intake_pb2.Cgroup(id=1, **CONTAINER | KUBERNETES))
    assert dict(node_labels(identity_labels(Party(owner)), Party(owner), packed("10.1.2.3")))["pod"] == "web-0"


def test_a_pod_has_its_nodes_zone_and_cluster_where_the_host_has_none():
    pod = Pod("prod", "front", "web-0", "web", "d1", "node", zone="eu-1a")
    of_pod = intake_pb2.Cgroup(id=1, pod_uid="p1")
    for host, expected in ((intake_pb2.Host(name="node"), ("eu-1a", "prod")), (HOST, (HOST.zone, HOST.environment))):
        labels = dict(identity_labels(Party(Owner(host, "nginx", "", of_pod), pod)))
        assert (labels["availability_zone"], labels["environment"]) == expected


def test_nodes_have_host_and_address():
    owner = Owner(HOST, "nginx")
    labels = node_labels(identity_labels(Party(owner)), Party(owner), packed("10.1.2.3"))
    assert labels == tuple(sorted((*identity_labels(Party(owner)), ("id", "node-7"), ("ip", "10.1.2.3"))))
    unknown = dict(node_labels(identity_labels(Party(None)), Party(None), packed("fd00::9")))
    assert (unknown["id"], unknown["ip"]) == ("fd00::9", "fd00::9")


def known_owners():
    owners = Owners()
    owners.hello(session_id(0), HOST)
    processes = [
        intake_pb2.Process(id=1, name="a"),
        intake_pb2.Process(id=2, name="b"),
        intake_pb2.Process(id=3, name="a"),
    ]
    owners.snapshot(session_id(0), intake_pb2.Entities(processes=processes))
    return owners, owners.of(session_id(0), np.array([1, 2, 3, 9], np.uint32), np.zeros(4, np.uint64))


def words(*addresses):
    table = tcp_rows(*({"local_address": address} for address in addresses))
    return table["local_address"].view(np.uint64).reshape(-1, 2)


def test_equal_ends_have_one_index():
    owners, of = known_owners()
    names = Names()
    ends = names.identities(np.append(of, np.uint32(0)), PLAIN[:5], Known(owners.view()))
    assert ends[0] == ends[2]
    assert len({*ends.tolist()}) == 4
    nodes = names.nodes(
        of, PLAIN[:4], words("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1"), Known(owners.view()), seed=1
    )
    assert len({*nodes.tolist()}) == 4
    again = names.nodes(
        of[::-1], PLAIN[:4], words("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"), Known(owners.view()), seed=1
    )
    assert again.tolist() == nodes[::-1].tolist()
    assert dict(names.ends.labels[nodes[2]])["ip"] == "10.0.0.2"


def test_too_many_nodes_keep_their_identity():
    owners, of = known_owners()
    names = Names(most_ends=4)
    view = Known(owners.view())
    addresses = words(*(f"10.0.0.{index}" for index in range(5)))
    nodes = names.nodes(np.repeat(of[:1], 5), PLAIN[:5], addresses, view, seed=1)
    assert names.ends_rolled_up == 2
    labels = [dict(names.ends.labels[end]) for end in nodes]
    assert sum("ip" in each for each in labels) == 3
    assert {each["workload.name"] for each in labels} == {"a"}
    generation = names.ends.generation
    names.begin_window(view)
    assert names.ends.generation == generation + 1
    assert dict(names.ends.labels[names.identities(of[1:2], PLAIN[:1], view)[0]])["process.name"] == "b"
