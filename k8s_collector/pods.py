"""A pod as the API server tells it, as the wire wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from ebpf_net.v1 import intake_pb2

from intake.addresses import packed_all
from intake.clock import SECOND_NS
from k8s_collector.fields import MOST_ADDRESSES, AnyObject, First, Metadata, chosen, first, unix_ns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_InSpec = Literal["containers", "initContainers", "ephemeralContainers"]
_InStatus = Literal["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"]
# Fields of spec and status that hold containers, and PodContainer.kind.
_CONTAINERS: tuple[tuple[_InSpec, _InStatus, str], ...] = (
    ("containers", "containerStatuses", ""),
    ("initContainers", "initContainerStatuses", "init"),
    ("ephemeralContainers", "ephemeralContainerStatuses", "ephemeral"),
)
_ENDED = ("Succeeded", "Failed")
MOST_CONTAINERS = 256


class Container(TypedDict, total=False):
    """What a container is to be."""

    name: str
    image: str | None


class PodSpec(TypedDict, total=False):
    """What a pod is to be."""

    nodeName: str | None
    hostNetwork: bool | None
    containers: list[Container] | None
    initContainers: list[Container] | None
    ephemeralContainers: list[Container] | None


class Moments(TypedDict, total=False):
    """When a container was in a state."""

    startedAt: str | None
    finishedAt: str | None


class State(TypedDict, total=False):
    """Of a container; it is in one of them."""

    running: Moments | None
    terminated: Moments | None


class ContainerStatus(TypedDict, total=False):
    """What a container is."""

    name: str
    containerID: str | None
    restartCount: int | None
    state: State | None


class PodAddress(TypedDict, total=False):
    """One of a pod's."""

    ip: str | None


class Condition(TypedDict, total=False):
    """One of a pod's."""

    lastTransitionTime: str | None


class PodStatus(TypedDict, total=False):
    """What a pod is."""

    phase: str | None
    podIP: str | None
    podIPs: list[PodAddress] | None
    startTime: str | None
    conditions: list[Condition] | None
    containerStatuses: list[ContainerStatus] | None
    initContainerStatuses: list[ContainerStatus] | None
    ephemeralContainerStatuses: list[ContainerStatus] | None


class Pod(AnyObject, total=False):
    """A pod."""

    spec: PodSpec | None
    status: PodStatus | None


def pod_message(
    pod: Pod, labels: Collection[str], annotations: Collection[str], first: First = first
) -> intake_pb2.Pod:
    """Return the message about a pod, without its owner.

    Args:
        pod: of the API.
        labels: keys of the labels that are told.
        annotations: keys of the annotations that are told.
        first: takes as many of its parts as are told.

    """
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    addresses = [each.get("ip") for each in status.get("podIPs") or ()] or [status.get("podIP")]
    return intake_pb2.Pod(
        uid=metadata["uid"],
        name=metadata["name"],
        namespace=metadata["namespace"],
        node=spec.get("nodeName") or "",
        addresses=first(packed_all(addresses), MOST_ADDRESSES),
        host_network=bool(spec.get("hostNetwork")),
        start_time_unix_ns=_start_ns(metadata, status),
        end_time_unix_ns=_end_ns(metadata, status),
        phase=status.get("phase") or "",
        containers=first(_containers(spec, status), MOST_CONTAINERS),
        labels=chosen(metadata.get("labels"), labels),
        annotations=chosen(metadata.get("annotations"), annotations),
    )


def _containers(spec: PodSpec, status: PodStatus) -> Iterator[intake_pb2.PodContainer]:
    for in_spec, in_status, kind in _CONTAINERS:
        ids = {each["name"]: each.get("containerID") or "" for each in status.get(in_status) or ()}
        for container in spec.get(in_spec) or ():
            yield intake_pb2.PodContainer(
                id=ids.get(container["name"], "").rpartition("://")[2],
                name=container["name"],
                image=container.get("image") or "",
                kind=kind,
            )


def _statuses(status: PodStatus) -> Iterator[ContainerStatus]:
    """Yield those of containers of all kinds."""
    for _, name, _ in _CONTAINERS:
        yield from status.get(name) or ()


def _start_ns(metadata: Metadata, status: PodStatus) -> int:
    """Return since when the addresses are the pod's: never later than it sent something, nor much sooner.

    A pod has its addresses before its first container starts. When that was is not told any more once a container has
    started again: then it is when the kubelet took the pod on, which is sooner.
    """
    states = list(_statuses(status))
    if states and not any(each.get("restartCount") for each in states):
        now = [each.get("state") or {} for each in states]
        starts = [unix_ns((each.get("running") or each.get("terminated") or {}).get("startedAt")) for each in now]
        if known := [start for start in starts if start]:
            return min(known)
    return unix_ns(status.get("startTime") or metadata.get("creationTimestamp"))


def _may_run(status: PodStatus) -> bool:
    """Return whether a container of a pod that is being deleted runs, or may be about to.

    The end of one may be told without a time (ContainerStatusUnknown). Ephemeral ones do not start any more by then; of
    those that never did the kubelet goes on to tell as waiting.
    """
    for _, name, kind in _CONTAINERS:
        for each in status.get(name) or ():
            state = each.get("state") or {}
            is_over = state.get("running") is None if kind == "ephemeral" else state.get("terminated") is not None
            if not is_over:
                return True
    return False


def _end_ns(metadata: Metadata, status: PodStatus) -> int:
    """Return until when the addresses were those of a pod whose containers have ended for good; 0: they are still its.

    That is when its last container ended, which may be a sidecar (an init container that goes on); where none tells,
    when its conditions changed last.
    """
    ends = [
        unix_ns(((each.get("state") or {}).get("terminated") or {}).get("finishedAt")) for each in _statuses(status)
    ]
    deleted = bool(metadata.get("deletionTimestamp") and ends and not _may_run(status))
    if not deleted and status.get("phase") not in _ENDED:
        return 0
    changes = [unix_ns(each.get("lastTransitionTime")) for each in status.get("conditions") or ()]
    fallback = unix_ns(status.get("startTime") or metadata.get("creationTimestamp"))
    # The second that it ended in was cut down.
    return (max(ends, default=0) or max(changes, default=0) or fallback) + SECOND_NS
