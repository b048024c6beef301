import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from reducer.name import Names, address_text, identity_labels, node_labels
from reducer.owners import Owner, Owners
from tests.strategies import packed, session_id, tcp_rows

HOST = intake_pb2.Host(name="node-7", environment="prod", namespace="shop", zone="eu-1a", service="billing")
PLAIN = np.zeros(8, np.uint8)


def test_a_process_names_its_workload():
    assert identity_labels(Owner(HOST, "nginx")) == (
        ("availability_zone", "eu-1a"),
        ("environment", "prod"),
        ("namespace.name", "shop"),
        ("process.name", "nginx"),
        ("resolution_type", "PROCESS"),
        ("workload.name", "nginx"),
    )


def test_without_a_process_the_hosts_service_names_it():
    labels = dict(identity_labels(Owner(HOST, "")))
    assert labels["workload.name"] == "billing"
    assert "process.name" not in labels
    assert labels["availability_zone"] == "eu-1a"


def test_a_host_without_labels_leaves_them_out():
    assert identity_labels(Owner(intake_pb2.Host(), "")) == (
        ("resolution_type", "PROCESS"),
        ("workload.name", "(unknown)"),
    )


def test_an_end_without_a_collector():
    assert dict(identity_labels(None)) == {
        "workload.name": "(unknown)",
        "availability_zone": "(unknown)",
        "environment": "(no agent)",
        "resolution_type": "IP",
    }


def test_nodes_have_host_and_address():
    owner = Owner(HOST, "nginx")
    labels = node_labels(identity_labels(owner), owner, packed("10.1.2.3"))
    assert labels == tuple(sorted((*identity_labels(owner), ("id", "node-7"), ("ip", "10.1.2.3"))))
    unknown = dict(node_labels(identity_labels(None), None, packed("fd00::9")))
    assert (unknown["id"], unknown["ip"]) == ("fd00::9", "fd00::9")


@pytest.mark.parametrize("address", ["10.0.0.1", "255.255.255.255", "fd00::1", "::1", "::"])
def test_addresses_as_text(address):
    assert address_text(packed(address)) == address


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
    ends = names.identities(np.append(of, np.uint32(0)), PLAIN[:5], owners.view())
    assert ends[0] == ends[2]
    assert len({*ends.tolist()}) == 4
    nodes = names.nodes(of, PLAIN[:4], words("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1"), owners.view(), seed=1)
    assert len({*nodes.tolist()}) == 4
    again = names.nodes(
        of[::-1], PLAIN[:4], words("10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"), owners.view(), seed=1
    )
    assert again.tolist() == nodes[::-1].tolist()
    assert dict(names.ends.labels[nodes[2]])["ip"] == "10.0.0.2"


def test_too_many_nodes_keep_their_identity():
    owners, of = known_owners()
    names = Names(most_ends=4)
    view = owners.view()
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
