"""The collector of Kubernetes on a real control plane."""

from __future__ import annotations

import ipaddress
import json
import re
import time
import urllib.request
from typing import TYPE_CHECKING

import yaml

from tests.lab.daemons import script
from tests.lab.k8s_collector import (
    MANIFEST,
    NODES,
    bare_pod,
    endpoint_slice,
    expected_pods,
    once,
    service,
    start_collector,
    told_pods,
    wait_until_equal,
    wait_until_quiet,
    wait_until_running,
    workload,
)
from tests.lab.kubernetes import COLLECTIONS
from tests.lab.waiting import wait_until
from tests.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.entity_sink import EntitySink
    from tests.lab.kubernetes import ControlPlane, Object
    from tests.lab.programs import Programs


def owners(sink: EntitySink, namespace: str) -> dict[tuple[str, str], int]:
    """How many pods each owner has."""
    found: dict[tuple[str, str], int] = {}
    for told in told_pods(sink.view.pods, namespace).values():
        owner = (told.owner_kind, told.owner_name)
        found[owner] = found.get(owner, 0) + 1
    return found


def test_workloads_of_all_kinds(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 3), namespace)
    collector = start_collector(programs, sink, account)
    wait_until(lambda: bool(sink.sessions), 60, "it to tell")  # of a pod of a job that has ended it tells for 2 s only
    control_plane.create(workload("StatefulSet", "db", 2), namespace)
    control_plane.create(workload("DaemonSet", "agent"), namespace)
    control_plane.create(workload("Job", "once", 1), namespace)
    control_plane.create(bare_pod("alone"), namespace)
    cron = control_plane.create(workload("CronJob", "nightly"), namespace)
    of_cron = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": cron["metadata"]["uid"]}
    job = workload("Job", "nightly-1", 1)
    job["metadata"]["ownerReferences"] = [of_cron | {"controller": True}]
    control_plane.create(job, namespace)
    # Controllers of kinds that the server does not even know.
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "name": "shop",
        "uid": "r-1",
        "controller": True,
    }
    replica_set = workload("ReplicaSet", "shop-1", 2)
    replica_set["metadata"]["ownerReferences"] = [rollout]
    clone_set = {"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "name": "clones", "uid": "c-1"}
    control_plane.create(bare_pod("clone", ownerReferences=[clone_set | {"controller": True}]), namespace)
    control_plane.create(replica_set, namespace)
    expected = {
        ("Deployment", "web"): 3,
        ("StatefulSet", "db"): 2,
        ("DaemonSet", "agent"): 2,
        ("Pod", "alone"): 1,
        ("Rollout", "shop"): 2,
        ("CloneSet", "clones"): 1,
    }
    of_jobs = {("Job", "once"): 1, ("CronJob", "nightly"): 1}
    seen: set[tuple[str, str]] = set()

    def all_were_told() -> bool:
        now = owners(sink, namespace)
        every = [pod for pod in sink.view.pods.values() if pod.namespace == namespace]
        seen.update((pod.owner_kind, pod.owner_name) for pod in every)
        return now | of_jobs == expected | of_jobs and of_jobs.keys() <= seen

    # The controllers take their time, each its own; a job's pod may have ended by then, or at once.
    wait_until(all_were_told, 60, "the pods of all workloads")
    assert seen == expected.keys() | of_jobs.keys()
    wait_until_equal(sink, control_plane)
    assert collector.stop() == 0
    assert "Traceback" not in collector.output()


def test_changes_of_workloads(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    start_collector(programs, sink, account)
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    wait_until_equal(sink, control_plane, namespace=namespace)
    first = set(told_pods(sink.view.pods, namespace))

    control_plane.patch("Deployment", "web", {"spec": {"replicas": 5}}, namespace)
    wait_until_running(control_plane, namespace, 5)
    wait_until_equal(sink, control_plane, namespace=namespace)
    control_plane.patch("Deployment", "web", {"spec": {"replicas": 1}}, namespace)
    wait_until_running(control_plane, namespace, 1)
    wait_until_equal(sink, control_plane, namespace=namespace)

    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "registry/web:2"}]}}}}
    control_plane.patch("Deployment", "web", image, namespace)
    wait_until(
        lambda: (
            {each.containers for each in expected_pods(control_plane, namespace).values()}
            == {(("main", "registry/web:2"),)}
        ),
        60,
        "the pods of the new release",
    )
    wait_until_equal(sink, control_plane, namespace=namespace)
    assert owners(sink, namespace) == {("Deployment", "web"): 1}

    control_plane.delete("Deployment", "web", namespace)
    wait_until(lambda: not told_pods(sink.view.pods, namespace), 60, "the pods to end with their owner")
    # Deleted pods are kept for flows that are told late, with the time of their end, and then retired.
    wait_until(lambda: not first & set(sink.view.pods), 60, "the pods to be retired")


