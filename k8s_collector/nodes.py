"""A node as the API server tells it, as the wire wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from k8s_collector.fields import packed

if TYPE_CHECKING:
    from k8s_collector.fields import Object

_ZONE = "topology.kubernetes.io/zone"
_REGION = "topology.kubernetes.io/region"
_ADDRESSES = ("InternalIP", "ExternalIP")


def node_message(node: Object) -> intake_pb2.KubernetesNode:
    """Return the message about a node of the API."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    labels = metadata.get("labels") or {}
    return intake_pb2.KubernetesNode(
        uid=metadata["uid"],
        name=metadata["name"],
        addresses=packed(each["address"] for each in status.get("addresses") or () if each.get("type") in _ADDRESSES),
        zone=labels.get(_ZONE) or "",
        region=labels.get(_REGION) or "",
        provider_id=spec.get("providerID") or "",
    )
