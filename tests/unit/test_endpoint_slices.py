from __future__ import annotations

import pytest

from intake.addresses import packed_all
from k8s_collector.endpoint_slices import endpoint_slice_message


def endpoint_slice(*endpoints, service="database", **fields):
    labels = {"kubernetes.io/service-name": service} if service else {}
    metadata = {"uid": "e1", "name": "database-x7k2p", "namespace": "shop", "labels": labels}
    ports = [{"port": 5432, "protocol": "TCP", "name": "sql"}]
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": list(endpoints), "ports": ports} | fields


def endpoint(address, kind=""):
    return {"addresses": [address]} | ({"targetRef": {"kind": kind, "name": "x"}} if kind else {})


def test_the_service_has_the_addresses_and_the_ports_of_the_slice():
    told = endpoint_slice_message(endpoint_slice(endpoint("192.0.2.7"), endpoint("192.0.2.8")))
    assert (told.uid, told.name, told.namespace) == ("e1", "database", "shop")
    assert list(told.addresses) == packed_all(["192.0.2.7", "192.0.2.8"])
    [port] = told.ports
    assert (port.port, port.protocol, port.name, port.node_port) == (5432, 6, "sql", 0)


def test_pods_and_nodes_are_left_out():
    ends = (endpoint("10.1.0.1", "Pod"), endpoint("10.0.0.1", "Node"), endpoint("192.0.2.7"), endpoint("fd00::7", "VM"))
    assert list(endpoint_slice_message(endpoint_slice(*ends)).addresses) == packed_all(["192.0.2.7", "fd00::7"])


@pytest.mark.parametrize(
    "value",
    [
        endpoint_slice(endpoint("10.1.0.1", "Pod")),
        endpoint_slice(endpoint("database.example.com"), addressType="FQDN"),
        endpoint_slice(endpoint("192.0.2.7"), service=""),
        endpoint_slice({"addresses": []}, {}),
        endpoint_slice(endpoints=None, ports=None),
    ],
)
def test_a_slice_of_nothing_else(value):
    assert endpoint_slice_message(value) is None


@pytest.mark.parametrize("ports", [None, [], [{"port": None, "name": None, "protocol": "TCP"}]])
def test_ports_may_be_all(ports):
    told = endpoint_slice_message(endpoint_slice(endpoint("192.0.2.7"), ports=ports))
    assert (len(told.addresses), list(told.ports)) == (1, [])


def test_other_addresses_of_an_endpoint_mean_nothing():
    told = endpoint_slice_message(endpoint_slice({"addresses": ["192.0.2.7", "192.0.2.8"]}))
    assert list(told.addresses) == packed_all(["192.0.2.7"])


def test_as_many_endpoints_as_the_server_takes_are_told():
    told = endpoint_slice_message(endpoint_slice(*(endpoint(f"192.0.{i >> 8}.{i & 255}") for i in range(1_001))))
    assert len(told.addresses) == 1_000


def test_more_ports_than_a_slice_has_are_left_out():
    ports = [{"port": number} for number in range(1, 200)]
    told = endpoint_slice_message(endpoint_slice(endpoint("192.0.2.7"), ports=ports))
    assert [port.port for port in told.ports] == list(range(1, 101))
