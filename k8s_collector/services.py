"""A service as the API server tells it, as the wire wants it."""

from __future__ import annotations

from typing import TypedDict

from ebpf_net.v1 import intake_pb2

from intake.addresses import packed_all
from k8s_collector.fields import MOST_ADDRESSES, AnyObject, First, first

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
MOST_PORTS = 1_024


class Port(TypedDict, total=False):
    """Of a service, or of its endpoints: these may have none, which stands for all."""

    port: int | None
    protocol: str | None
    name: str | None
    nodePort: int | None


class ServiceSpec(TypedDict, total=False):
    """What a service is to be."""

    clusterIP: str | None
    clusterIPs: list[str] | None
    externalIPs: list[str] | None
    ports: list[Port] | None


class Ingress(TypedDict, total=False):
    """Where a load balancer takes connections."""

    ip: str | None


class LoadBalancer(TypedDict, total=False):
    """Of a service."""

    ingress: list[Ingress] | None


class ServiceStatus(TypedDict, total=False):
    """What a service is."""

    loadBalancer: LoadBalancer | None


class Service(AnyObject, total=False):
    """A service."""

    spec: ServiceSpec | None
    status: ServiceStatus | None


def service_message(service: Service, first: First = first) -> intake_pb2.KubernetesService:
    """Return the message about a service of the API, with as much of it as *first* takes."""
    metadata, spec, status = service["metadata"], service.get("spec") or {}, service.get("status") or {}
    of_balancers = [each.get("ip") for each in (status.get("loadBalancer") or {}).get("ingress") or ()]
    of_cluster = (*(spec.get("clusterIPs") or ()), spec.get("clusterIP"))  # older servers tell the second alone
    return intake_pb2.KubernetesService(
        uid=metadata["uid"],
        name=metadata["name"],
        namespace=metadata["namespace"],
        addresses=first(packed_all([*of_cluster, *(spec.get("externalIPs") or ()), *of_balancers]), MOST_ADDRESSES),
        ports=port_messages(first(spec.get("ports") or (), MOST_PORTS)),
    )


def port_messages(ports: list[Port]) -> list[intake_pb2.ServicePort]:
    """Return the messages about ports of the API that have a number."""
    return [
        intake_pb2.ServicePort(
            port=port["port"],
            protocol=_PROTOCOLS.get(port.get("protocol") or "TCP", 0),
            name=port.get("name") or "",
            node_port=port.get("nodePort") or 0,
        )
        for port in ports
        if port.get("port")
    ]
