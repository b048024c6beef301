"""The kinds of objects that are watched, and nothing else: each costs a permission."""

from __future__ import annotations

from typing import NamedTuple


class Resource(NamedTuple):
    """A kind of object of the API.

    Attributes:
        group: of the API; empty: the core.
        version: of the group.
        plural: in paths, and in permissions.
        kind: in references.
        namespaced: whether its objects are in namespaces.
        metadata_only: whether the metadata of its objects tell all that is used.
        label_selector: of the objects that are used; empty: all.

    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    metadata_only: bool = False
    label_selector: str = ""

    def path(self, namespace: str = "") -> str:
        """Return the path of the collection, of all namespaces or of one."""
        api = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{api}{within}/{self.plural}"

    def __str__(self) -> str:
        """As RBAC and kubectl name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods", "Pod")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet", metadata_only=True)
JOBS = Resource("batch", "v1", "jobs", "Job", metadata_only=True)
SERVICES = Resource("", "v1", "services", "Service")
# Those that the server's controller makes of selectors hold pods, which tell their addresses themselves.
ENDPOINT_SLICES = Resource(
    "discovery.k8s.io",
    "v1",
    "endpointslices",
    "EndpointSlice",
    label_selector="endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io",
)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
# Pods need the owners: those come first.
WATCHED = (REPLICA_SETS, JOBS, NODES, SERVICES, ENDPOINT_SLICES, PODS)
OWNERS = (REPLICA_SETS, JOBS)