def test_a_deleted_namespace_ends_all_in_it(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path
) -> None:
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaving"}})
    control_plane.create(workload("StatefulSet", "db", 2), "leaving")
    control_plane.create(service("db", selector={"app": "db"}), "leaving")
    start_collector(programs, sink, account)

    def services() -> dict[str, list[int]]:
        found = sink.view.entities["services"].values()
        return {each.name: [port.port for port in each.ports] for each in found if each.namespace == "leaving"}

    wait_until_running(control_plane, "leaving", 2)
    wait_until_equal(sink, control_plane, namespace="leaving")
    assert services() == {"db": [80]}
    control_plane.delete("Namespace", "leaving")
    wait_until(lambda: not told_pods(sink.view.pods, "leaving"), 60, "the pods to end with their namespace")
    wait_until(lambda: not services(), 60, "the service to be retired")


def test_ends_of_services_outside_of_the_cluster(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 2), namespace)
    control_plane.create(service("web", selector={"app": "web"}), namespace)
    control_plane.create(service("database"), namespace)
    control_plane.create(endpoint_slice("by-hand", "database", "203.0.113.7", "203.0.113.8"), namespace)
    control_plane.create(service("mirrored"), namespace)
    subsets = [{"addresses": [{"ip": "203.0.113.9"}], "ports": [{"name": "sql", "port": 5432}]}]
    mirrored = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "mirrored"}, "subsets": subsets}
    control_plane.create(mirrored, namespace)
    collector = start_collector(programs, sink, account)

    def told(of_namespace: str = namespace) -> dict[str, list[str]]:
        """Return by service the addresses at port 5432, which is that of the endpoints alone."""
        found: dict[str, list[str]] = {}
        for each in sink.view.entities["services"].values():
            if each.namespace == of_namespace and [port.port for port in each.ports] != [80]:
                found[each.name] = sorted(str(ipaddress.IPv6Address(one).ipv4_mapped) for one in each.addresses)
        return found

    def slices(name: str) -> list[Object]:
        every = control_plane.list("EndpointSlice", namespace)
        return [each for each in every if each["metadata"]["labels"]["kubernetes.io/service-name"] == name]

    both = {"database": ["203.0.113.7", "203.0.113.8"], "mirrored": ["203.0.113.9"]}
    wait_until(lambda: told() == both, 60, "the endpoints that are no pods")
    wait_until(lambda: any(each["endpoints"] for each in slices("web")), 60, "the endpoints that are pods")
    wait_until(lambda: "kubernetes" in told("default"), 60, "the API server")
    uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in control_plane.list("Service", namespace)}
    its = {each.name: each.service_uid for each in sink.view.entities["services"].values() if each.service_uid}
    assert {name: its[name] for name in both} == {name: uids[name] for name in both}
    fewer = {"endpoints": [{"addresses": ["203.0.113.10"]}]}
    control_plane.patch("EndpointSlice", "by-hand", fewer, namespace)
    wait_until(lambda: told() == both | {"database": ["203.0.113.10"]}, 60, "another address")
    control_plane.delete("EndpointSlice", "by-hand", namespace)
    wait_until(lambda: told() == {"mirrored": ["203.0.113.9"]}, 60, "the slice to end, and nothing else")
    control_plane.delete("Endpoints", "mirrored", namespace)
    wait_until(lambda: told() == {}, 60, "the mirror to end")
    assert slices("web")
    assert {each.name for each in sink.view.entities["services"].values()} >= {"web", "database", "mirrored"}
    assert collector.stop() == 0


