"""What the path of a cgroup says: container, pod, service, in the layouts of all runtimes, v1 and v2."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernel_collector.text import printable

LONGEST_NAME = 128

_UID = re.compile(
    r"(?:^|-)pod([0-9a-f]{8})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{4})[-_]?([0-9a-f]{12})(?:\.slice)?"
)
# containerd's cgroupfs driver under kubelet's systemd driver: SLICE:PREFIX:ID.
_COLONS = re.compile(r"([^:]+):([^:]+):([0-9a-f]{64})")
_CONTAINER = re.compile(r"(?:(?P<prefix>[a-z][a-z0-9-]{0,30})-)?(?P<id>[0-9a-f]{64})(?:\.scope)?")
_ECS_ON_FARGATE = re.compile(r"[0-9a-f]{32}-[0-9]{1,20}")
_NOMAD_TASK = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(.+)\.scope")
_RUNTIMES = {"cri-containerd": "containerd", "nerdctl": "containerd", "cri-o": "crio", "libpod-payload": "libpod"}
_MONITOR = "conmon"  # of crio and libpod: its cgroup has the container's id, but the container is not in it
_USER_MANAGER = re.compile(r"user@\d+\.service")


@dataclass(frozen=True)
class Place:
    """What a cgroup is to people; what the path does not tell is empty. The fields are those of the message Cgroup."""

    service: str = ""
    pod_uid: str = ""
    container_id: str = ""
    runtime: str = ""
    nomad_task: str = ""


NOWHERE = Place()


def place_of(path: str) -> Place:
    """Return what a path of a cgroup, from the root of its hierarchy, says; `NOWHERE` where that is nothing.

    The innermost counts: a container that a service started is not that service, a service in a container is both.
    """
    service = pod = container = runtime = task = ""
    above: list[str] = []
    for part in _parts(path):
        if found := _UID.search(part):
            pod, service, container, runtime, task = "-".join(found.groups()), "", "", "", ""
        elif contained := _container(part, above):
            (container, runtime, task), service = contained, ""
        elif part.endswith(".service") and not _USER_MANAGER.fullmatch(part):
            service = printable(part.removesuffix(".service"))[:LONGEST_NAME]
        above.append(part)
    return Place(service, pod, container, runtime, task)


def _parts(path: str) -> list[str]:
    parts: list[str] = []
    for part in path.split("/"):
        colons = _COLONS.fullmatch(part)
        parts += [colons[1], f"{colons[2]}-{colons[3]}.scope"] if colons else [part]
    return parts


def _container(part: str, above: list[str]) -> tuple[str, str, str] | None:
    """Return id, runtime and Nomad's task of the container whose own cgroup *part* is."""
    if found := _CONTAINER.fullmatch(part):
        prefix = found["prefix"] or ""
        return None if prefix.endswith(_MONITOR) else (found["id"], _runtime(prefix, above), "")
    if "ecs" in above and _ECS_ON_FARGATE.fullmatch(part):
        return part, "docker", ""
    if above[1:2] in (["nomad.slice"], ["nomad"]) and (found := _NOMAD_TASK.fullmatch(part)):
        return found[1], "nomad", printable(found[2])[:LONGEST_NAME]
    return None


def _runtime(prefix: str, above: list[str]) -> str:
    if prefix:
        return _RUNTIMES.get(prefix, prefix)
    if above[-1:] == ["docker"] or above[-2:-1] == ["ecs"]:
        return "docker"
    return "libpod" if above[-1:] == ["libpod_parent"] else ""
