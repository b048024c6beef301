"""The labels of the ends of flows: an identity (what runs, and where) and a node in it (host and address).

Where a collector is, `RULES` is the order of precedence: the first rule that knows an end names it. Elsewhere what its
address belongs to does. What an end is by its port or address alone stands over both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake.addresses import address_text
from reducer.knowledge.entities import (
    AUTONOMOUS_SYSTEM,
    INTERNET,
    NO_COLLECTOR,
    UNKNOWN,
    DnsName,
    Interface,
    Node,
    Pod,
    entity_labels,
    image_version,
)
from reducer.matching.match import Special

if TYPE_CHECKING:
    from collections.abc import Callable

    from ebpf_net.v1 import intake_pb2

    from reducer.columns.series import Labels
    from reducer.naming.parties import Party

DNS = "DNS"
INSTANCE_METADATA = "instance metadata"
METADATA_TYPE = "INSTANCE_METADATA"
KUBELET = "kubelet"
# The reference's word for a job or group that a task of Nomad does not name.
UNKNOWN_IN_NOMAD = "<unknown>"
# The container that only holds a pod's namespaces.
PAUSE_CONTAINER = "POD"


def by_pod(party: Party) -> dict[str, str] | None:
    """Name a pod by what controls it; the container within it is the one that the cgroup tells."""
    if not isinstance(party.entity, Pod):
        return None
    cgroup = party.owner.cgroup if party.owner else None
    labels = party.entity.labels(cgroup.container_id if cgroup else "")
    if cgroup is not None:
        labels.setdefault("container.name", _container_name(cgroup))
    return labels


def by_kubernetes_container(party: Party) -> dict[str, str] | None:
    """Name a container of Kubernetes by what Docker tells of it, where nobody tells of its pod."""
    cgroup = party.owner.cgroup if party.owner else None
    if cgroup is None or cgroup.kubernetes_container in ("", PAUSE_CONTAINER):
        return None
    return _container(cgroup, cgroup.kubernetes_container, image_version(cgroup.image), cgroup.kubernetes_namespace)


def by_nomad_task(party: Party) -> dict[str, str] | None:
    """Name a task of Nomad."""
    cgroup = party.owner.cgroup if party.owner else None
    if cgroup is None or not cgroup.nomad_task:
        return None
    task = ".".join((cgroup.nomad_job or UNKNOWN_IN_NOMAD, cgroup.nomad_group or UNKNOWN_IN_NOMAD, cgroup.nomad_task))
    labels = _container(cgroup, task, image_version(cgroup.image), cgroup.nomad_namespace)
    return labels | {"resolution_type": "NOMAD"}


def by_ecs_task(party: Party) -> dict[str, str] | None:
    """Name a container of Amazon ECS by its task's family."""
    cgroup = party.owner.cgroup if party.owner else None
    if cgroup is None or not cgroup.ecs_task_family:
        return None
    return _container(cgroup, cgroup.ecs_task_family, cgroup.ecs_task_version)


def by_container(party: Party) -> dict[str, str] | None:
    """Name a container as Docker does."""
    cgroup = party.owner.cgroup if party.owner else None
    if cgroup is None or not cgroup.container_name:
        return None
    return _container(cgroup, cgroup.container_name, image_version(cgroup.image), cgroup.kubernetes_namespace)


def by_service(party: Party) -> dict[str, str] | None:
    """Name an end by its service: systemd's before that of a supervisor without cgroups."""
    owner = party.owner
    service = ((owner.cgroup.service if owner.cgroup else "") or owner.service) if owner else ""
    return {"workload.name": service, "resolution_type": "PROCESS"} if service else None


def by_process(party: Party) -> dict[str, str] | None:
    """Name an end by its process."""
    process = party.owner.process if party.owner else ""
    return {"workload.name": process, "resolution_type": "PROCESS"} if process else None


def by_host(party: Party) -> dict[str, str] | None:
    """Name an end that a collector sees, but whose process it does not know, as its operator labelled the host."""
    if party.owner is None:
        return None
    return {"workload.name": party.owner.host.service or UNKNOWN, "resolution_type": "PROCESS"}


RULES: tuple[Callable[[Party], dict[str, str] | None], ...] = (
    by_pod,
    by_nomad_task,
    by_ecs_task,
    by_kubernetes_container,
    by_container,
    by_service,
    by_process,
    by_host,
)