def test_nodes(control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path) -> None:
    start_collector(programs, sink, account)

    def told() -> dict[str, tuple[str, str, int]]:
        nodes = sink.view.entities["nodes"].values()
        return {each.name: (each.zone, each.region, len(each.addresses)) for each in nodes}

    # kwok may give them their addresses after the collector has told of them.
    wait_until(lambda: told() == dict.fromkeys(NODES, ("eu-1a", "eu-1", 1)), 60, "the nodes, with what they have")


def test_only_what_was_chosen(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 1), namespace)
    control_plane.create(workload("Deployment", "other", 1), namespace)
    control_plane.create(bare_pod("elsewhere", labels={"app": "web"}), "default")
    options = ("--namespace", namespace, "--namespace", "absent", "--label-selector", "app=web", "--pod-label", "app")
    start_collector(programs, sink, account, *options)
    wait_until(lambda: len(told_pods(sink.view.pods)) == 1, 60, "the pod that was chosen")
    time.sleep(0.5)  # for what should not come
    [told] = sink.view.pods.values()
    assert (told.namespace, told.owner_name, dict(told.labels)) == (namespace, "web", {"app": "web"})
    control_plane.delete("Pod", "elsewhere")


def test_once_prints_what_would_be_sent(control_plane: ControlPlane, account: Path, namespace: str) -> None:
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    done = once(account, "--namespace", namespace)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert [(each["owner_kind"], each["owner_name"]) for each in printed["pods"]] == [("Deployment", "web")] * 2
    addresses = {each["status"]["podIP"] for each in control_plane.list("Pod", namespace)}
    assert {address for each in printed["pods"] for address in each["addresses"]} == addresses
    assert {each["name"] for each in printed["nodes"]} == set(NODES)


def test_the_server_takes_the_manifests_of_the_other_daemons(control_plane: ControlPlane) -> None:
    for name in ("kernel-collector", "reducer"):
        for each in yaml.safe_load_all(MANIFEST.with_name(f"{name}.yaml").read_text()):
            path = COLLECTIONS[each["kind"]].format(each["metadata"].get("namespace"))
            made = control_plane.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", each)
            assert made["metadata"]["name"] == name


def test_health_and_metrics(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    [port] = free_ports(1)
    start_collector(programs, sink, account, "--internal-prom", f"127.0.0.1:{port}")
    wait_until_equal(sink, control_plane)

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()

    assert page("/healthz") == "ok\n"
    # Pods of other tests may be retired meanwhile.
    told = re.compile(r"^ebpf_net_collector_kubernetes_pods ([0-9]+)\.0$", re.MULTILINE)
    wait_until(lambda: told.findall(page("/metrics")) == [f"{len(sink.view.pods)}"], 60, "the page to have the pods")
    wait_until(
        lambda: sink.statistics is not None and sink.statistics.kubernetes_pods == len(sink.view.pods), 60, "statistics"
    )


def test_the_reducer_takes_all_of_it(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    # The reducer counts what has ended too, for a while.
    wait_until_quiet(control_plane)
    intake, internal, prometheus = free_ports(3)
    programs.start(
        "reducer",
        *(script("reducer"), "--port", f"{intake}", "--internal-prom", f"127.0.0.1:{internal}", "--log-console"),
        *("--prom", f"127.0.0.1:{prometheus}", "--no-log-file", "--window", "1"),
    )
    collector = start_collector(programs, sink, account, "--intake-port", f"{intake}")

    def metric(name: str) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{internal}/metrics", timeout=5) as answer:
                found = re.search(rf"^ebpf_net_{name}(?:{{.*}})? ([0-9.e+]+)$", answer.read().decode(), re.MULTILINE)
        except OSError:
            return 0
        return float(found[1]) if found else 0

    def known() -> float:
        every = control_plane.list("EndpointSlice")
        others = [each for each in every if any("targetRef" not in end for end in each["endpoints"] or ())]
        return len(others) + sum(len(control_plane.list(kind)) for kind in ("Pod", "Service", "Node"))

    wait_until(lambda: 0 < metric("pipeline_entities") == known(), 60, "the reducer to know what the server has")
    assert collector.stop() == 0
