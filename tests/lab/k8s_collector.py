"""The collector of Kubernetes under test: the workloads that it sees, and what it ought to tell of them."""

from __future__ import annotations

import ipaddress
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.lab.daemons import script
from tests.lab.waiting import wait_until
from tests.packages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from ebpf_net.v1 import intake_pb2

    from tests.entity_sink import EntitySink
    from tests.lab.kubernetes import ControlPlane, Object
    from tests.lab.programs import Program, Programs

MANIFEST = ROOT / "deploy" / "kubernetes" / "k8s-collector.yaml"
NAMESPACE_MANIFEST = MANIFEST.with_name("00-namespace.yaml")
NAMESPACE = "ebpf-net"
USER = f"system:serviceaccount:{NAMESPACE}:k8s-collector"
NODES = ("node-1", "node-2")
# Kinds whose objects the tests look up; the collector may look at two of them.
OWNERS = ("ReplicaSet", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


class Told(NamedTuple):
    """What matters of a pod."""

    name: str
    namespace: str
    node: str
    phase: str
    owner_kind: str
    owner_name: str
    addresses: tuple[str, ...]
    containers: tuple[tuple[str, str], ...]


def start_collector(
    programs: Programs, sink: EntitySink, kubeconfig: Path, *options: str, name: str = "k8s-collector"
) -> Program:
    """Start a collector that tells *sink*."""
    return programs.start(
        name,
        *(script("k8s-collector"), "--log-console", "--no-log-file", "--debug", "--internal-prom", "127.0.0.1:0"),
        *("--kubeconfig", str(kubeconfig), "--intake-port", f"{sink.port}", "--intake-host", "127.0.0.1", *options),
        env={"K8S_COLLECTOR_DELETE_TTL_SECS": "2"},
    )


def once(kubeconfig: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `k8s-collector --once`."""
    command = (script("k8s-collector"), "--once", "--no-log-file", "--kubeconfig", str(kubeconfig), *options)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def expected_pods(control_plane: ControlPlane, namespace: str = "") -> dict[str, Told]:
    """Return what the server itself has of the pods that live, with their owners looked up one by one."""
    above = {value["metadata"]["uid"]: value for kind in OWNERS for value in control_plane.list(kind)}
    return {
        pod["metadata"]["uid"]: _expected(pod, above)
        for pod in control_plane.list("Pod", namespace)
        if pod["status"].get("phase") not in ("Succeeded", "Failed")
    }


def told_pods(pods: dict[str, intake_pb2.Pod], namespace: str = "") -> dict[str, Told]:
    """Return what the collector told of the pods that live."""
    return {
        uid: Told(
            *(pod.name, pod.namespace, pod.node, pod.phase, pod.owner_kind, pod.owner_name),
            tuple(str(ipaddress.IPv6Address(each).ipv4_mapped) for each in pod.addresses),
            tuple((each.name, each.image) for each in pod.containers),
        )
        for uid, pod in pods.items()
        if pod.phase not in ("Succeeded", "Failed")
        and not pod.end_time_unix_ns
        and (not namespace or pod.namespace == namespace)
    }


def wait_until_equal(sink: EntitySink, control_plane: ControlPlane, timeout_s: float = 60, namespace: str = "") -> None:
    """Wait until the collector has told what the server has, and the reducer names the addresses by it."""

    def equal() -> bool:
        expected = expected_pods(control_plane, namespace)
        return told_pods(sink.view.pods, namespace) == expected and wrongly_named(sink, expected, namespace) == []

    try:
        wait_until(equal, timeout_s, "the collector to tell what the server has")
    except AssertionError:
        expected = expected_pods(control_plane, namespace)
        assert told_pods(sink.view.pods, namespace) == expected
        assert wrongly_named(sink, expected, namespace) == []


def wrongly_named(sink: EntitySink, pods: dict[str, Told], namespace: str = "") -> list[str]:
    """Return what the reducer says otherwise of the addresses of *pods*; without a namespace nobody else has any."""
    having = [(address, pod) for pod in pods.values() for address in pod.addresses]
    found, held = sink.pods_now([ipaddress.IPv6Address(f"::ffff:{address}").packed for address, _ in having])
    wrong = [
        f"{address} is of {named}, not {pod}"
        for (address, pod), named in zip(having, found, strict=True)
        if named is None
        or (named.name, named.namespace, named.node, named.owner) != (pod.name, pod.namespace, pod.node, pod.owner_name)
    ]
    if not namespace and held != len(having):
        wrong.append(f"{held} addresses are of pods, not {len(having)}")
    return wrong


def wait_until_running(control_plane: ControlPlane, namespace: str, count: int, timeout_s: float = 60) -> None:
    """Wait until so many pods are in a namespace, and each has an address."""

    def running() -> bool:
        pods = control_plane.list("Pod", namespace)
        return len(pods) == count and all(each["status"].get("podIP") for each in pods)

    wait_until(running, timeout_s, f"{count} pods to run in {namespace}")


def wait_until_quiet(control_plane: ControlPlane) -> None:
    """Wait until the namespaces of other tests are gone: controllers are slow to ask a server again that was away."""
    wait_until(control_plane.is_quiet, 180, "the namespaces of other tests to be gone")


def workload(kind: str, name: str, replicas: int = 2, **spec: Any) -> Object:
    """Return a workload whose pods kwok runs."""
    labels = {"app": name}
    pods = {
        "metadata": {"labels": labels},
        "spec": {
            "nodeName": NODES[0],
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": f"registry/{name}:1"}],
        },
    }
    of_kind: dict[str, Object] = {
        "Deployment": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pods},
        "ReplicaSet": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pods},
        "StatefulSet": {
            "replicas": replicas,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": pods,
        },
        "DaemonSet": {"selector": {"matchLabels": labels}, "template": _without_node(pods)},
        "Job": {"parallelism": replicas, "completions": replicas, "template": _never(pods)},
        "CronJob": {
            "schedule": "0 0 1 1 *",
            "jobTemplate": {"spec": {"template": _never(pods)}},
        },
    }
    group = "batch/v1" if kind in ("Job", "CronJob") else "apps/v1"
    return {"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": of_kind[kind] | spec}


def bare_pod(name: str, **metadata: Any) -> Object:
    """Return a pod that nobody controls, unless *metadata* say so."""
    containers = [{"name": "main", "image": "registry/bare:1"}]
    spec = {"nodeName": NODES[1], "terminationGracePeriodSeconds": 1, "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


def service(name: str, **spec: Any) -> Object:
    """Return a service that selects nothing, unless *spec* says so."""
    ports = [{"name": "sql", "port": 80, "targetPort": 5432, "protocol": "TCP"}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports} | spec}


def endpoint_slice(name: str, service_name: str, *addresses: str) -> Object:
    """Return a slice as people make them by hand."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service_name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
    }


def _without_node(pods: Object) -> Object:
    return {**pods, "spec": {key: value for key, value in pods["spec"].items() if key != "nodeName"}}


def _never(pods: Object) -> Object:
    return {**pods, "spec": pods["spec"] | {"restartPolicy": "Never"}}


def _expected(pod: Object, above: dict[str, Object]) -> Told:
    owner, reference = pod, {"kind": "Pod", "name": pod["metadata"]["name"]}
    while references := [each for each in owner["metadata"].get("ownerReferences", ()) if each.get("controller")]:
        [reference] = references
        if reference["uid"] not in above:
            break
        owner = above[reference["uid"]]
    return Told(
        pod["metadata"]["name"],
        pod["metadata"]["namespace"],
        pod["spec"].get("nodeName", ""),
        pod["status"]["phase"],
        reference["kind"],
        reference["name"],
        tuple(each["ip"] for each in pod["status"].get("podIPs", ())),
        tuple((each["name"], each["image"]) for each in pod["spec"]["containers"]),
    )