def identity_labels(party: Party, special: Special = Special.NONE) -> Labels:
    """Return the labels of an identity; *party* is the other end's where this one is `Special.INSTANCE_METADATA`."""
    if special is Special.INSTANCE_METADATA:
        zone, _ = _zone_and_environment(party) if party.owner else (UNKNOWN, "")
        labels = {"workload.name": INSTANCE_METADATA, "resolution_type": METADATA_TYPE}
        labels |= {"availability_zone": zone, "environment": NO_COLLECTOR}
    elif party.owner is not None:
        labels = _owner_labels(party)
    elif party.entity is not None:
        labels = entity_labels(party.entity)
        if isinstance(party.entity, DnsName) and party.organisation:
            labels["availability_zone"] = party.organisation
    else:
        labels = {"workload.name": INTERNET if party.organisation else UNKNOWN, "resolution_type": "IP"}
        labels |= {"availability_zone": party.organisation or UNKNOWN, "environment": NO_COLLECTOR}
    if special is Special.DNS and labels.get("process.name") != KUBELET:
        labels["workload.name"] = DNS
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def node_labels(
    identity: Labels, party: Party, address: bytes, *, with_ip: bool = True, with_system_ip: bool = False
) -> Labels:
    """Return the labels of a node: those of its identity, and host, address and pod.

    Args:
        identity: its labels.
        party: what is known of it.
        address: 16 bytes; the one that others see is told in its place, where there is one.
        with_ip: whether nodes have their addresses.
        with_system_ip: whether those of which only the autonomous system is known have theirs.

    """
    ip = address_text(_public(party, address))
    host, pod = ip, ""
    match party:
        case (None, None, organisation) if organisation and not with_system_ip:
            host = ip = AUTONOMOUS_SYSTEM
        case (None, Pod(node=node), _):
            host = node or ip
        case (None, Node(name=name), _):
            host = name
        case (None, Interface(id=interface), _):
            host = f"{interface}/{ip}"
        case (owner, _, _) if owner is not None:
            host, pod = owner.host.name, owner.cgroup.kubernetes_pod if owner.cgroup else ""
    if isinstance(party.entity, Pod):
        pod = party.entity.name
    if ("resolution_type", METADATA_TYPE) in identity:  # the party is who asks
        pod = ""
    labels = {"id": host, "ip": ip if with_ip else "", "pod": pod}
    return tuple(sorted((*identity, *(label for label in labels.items() if label[1]))))


def _public(party: Party, address: bytes) -> bytes:
    """Return the address that others see an end's as, so that it has one whoever it talks to."""
    if party.owner is not None:
        pairs = tuple((pair.private, pair.public) for pair in party.owner.host.cloud.addresses)
    elif isinstance(party.entity, Interface):
        pairs = party.entity.public
    else:
        return address
    return next((public for private, public in pairs if private == address), address)


def _owner_labels(party: Party) -> dict[str, str]:
    owner = party.owner
    assert owner is not None
    zone, environment = _zone_and_environment(party)
    labels = {"availability_zone": zone, "environment": environment, "namespace.name": owner.host.namespace}
    labels["process.name"] = owner.process
    labels |= next(found for rule in RULES if (found := rule(party)) is not None)
    if owner.process == KUBELET:
        labels["workload.name"] = KUBELET
    return labels


def _zone_and_environment(party: Party) -> tuple[str, str]:
    """Return what the host of a party's owner tells, else what is told of its pod, as where no collector is."""
    owner, pod = party.owner, party.entity
    assert owner is not None
    zone, environment = owner.host.zone, owner.host.environment
    if isinstance(pod, Pod):
        zone, environment = zone or pod.zone, environment or pod.environment
    return zone, environment


def _container(cgroup: intake_pb2.Cgroup, workload: str, version: str, namespace: str = "") -> dict[str, str]:
    """Return the labels of a container; its namespace comes before that of the host."""
    namespace = namespace or cgroup.namespace
    return {
        "workload.name": workload,
        "resolution_type": "CONTAINER",
        "image_version": version,
        "container.name": _container_name(cgroup),
        **({"namespace.name": namespace} if namespace else {}),
    }


def _container_name(cgroup: intake_pb2.Cgroup) -> str:
    return cgroup.kubernetes_container or cgroup.ecs_container or cgroup.container_name
