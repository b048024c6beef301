"""What Kubernetes, clouds and the DNS tell of addresses, and the labels of ends that belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

UNKNOWN = "(unknown)"
INTERNET = "(internet)"
NO_COLLECTOR = "(no agent)"
AUTONOMOUS_SYSTEM = "AS"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod; `kind` is empty, init or ephemeral."""

    id: str
    name: str
    image: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod.

    Attributes:
        environment: of the collector that told it.
        owner: the last of the chain of controllers, or the pod itself.
        owner_uid: of that.
        node: its name.
        zone: of its node; empty where not known.

    """

    environment: str
    namespace: str
    name: str
    owner: str
    owner_uid: str
    node: str
    containers: tuple[Container, ...] = ()
    zone: str = ""

    def labels(self, container_id: str = "") -> dict[str, str]:
        """Return the labels of the pod, and of the container if there is just one that it may be."""
        labels = {
            "workload.name": self.owner or self.name,
            "workload.uid": self.owner_uid,
            "namespace.name": self.namespace,
            "resolution_type": "K8S_CONTAINER",
        }
        container = self._container(container_id)
        if container is not None:
            labels["container.name"] = container.name
        version = image_version(container.image) if container is not None else ""
        labels["image_version"] = version or _images(self._running())
        return labels

    def _container(self, container_id: str) -> Container | None:
        if container_id:
            return next((each for each in self.containers if each.id == container_id), None)
        running = self._running()
        return running[0] if len(running) == 1 else None

    def _running(self) -> list[Container]:
        return [container for container in self.containers if not container.kind]


@dataclass(frozen=True, slots=True)
class Service:
    """A service of Kubernetes."""

    environment: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node of Kubernetes."""

    environment: str
    name: str
    uid: str
    zone: str


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of a cloud; `role` is what it serves; `public` are pairs of private and public addresses."""

    provider: str
    id: str
    role: str
    zone: str
    instance: str = ""
    network: str = ""
    public: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class DnsName:
    """A name that the DNS gave the address for."""

    name: str


Entity = Pod | Service | Node | Interface | DnsName


def entity_labels(entity: Entity) -> dict[str, str]:
    """Return the labels of the identity of an end where no collector is."""
    match entity:
        case Pod():
            labels = entity.labels()
            zone, environment = entity.zone, entity.environment
        case Service():
            labels = {"workload.name": entity.name, "workload.uid": entity.uid, "namespace.name": entity.namespace}
            labels["resolution_type"] = "K8S_SERVICE"
            zone, environment = "", entity.environment
        case Node():
            labels = {"workload.name": entity.name, "workload.uid": entity.uid, "resolution_type": "K8S_NODE"}
            zone, environment = entity.zone, entity.environment
        case Interface():
            labels = {"workload.name": entity.role, "resolution_type": entity.provider.upper()}
            zone, environment = entity.zone, ""
        case DnsName():
            labels = {"workload.name": entity.name, "resolution_type": "DNS"}
            zone, environment = "", ""
    return labels | {"availability_zone": zone or UNKNOWN, "environment": environment or NO_COLLECTOR}


def image_version(image: str) -> str:
    """Return the version in the name of an image, REGISTRY/NAME:VERSION or @DIGEST; empty where it has none."""
    name = image.rpartition("/")[2]
    if name.startswith("sha256:"):
        return name
    separator = "@" if "@" in name else ":"
    return name.partition(separator)[2]


def _images(containers: Iterable[Container]) -> str:
    """Return the version of a pod of several containers, as the reference writes it."""
    return ",".join(sorted({f"'{container.image}'" for container in containers if container.image}))
