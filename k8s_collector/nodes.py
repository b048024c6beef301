"""A node as the API server tells it, as the wire wants it."""

from __future__ import annotations

from typing import TypedDict

from ebpf_net.v1 import intake_pb2

from intake.addresses import packed_all
from k8s_collector.fields import MOST_ADDRESSES, AnyObject, First, first

_ZONE = "topology.kubernetes.io/zone"
_REGION = "topology.kubernetes.io/region"
_ADDRESSES = ("InternalIP", "ExternalIP")


class NodeSpec(TypedDict, total=False):
    """What a node is to be."""

    providerID: str | None


class NodeAddress(TypedDict, total=False):
    """Of a node."""

    type: str
    address: str


class NodeStatus(TypedDict, total=False):
    """What a node is."""

    addresses: list[NodeAddress] | None


class Node(AnyObject, total=False):
    """A node."""

    spec: NodeSpec | None
    status: NodeStatus | None


def node_message(node: Node, first: First = first) -> intake_pb2.KubernetesNode:
    """Return the message about a node of the API, with as many addresses as *first* takes."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    labels = metadata.get("labels") or {}
    addresses = [each["address"] for each in status.get("addresses") or () if each.get("type") in _ADDRESSES]
    return intake_pb2.KubernetesNode(
        uid=metadata["uid"],
        name=metadata["name"],
        addresses=first(packed_all(addresses), MOST_ADDRESSES),
        zone=labels.get(_ZONE) or "",
        region=labels.get(_REGION) or "",
        provider_id=spec.get("providerID") or "",
    )
