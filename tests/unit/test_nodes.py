from __future__ import annotations

from k8s_collector.fields import MOST_ADDRESSES
from k8s_collector.nodes import node_message
from tests.rows import packed


def test_what_is_told_of_a_node():
    value = {
        "metadata": {
            "uid": "n1",
            "name": "node-1",
            "labels": {"topology.kubernetes.io/zone": "eu-1a", "topology.kubernetes.io/region": "eu-1"},
        },
        "spec": {"providerID": "aws:///eu-1a/i-1"},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "Hostname", "address": "node-1"},
            ]
        },
    }
    told = node_message(value)
    assert (told.uid, told.name, told.zone, told.region) == ("n1", "node-1", "eu-1a", "eu-1")
    assert list(told.addresses) == [packed(each) for each in ("192.0.2.1", "fd00::1", "198.51.100.1")]
    assert told.provider_id == "aws:///eu-1a/i-1"


def test_addresses_of_a_node_are_bounded():
    addresses = [{"type": "InternalIP", "address": f"192.0.2.{last}"} for last in range(MOST_ADDRESSES + 1)]
    told = node_message({"metadata": {"uid": "n1", "name": "node-1"}, "status": {"addresses": addresses}})
    assert list(told.addresses) == [packed(each["address"]) for each in addresses[:-1]]
