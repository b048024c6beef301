"""The ends of a service that are no pods, as an EndpointSlice tells them, as the wire wants them."""

from __future__ import annotations

from typing import TypedDict

from ebpf_net.v1 import intake_pb2

from intake.addresses import packed_all
from k8s_collector.fields import AnyObject, First, first
from k8s_collector.services import Port, port_messages

_SERVICE_NAME = "kubernetes.io/service-name"
# Both have their addresses from objects of their own.
_TOLD_OTHERWISE = ("Pod", "Node")
# The API server takes no more endpoints, and by its documentation no more ports.
MOST_ENDPOINTS = 1_000
MOST_PORTS = 100


class Target(TypedDict, total=False):
    """The object that an endpoint is."""

    kind: str | None


class Endpoint(TypedDict, total=False):
    """Of a service; all addresses but the first have no meaning (EndpointSlice of discovery.k8s.io/v1)."""

    addresses: list[str] | None
    targetRef: Target | None


class EndpointSlice(AnyObject, total=False):
    """Some of a service's endpoints, with the ports that all of these have."""

    endpoints: list[Endpoint] | None
    ports: list[Port] | None


def endpoint_slice_message(endpoint_slice: EndpointSlice, first: First = first) -> intake_pb2.KubernetesService | None:
    """Return what the reducer is to know of the endpoints that are no pods; None where there are none.

    The service is told once more, under the uid of the slice: with these addresses and ports, which are not its own, as
    many as *first* takes.
    """
    metadata = endpoint_slice["metadata"]
    name = (metadata.get("labels") or {}).get(_SERVICE_NAME)
    others = [
        (each.get("addresses") or [""])[0]
        for each in endpoint_slice.get("endpoints") or ()
        if (each.get("targetRef") or {}).get("kind") not in _TOLD_OTHERWISE
    ]
    addresses = first(packed_all(others), MOST_ENDPOINTS)  # names (FQDN) are none
    if not name or not addresses:
        return None
    return intake_pb2.KubernetesService(
        uid=metadata["uid"],
        name=name,
        namespace=metadata["namespace"],
        addresses=addresses,
        ports=port_messages(first(endpoint_slice.get("ports") or (), MOST_PORTS)),
    )
