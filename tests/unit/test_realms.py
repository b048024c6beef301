import ipaddress

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2
from hypothesis import given
from hypothesis import strategies as st

from reducer.knowledge.realms import as_others_see, is_private, public_pairs
from tests.flow_rows import CLIENT, acceptor_row, connector_row
from tests.named_flows import (
    CLOUD,
    CLUSTER,
    POD,
    PUBLIC,
    SERVER_SESSION,
    Case,
    interface,
    only,
    pod,
    sent,
)
from tests.rows import packed, tcp_rows


def words(*addresses):
    return np.frombuffer(b"".join(map(packed, addresses)), np.uint64).reshape(-1, 2)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *((address, True) for address in ("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.9.9")),
        *((address, True) for address in ("100.64.0.1", "100.127.0.1", "169.254.169.254", "127.0.0.1", "::1", "::")),
        *((address, True) for address in ("fd00::1", "fc00::1", "fe80::1", "febf::1")),
        *((address, False) for address in ("9.255.255.255", "11.0.0.1", "172.15.0.1", "172.32.0.1", "192.169.0.1")),
        *((address, False) for address in ("100.63.0.1", "100.128.0.1", "8.8.8.8", "2001:db8::1", "fec0::1")),
    ],
)
def test_private_addresses(address, private):
    assert is_private(words(address)).tolist() == [private]


@given(st.ip_addresses(v=4))
def test_private_addresses_are_those_of_the_standard(address):
    expected = address.is_private or address in ipaddress.ip_network("100.64.0.0/10")
    reserved = ("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24")
    if not any(address in ipaddress.ip_network(network) for network in (*reserved, "240.0.0.0/4")):
        assert is_private(words(str(address))).tolist() == [expected]


def test_a_machine_is_seen_by_its_public_address_where_its_peer_is_public():
    pairs = [{"private": packed("10.0.0.5"), "public": packed("54.1.1.1")}]
    host = intake_pb2.Host(cloud={"addresses": pairs})
    rows = tcp_rows(
        {"local_address": "10.0.0.5", "remote_address": "8.8.8.8"},
        {"local_address": "10.0.0.5", "remote_address": "10.0.0.6"},
        {"local_address": "10.0.0.6", "remote_address": "8.8.8.8"},
    )
    seen = as_others_see(rows["local_address"], rows["remote_address"], public_pairs(host))
    assert [bytes(each) for each in seen] == [packed(each) for each in ("54.1.1.1", "10.0.0.5", "10.0.0.6")]
    assert bytes(rows["local_address"][0]) == packed("10.0.0.5")
    assert public_pairs(intake_pb2.Host()).shape == (0, 4)


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


def test_a_pod_of_another_cluster_with_the_address_of_a_host():
    case = Case()
    case.tell(environment="elsewhere", pods=[pod("web", CLIENT)])
    case.dials(PUBLIC)
    (source,) = (dict(labels) for labels in case.feed.seal().ends.labels if ("ip", CLIENT) in labels)
    assert source["workload.name"] == "wget"


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
