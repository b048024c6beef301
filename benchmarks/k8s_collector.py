"""What the collector of Kubernetes uses with thousands of pods of a real control plane, idle and while they change."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.conditions import conditions, usage
from intake.session import DEFAULT_POLL_INTERVAL_NS
from tests.entity_sink import EntitySink
from tests.lab.k8s_collector import expected_pods, start_collector, told_pods, wrongly_named
from tests.lab.kubernetes import ControlPlane, Object
from tests.lab.programs import Programs
from tests.lab.waiting import wait_until

CREATORS = 16
PODS_A_WORKLOAD = 20
QUIET_S = 5.0
CHANGED_PODS = 1_000


def make_pods(control_plane: ControlPlane, nodes: int, pods: int) -> None:
    """Have ReplicaSets of a controller of its own kind make pods, and wait until these are there."""
    control_plane.add_nodes(f"node-{i}" for i in range(nodes))

    def make(workload: int) -> None:
        above = {"apiVersion": "example/v1", "kind": "Rollout", "name": f"web-{workload}", "uid": f"rollout-{workload}"}
        labels = {"app": f"web-{workload}"}
        metadata = {"name": f"web-{workload}-1", "ownerReferences": [above | {"controller": True}]}
        spec = {
            "replicas": min(PODS_A_WORKLOAD, pods - workload * PODS_A_WORKLOAD),
            "selector": {"matchLabels": labels},
            "template": template(labels, f"node-{workload % nodes}"),
        }
        control_plane.create({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec})

    with ThreadPoolExecutor(CREATORS) as creators:
        list(creators.map(make, range(-(-pods // PODS_A_WORKLOAD))))

    def made() -> int:
        listed = control_plane.request("GET", "/api/v1/pods?limit=1")["metadata"]
        return 1 + int(listed.get("remainingItemCount", 0))

    while (count := made()) < pods:
        print(f"{count} pods are made", file=sys.stderr)
        time.sleep(5)


def template(labels: dict[str, str], node: str) -> Object:
    """Return the template of pods with two containers and what they commonly have."""
    variables = [{"name": f"VARIABLE_{i}", "value": "x" * 40} for i in range(10)]
    containers = [
        {"name": name, "image": f"registry.example/{name}:1.2.3", "env": variables, "ports": [{"containerPort": 8080}]}
        for name in ("main", "sidecar")
    ]
    spec = {"containers": containers, "terminationGracePeriodSeconds": 1, "nodeName": node}
    return {"metadata": {"labels": labels}, "spec": spec}


def change_pods(control_plane: ControlPlane, pods: list[str], rate: int, seconds: float) -> None:
    """Change a label of *pods* at a rate, as far as the server keeps up with it."""
    changes, begin = 0, time.monotonic()
    with ThreadPoolExecutor(CREATORS) as changers:
        while (now := time.monotonic() - begin) < seconds:
            while changes < rate * now:
                change = {"metadata": {"labels": {"change": f"{changes}"}}}
                changers.submit(control_plane.patch, "Pod", pods[changes % len(pods)], change)
                changes += 1
            time.sleep(0.01)


def wait_until_quiet(sink: EntitySink) -> None:
    """Wait until nothing is told for a while."""
    told = -1
    while told != sink.changes:
        told = sink.changes
        time.sleep(QUIET_S)


def running(sink: EntitySink) -> int:
    """Return how many pods run, as the collector told."""
    return sum(pod.phase == "Running" for pod in list(sink.view.pods.values()))


def measure(programs: Programs, sink: EntitySink, control_plane: ControlPlane, arguments: argparse.Namespace) -> None:
    """Print what a collector takes to tell of the pods that are there, and what it uses then."""
    begin = time.monotonic()
    collector = start_collector(programs, sink, control_plane.admin, "--pod-label", "change")
    wait_until(lambda: len(sink.view.pods) >= arguments.pods, 300, "all pods")
    used = usage(collector.pid)
    print(f"{'synchronised, from its start on, in':40} {time.monotonic() - begin:6.1f} s, {used.cpu_s:.1f} s of CPU")
    print(f"{'resident memory':40} {used.resident_mib:6.0f} MiB, at most {used.peak_mib:.0f}", flush=True)
    deadline = time.monotonic() + arguments.patience
    while running(sink) < arguments.pods and time.monotonic() < deadline:
        time.sleep(QUIET_S)
    control_plane.controllers.pause()  # else they write to all nodes and pods when the kubelets are silent
    control_plane.kwok.pause()  # from here on nobody else changes anything
    wait_until_quiet(sink)
    print(f"{'of these pods run':40} {running(sink):6}", flush=True)
    expected, seen = expected_pods(control_plane), told_pods(sink.view.pods)
    otherwise = sum(seen.get(uid) != pod for uid, pod in expected.items()) + len(seen.keys() - expected.keys())
    print(f"{'told otherwise than the server lists':40} {otherwise:6}")
    print(f"{'of their addresses named otherwise':40} {len(wrongly_named(sink, expected)):6}", flush=True)
    pods = [pod.name for pod in sink.view.pods.values() if pod.phase == "Running"][:CHANGED_PODS]
    for title, rate in (("nothing changes", 0), (f"{arguments.rate} changes/s are asked for", arguments.rate)):
        begin, before, changes = time.monotonic(), usage(collector.pid), sink.changes
        change_pods(control_plane, pods, rate, arguments.seconds)
        elapsed_s, after = time.monotonic() - begin, usage(collector.pid)
        share, told = 100 * (after.cpu_s - before.cpu_s) / elapsed_s, sink.changes - changes
        print(
            f"{title:40} {share:6.2f}% of a core, {told / elapsed_s:.1f} changes told/s, "
            f"RSS {after.resident_mib:.0f} MiB, at most {after.peak_mib:.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--rate", type=int, default=50, help="changes of pods a second")
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement")
    parser.add_argument("--patience", type=float, default=600, help="seconds until all pods must run")
    arguments = parser.parse_args()
    print(f"# What the collector of Kubernetes uses\n{conditions()}; {arguments.pods} pods on {arguments.nodes} nodes")
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        sink = EntitySink(DEFAULT_POLL_INTERVAL_NS)
        stack.callback(sink.close)
        programs = Programs(Path(directory))
        stack.callback(programs.close)
        control_plane = ControlPlane(programs, Path(directory) / "kubernetes")
        begin = time.monotonic()
        make_pods(control_plane, arguments.nodes, arguments.pods)
        print(f"{'made in':40} {time.monotonic() - begin:6.1f} s", flush=True)
        measure(programs, sink, control_plane, arguments)


if __name__ == "__main__":
    main()
