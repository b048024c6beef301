"""The collector of Kubernetes on a real control plane."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.entity_sink import EntitySink
from tests.lab.k8s_collector import (
    NODES,
    bare_pod,
    start_collector,
    told_pods,
    wait_until_equal,
    workload,
)
from tests.lab.kubernetes import ControlPlane
from tests.lab.programs import Programs
from tests.lab.waiting import wait_until
from tests.packages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


MANIFEST = ROOT / "deploy" / "kubernetes" / "k8s-collector.yaml"
NAMESPACE = "ebpf-net"


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    directory = tmp_path_factory.mktemp("kubernetes")
    programs = Programs(directory)
    try:
        started = ControlPlane(programs, directory)
        started.add_nodes(NODES)
        # What kubectl apply -f would do; there is no image, so the pods of the Deployment never are on a node.
        started.apply(yaml.safe_load_all(MANIFEST.read_text()))
        yield started
    finally:
        programs.close()


@pytest.fixture
def sink() -> Iterator[EntitySink]:
    listening = EntitySink()
    yield listening
    listening.close()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    yield started
    for program in started.started:
        print(f"--- {program}\n{program.tail()}")  # noqa: T201
    started.close()


@pytest.fixture
def account(control_plane: ControlPlane) -> Path:
    """A kubeconfig with the rights that the manifest gives, and no other."""
    return control_plane.kubeconfig("account", control_plane.token("k8s-collector", NAMESPACE))


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    name = re.sub("[^a-z]+", "-", request.node.name.lower())[-50:].strip("-")
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    control_plane.delete("Namespace", name)


def wait_until_running(control_plane: ControlPlane, namespace: str, count: int) -> None:
    def running() -> bool:
        pods = control_plane.list("Pod", namespace)
        return len(pods) == count and all(each["status"].get("podIP") for each in pods)

    wait_until(running, 60, f"{count} pods to run in {namespace}")


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
    wait_until(lambda: ("Rollout", "shop") in owners(sink, namespace), 60, "the pods of the last workload")
    wait_until_equal(sink, control_plane)
    assert owners(sink, namespace) | {("Job", "once"): 1, ("CronJob", "nightly"): 1} == {
        ("Deployment", "web"): 3,
        ("StatefulSet", "db"): 2,
        ("DaemonSet", "agent"): 2,
        ("Job", "once"): 1,
        ("CronJob", "nightly"): 1,
        ("Pod", "alone"): 1,
        ("Rollout", "shop"): 2,
        ("CloneSet", "clones"): 1,
    }
    assert collector.stop() == 0
    assert "Traceback" not in collector.output()
