"""Gives the ends of flows their labels: an identity (what runs, and where) and a node in it (host and address).

`RULES` is the order of precedence: the first rule that knows an end names it. The work is done once for each owner and
for each address of it; the ends of flows are only looked up.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.flows import other
from reducer.match import Special
from reducer.owners import UNKNOWN_OWNER
from reducer.series import EndTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ebpf_net.v1 import intake_pb2

    from reducer.owners import Owner, OwnersView
    from reducer.series import Labels

UNKNOWN = "(unknown)"
NO_COLLECTOR = "(no agent)"
DNS = "DNS"
INSTANCE_METADATA = "instance metadata"
KUBELET = "kubelet"
# The reference's word for a job or group that a task of Nomad does not name.
UNKNOWN_IN_NOMAD = "<unknown>"
# The container that only holds a pod's namespaces.
PAUSE_CONTAINER = "POD"
# An end with its labels takes about 800 bytes. Beyond this the nodes of a window are not told apart.
MOST_ENDS = 1 << 18
_V4_PREFIX = bytes(10) + b"\xff\xff"
_UNSET = np.iinfo(np.uint32).max


def by_pod(owner: Owner) -> dict[str, str] | None:
    """Name a container of Kubernetes by what Docker tells of it; of other containers of pods the path tells no name."""
    cgroup = owner.cgroup
    if cgroup is None or cgroup.kubernetes_container in ("", PAUSE_CONTAINER):
        return None
    return _container(cgroup, cgroup.kubernetes_container, image_version(cgroup.image), cgroup.kubernetes_namespace)


def by_nomad_task(owner: Owner) -> dict[str, str] | None:
    """Name a task of Nomad."""
    cgroup = owner.cgroup
    if cgroup is None or not cgroup.nomad_task:
        return None
    task = ".".join((cgroup.nomad_job or UNKNOWN_IN_NOMAD, cgroup.nomad_group or UNKNOWN_IN_NOMAD, cgroup.nomad_task))
    labels = _container(cgroup, task, image_version(cgroup.image), cgroup.nomad_namespace)
    return labels | {"resolution_type": "NOMAD"}


def by_ecs_task(owner: Owner) -> dict[str, str] | None:
    """Name a container of Amazon ECS by its task's family."""
    cgroup = owner.cgroup
    if cgroup is None or not cgroup.ecs_task_family:
        return None
    return _container(cgroup, cgroup.ecs_task_family, cgroup.ecs_task_version)


def by_container(owner: Owner) -> dict[str, str] | None:
    """Name a container as Docker does."""
    cgroup = owner.cgroup
    if cgroup is None or not cgroup.container_name:
        return None
    return _container(cgroup, cgroup.container_name, image_version(cgroup.image))


def by_service(owner: Owner) -> dict[str, str] | None:
    """Name an end by its service: systemd's before that of a supervisor without cgroups."""
    service = (owner.cgroup.service if owner.cgroup else "") or owner.service
    return {"workload.name": service, "resolution_type": "PROCESS"} if service else None


def by_process(owner: Owner) -> dict[str, str] | None:
    """Name an end by its process."""
    return {"workload.name": owner.process, "resolution_type": "PROCESS"} if owner.process else None


def by_host(owner: Owner) -> dict[str, str]:
    """Name an end that a collector sees, but whose process it does not know, as its operator labelled the host."""
    return {"workload.name": owner.host.service or UNKNOWN, "resolution_type": "PROCESS"}


RULES: tuple[Callable[[Owner], dict[str, str] | None], ...] = (
    by_nomad_task,
    by_ecs_task,
    by_pod,
    by_container,
    by_service,
    by_process,
    by_host,
)


def identity_labels(owner: Owner | None, special: Special = Special.NONE) -> Labels:
    """Return the labels of an identity; *owner* is the other end's where this one is `Special.INSTANCE_METADATA`."""
    if special is Special.INSTANCE_METADATA:
        zone = UNKNOWN if owner is None else owner.host.zone
        labels = {"workload.name": INSTANCE_METADATA, "resolution_type": "INSTANCE_METADATA"}
        labels |= {"availability_zone": zone, "environment": NO_COLLECTOR}
    elif owner is None:
        labels = {"workload.name": UNKNOWN, "resolution_type": "IP"}
        labels |= {"availability_zone": UNKNOWN, "environment": NO_COLLECTOR}
    else:
        labels = _owner_labels(owner)
    if special is Special.DNS:
        labels["workload.name"] = DNS
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def node_labels(identity: Labels, owner: Owner | None, address: bytes, *, with_ip: bool = True) -> Labels:
    """Return the labels of a node: those of its identity, and host, address (if asked for) and pod."""
    ip = address_text(address)
    labels = {"id": ip if owner is None else owner.host.name, "ip": ip if with_ip else ""}
    labels["pod"] = owner.cgroup.kubernetes_pod if owner and owner.cgroup else ""
    return tuple(sorted((*identity, *(label for label in labels.items() if label[1]))))


def image_version(image: str) -> str:
    """Return the version in the name of an image, REGISTRY/NAME:VERSION or @DIGEST; empty where it has none."""
    name = image.rpartition("/")[2]
    if name.startswith("sha256:"):
        return name
    separator = "@" if "@" in name else ":"
    return name.partition(separator)[2]


def _owner_labels(owner: Owner) -> dict[str, str]:
    host = owner.host
    labels = {"availability_zone": host.zone, "environment": host.environment, "namespace.name": host.namespace}
    labels["process.name"] = owner.process
    labels |= next(found for rule in RULES if (found := rule(owner)) is not None)
    if owner.process == KUBELET:
        labels["workload.name"] = KUBELET
    return labels


