"""What the collectors of Kubernetes and of clouds tell, as entities and the places that these claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reducer.knowledge.entities import Container, Entity, Interface, Node, Pod, Service
from reducer.knowledge.timeline import FOREVER, NOT_KNOWN, place_of, scope_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ebpf_net.v1 import intake_pb2

# Stands for the addresses of all nodes: a port there is a service's wherever one connects to it.
ANY_NODE = bytes(16)
# Each takes about 60 bytes.
MOST_CLAIMS_OF_ENTITY = 4_096
# What a part of an entity, such as a container, takes besides its texts.
_PART_BYTES = 128
_ENDED_PHASES = ("Succeeded", "Failed")

Key = tuple[str, str]
"""The kind of an entity, and what it is known by among these."""


class Claim(NamedTuple):
    """A place that an entity has: in which timeline, and within which scope."""

    timeline: str
    place: int
    scope: int


class Told(NamedTuple):
    """An entity of a message, about what memory it takes besides its claims, and how many of these were left out."""

    key: Key
    entity: Entity
    claims: list[Claim]
    size_bytes: int
    since_ns: int = NOT_KNOWN
    until_ns: int = FOREVER
    refused: int = 0


def told_entities(entities: intake_pb2.Entities, environment: str) -> Iterator[Told]:
    """Yield the entities of Kubernetes and clouds in a message; *environment* is that of the session."""
    scope = scope_of(environment)
    yield from (_told_node(node, environment, scope) for node in entities.nodes)
    yield from (_told_pod(pod, environment, scope) for pod in entities.pods)
    yield from (_told_service(service, environment, scope) for service in entities.services)
    yield from (_told_interface(interface) for interface in entities.cloud_interfaces)


def _told_pod(pod: intake_pb2.Pod, environment: str, scope: int) -> Told:
    containers = tuple(Container(each.id, each.name, each.image, each.kind) for each in pod.containers)
    entity = Pod(environment, pod.namespace, pod.name, pod.owner_name, pod.owner_uid, pod.node, containers)
    claims = [] if pod.host_network else [Claim("pods", place, scope) for place in _places(pod.addresses)]
    ended = pod.phase in _ENDED_PHASES
    until_ns = pod.end_time_unix_ns or (NOT_KNOWN if ended else FOREVER)
    size = pod.ByteSize() + _PART_BYTES * len(containers)
    return Told(("pod", pod.uid), entity, claims, size, pod.start_time_unix_ns, until_ns)


def _told_service(service: intake_pb2.KubernetesService, environment: str, scope: int) -> Told:
    entity = Service(environment, service.namespace, service.name, service.service_uid or service.uid)
    ports = [0, *(port_number(port.protocol, port.port) for port in service.ports)]
    node_ports = [port_number(port.protocol, port.node_port) for port in service.ports if port.node_port]
    # A short message may have millions of pairs: of the addresses, as many as fit with all ports.
    fitting = max(1, (MOST_CLAIMS_OF_ENTITY - len(node_ports)) // len(ports))
    addresses = service.addresses[:fitting]
    places = _places(addresses, ports) + _places([ANY_NODE], node_ports)
    claims = [Claim("services", place, scope) for place in places]
    refused = (len(service.addresses) - len(addresses)) * len(ports)
    return Told(("service", service.uid), entity, claims, service.ByteSize(), refused=refused)


def _told_node(node: intake_pb2.KubernetesNode, environment: str, scope: int) -> Told:
    entity = Node(environment, node.name, node.uid, node.zone)
    claims = [Claim("nodes", place, scope) for place in _places(node.addresses)]
    return Told(("node", node.uid), entity, claims, node.ByteSize())


def _told_interface(interface: intake_pb2.CloudInterface) -> Told:
    role = interface.role or interface.description.removeprefix("Interface for ") or interface.instance_id
    public = tuple((pair.private, pair.public) for pair in interface.public_addresses)
    entity = Interface(
        interface.provider,
        interface.id,
        role or interface.id,
        interface.zone or interface.region,
        interface.instance_id,
        interface.network,
        public,
    )
    scope = scope_of(interface.network)
    claims = [Claim("interfaces", place, scope) for place in _places(interface.addresses)]
    claims += [Claim("interfaces", place, 0) for place in _places([pair.public for pair in interface.public_addresses])]
    return Told(("interface", interface.id), entity, claims, interface.ByteSize() + _PART_BYTES * len(public))


def port_number(protocol: int, port: int) -> int:
    """Return the number of a port of TCP or UDP."""
    return protocol << 16 | port


def _places(addresses: Sequence[bytes], ports: Sequence[int] = (0,)) -> list[int]:
    """Return the places of all pairs of an address and a port."""
    if not addresses or not ports:
        return []
    words = np.frombuffer(b"".join(addresses), np.uint64).reshape(-1, 2)
    places: list[int] = place_of(
        np.repeat(words, len(ports), axis=0), np.tile(np.array(ports, np.uint64), len(words))
    ).tolist()
    return places
