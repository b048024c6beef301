from __future__ import annotations

from k8s_collector.fields import MOST_ADDRESSES
from k8s_collector.services import service_message
from tests.rows import packed


def test_all_addresses_and_ports():
    value = {
        "metadata": {"uid": "s1", "name": "web", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.7",
            "clusterIPs": ["10.96.0.7", "fd00:96::7"],
            "externalIPs": ["192.0.2.7"],
            "ports": [
                {"port": 80, "protocol": "TCP", "name": "http", "nodePort": 30080},
                {"port": 53, "protocol": "UDP"},
                {"port": 7, "protocol": "SCTP"},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"hostname": "lb.example"}]}},
    }
    told = service_message(value)
    assert (told.uid, told.name, told.namespace) == ("s1", "web", "shop")
    assert list(told.addresses) == [packed(each) for each in ("10.96.0.7", "fd00:96::7", "192.0.2.7", "198.51.100.7")]
    ports = [(each.port, each.protocol, each.name, each.node_port) for each in told.ports]
    assert ports == [(80, 6, "http", 30080), (53, 17, "", 0), (7, 132, "", 0)]


def test_a_headless_service_has_no_address():
    value = {"metadata": {"uid": "s1", "name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None"}}
    assert list(service_message(value).addresses) == []


def test_addresses_of_a_service_are_bounded():
    addresses = [f"192.0.2.{last}" for last in range(MOST_ADDRESSES + 1)]
    metadata = {"uid": "s1", "name": "web", "namespace": "shop"}
    told = service_message({"metadata": metadata, "spec": {"externalIPs": addresses}})
    assert list(told.addresses) == [packed(each) for each in addresses[:-1]]