def _container(cgroup: intake_pb2.Cgroup, workload: str, version: str, namespace: str = "") -> dict[str, str]:
    """Return the labels of a container; its namespace comes before that of the host."""
    namespace = namespace or cgroup.namespace
    return {
        "workload.name": workload,
        "resolution_type": "CONTAINER",
        "image_version": version,
        "container.name": cgroup.kubernetes_container or cgroup.ecs_container or cgroup.container_name,
        **({"namespace.name": namespace} if namespace else {}),
    }


def address_text(address: bytes) -> str:
    """Return 16 bytes of an address as text, IPv4 dotted."""
    if address.startswith(_V4_PREFIX):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


class Names:
    """Finds the indexes in an `EndTable` of owners and addresses.

    Attributes:
        ends: the table.
        ends_rolled_up: nodes that were given their identity's labels alone, since there were too many.

    """

    def __init__(self, most_ends: int = MOST_ENDS, *, node_ip: bool = True) -> None:
        self.ends = EndTable()
        self._node_ip = node_ip
        self.ends_rolled_up = 0
        self._most_ends = most_ends
        self._generation = 0
        # By owner * len(Special) + special: the end, and the revision of the owner that it was named by.
        self._identity = np.empty(0, np.uint32)
        self._revision = np.empty(0, np.uint32)
        self._node_hash = np.empty(0, np.uint64)  # sorted
        self._node = np.empty(0, np.uint32)

    def begin_window(self, owners: OwnersView) -> None:
        """Make room, and forget what numbers of owners meant if they were given again."""
        full = len(self.ends.labels) >= self._most_ends
        if full:
            self.ends.clear()
        if full or owners.generation != self._generation:
            self._identity = self._revision = np.empty(0, np.uint32)
            self._node_hash, self._node = np.empty(0, np.uint64), np.empty(0, np.uint32)
            self._generation = owners.generation

    def identities(self, owner: np.ndarray, special: np.ndarray, owners: OwnersView) -> np.ndarray:
        """Return the end, uint32, of the identity of each end of flows.

        Args:
            owner: uint32, two elements a flow.
            special: uint8, `Special`.
            owners: what the owners mean.

        """
        return self._identities(_naming(owner, special), special, owners)

    def _identities(self, owner: np.ndarray, special: np.ndarray, owners: OwnersView) -> np.ndarray:
        lacking = len(owners.owners) * len(Special) - len(self._identity)
        if lacking > 0:
            self._identity = np.concatenate((self._identity, np.full(lacking, _UNSET, np.uint32)))
            self._revision = np.concatenate((self._revision, np.zeros(lacking, np.uint32)))
        place = owner * np.int64(len(Special)) + special
        unnamed = (self._identity[place] == _UNSET) | (self._revision[place] != owners.revision[owner])
        for number in np.unique(place[unnamed]).tolist():
            of, special_end = divmod(number, len(Special))
            self._identity[number] = self.ends.intern(identity_labels(owners.owners[of], Special(special_end)))
            self._revision[number] = owners.revision[of]
        named: np.ndarray = self._identity[place]
        return named

    def nodes(
        self, owner: np.ndarray, special: np.ndarray, address: np.ndarray, owners: OwnersView, seed: int
    ) -> np.ndarray:
        """Return the end, uint32, of the node of each end of flows, with their addresses, (n, 2) uint64."""
        owner = _naming(owner, special)
        identity = self._identities(owner, special, owners)
        columns = {"identity": identity, "owner": owner, "0": address[:, 0], "1": address[:, 1]}
        hashes = pl.DataFrame(columns).hash_rows(seed=seed).to_numpy()
        order = np.argsort(hashes)
        ordered = hashes[order]
        first = np.ones(len(order), bool)
        first[1:] = ordered[1:] != ordered[:-1]
        different, rows = ordered[first], order[first]
        at = np.searchsorted(self._node_hash, different)
        new = np.ones(len(different), bool)
        if len(self._node_hash):
            new = self._node_hash[np.minimum(at, len(self._node_hash) - 1)] != different
        node = np.empty(len(different), np.uint32)
        node[~new] = self._node[at[~new]]
        node[new] = self._new_nodes(owner[rows[new]], identity[rows[new]], address[rows[new]], owners)
        self._node_hash = np.insert(self._node_hash, at[new], different[new])
        self._node = np.insert(self._node, at[new], node[new])
        named = np.empty(len(order), np.uint32)
        named[order] = node[np.cumsum(first) - 1]
        return named

    def _new_nodes(
        self, owner: np.ndarray, identity: np.ndarray, address: np.ndarray, owners: OwnersView
    ) -> np.ndarray:
        text = np.ascontiguousarray(address).tobytes()
        nodes = []
        for index, (number, within) in enumerate(zip(owner.tolist(), identity.tolist(), strict=True)):
            if len(self.ends.labels) >= self._most_ends:
                self.ends_rolled_up += 1
                nodes.append(within)
                continue
            of_node = text[16 * index : 16 * index + 16]
            labels = node_labels(self.ends.labels[within], owners.owners[number], of_node, with_ip=self._node_ip)
            nodes.append(self.ends.intern(labels))
        return np.array(nodes, np.uint32)


def _naming(owner: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Return the owners that name ends: the instance metadata service is told apart by who asks it."""
    asked = (special == Special.INSTANCE_METADATA) & (owner == UNKNOWN_OWNER)
    return np.where(asked, other(owner), owner) if asked.any() else owner
