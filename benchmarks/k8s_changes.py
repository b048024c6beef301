"""What the collector of Kubernetes uses while pods change, against a server that only tells: so the rate is exact.

It answers over TLS with objects of the size that those of a real server have, and tells of each change at its time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from benchmarks.conditions import conditions, usage
from benchmarks.k8s_collector import PODS_A_WORKLOAD, template
from intake.session import DEFAULT_POLL_INTERVAL_NS
from tests.entity_sink import EntitySink
from tests.lab.k8s_collector import start_collector
from tests.lab.programs import Programs
from tests.lab.waiting import wait_until

Object = dict[str, Any]
BEGIN = "2026-01-01T00:00:00Z"
SETTLED_S = 5.0


class Server:
    """A cluster that is always the same but for its pods' label `change`, in a thread of its own.

    Attributes:
        port: it listens on.
        rate: changes of pods a second.
        label: which label they are; another one than that which is told alters nothing that is told.
        told: how many were told.

    """

    def __init__(self, pods: int, nodes: int, certificate: ssl.SSLContext) -> None:
        self.port = 0
        self.rate = 0.0
        self.label = "change"
        self.told = 0
        self._collections = {
            "/apis/apps/v1/replicasets": [_replica_set(i) for i in range(-(-pods // PODS_A_WORKLOAD))],
            "/apis/batch/v1/jobs": [],
            "/api/v1/nodes": [_node(i) for i in range(nodes)],
            "/api/v1/services": [],
            "/apis/discovery.k8s.io/v1/endpointslices": [],
            "/api/v1/pods": [_pod(i, i % nodes) for i in range(pods)],
        }
        self._listed = {path: list(map(_json, objects)) for path, objects in self._collections.items()}
        self._certificate = certificate
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True).start()
        assert self._listening.wait(20)

    async def _serve(self) -> None:
        application = web.Application()
        application.add_routes([web.get(path, self._answer) for path in self._collections])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._certificate).start()
        self.port = runner.addresses[0][1]
        self._listening.set()
        await asyncio.Event().wait()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request)
        objects = self._listed[request.path]
        start, count = int(request.query.get("continue", 0)), int(request.query["limit"])
        metadata = {"resourceVersion": "1"} | ({"continue": f"{start + count}"} if start + count < len(objects) else {})
        body = b'{"metadata":%b,"items":[%b]}' % (_json(metadata), b",".join(objects[start : start + count]))
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "1"}}}
        with contextlib.suppress(ConnectionResetError):
            await response.write(_json(bookmark) + b"\n")
            if request.path == "/api/v1/pods":
                await self._tell_changes(response)
            await asyncio.Event().wait()
        return response

    async def _tell_changes(self, response: web.StreamResponse) -> None:
        pods, due = self._collections["/api/v1/pods"], time.monotonic()
        while True:
            due = max(due + 1 / self.rate, time.monotonic() - 1) if self.rate else time.monotonic() + 0.1
            await asyncio.sleep(max(due - time.monotonic(), 0))
            if self.rate:
                self.told += 1
                pod = pods[self.told % len(pods)]
                pod["metadata"]["labels"][self.label] = pod["metadata"]["resourceVersion"] = f"{self.told}"
                await response.write(_json({"type": "MODIFIED", "object": pod}) + b"\n")


def _json(value: Object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _replica_set(number: int) -> Object:
    above = {"apiVersion": "example/v1", "kind": "Rollout", "name": f"web-{number}", "uid": f"rollout-{number}"}
    owners = [above | {"controller": True}]
    return {"metadata": {"name": f"web-{number}-1", "uid": f"replicas-{number}", "ownerReferences": owners}}


def _node(number: int) -> Object:
    labels = {"topology.kubernetes.io/zone": "eu-1a", "topology.kubernetes.io/region": "eu-1"}
    status = {"addresses": [{"type": "InternalIP", "address": f"192.0.2.{number % 256}"}]}
    return {"metadata": {"name": f"node-{number}", "uid": f"node-{number}", "labels": labels}, "status": status}


def _pod(number: int, node: int) -> Object:
    workload = number // PODS_A_WORKLOAD
    labels = {"app": f"web-{workload}", "change": ""}
    value = template(labels, f"node-{node}")
    above = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"web-{workload}-1", "uid": f"replicas-{workload}"}
    conditions_ = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": BEGIN}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    state = {"running": {"startedAt": BEGIN}}
    value["status"] = {
        "phase": "Running",
        "conditions": conditions_,
        "podIPs": [{"ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}],
        "startTime": BEGIN,
        "containerStatuses": [
            {
                "name": name,
                "ready": True,
                "restartCount": 0,
                "containerID": f"containerd://{number:064x}",
                "state": state,
            }
            for name in ("main", "sidecar")
        ],
    }
    managed = [{"manager": "kubelet", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": _fields_of(value)}]
    value["metadata"] |= {
        "name": f"web-{workload}-1-{number}",
        "namespace": "default",
        "uid": f"00000000-0000-0000-0000-{number:012}",
        "creationTimestamp": BEGIN,
        "ownerReferences": [above | {"controller": True}],
        "managedFields": managed,
    }
    return value


def _fields_of(value: Any) -> Object:
    """Return what metadata.managedFields says of the fields of an object, near enough to have its size."""
    if isinstance(value, dict):
        return {f"f:{key}": _fields_of(field) for key, field in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {f'k:{{"name":"{each.get("name")}"}}': {".": {}} | _fields_of(each) for each in value}
    return {}


def make_certificate(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a certificate of 127.0.0.1 for a server, and the file with it for its clients."""
    certificate, key = directory / "server.crt", directory / "server.key"
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{key}", "-out", f"{certificate}")
    names = ("-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run([*made, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def write_kubeconfig(path: Path, port: int, certificate: Path) -> Path:
    """Have *path* be a kubeconfig for a server on a port."""
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(certificate)}
    content = {
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": {"token": "token"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--rate", type=float, default=50, help="changes of pods a second")
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    arguments = parser.parse_args()
    print(f"# What the collector of Kubernetes uses\n{conditions()}; {arguments.pods} pods on {arguments.nodes} nodes")
    with tempfile.TemporaryDirectory() as directory:
        context, certificate = make_certificate(Path(directory))
        server = Server(arguments.pods, arguments.nodes, context)
        kubeconfig = write_kubeconfig(Path(directory) / "kubeconfig", server.port, certificate)
        sink, programs = EntitySink(DEFAULT_POLL_INTERVAL_NS), Programs(Path(directory))
        try:
            measure(programs, sink, server, kubeconfig, arguments)
        finally:
            programs.close()
            sink.close()


def measure(
    programs: Programs, sink: EntitySink, server: Server, kubeconfig: Path, arguments: argparse.Namespace
) -> None:
    """Print what a collector uses."""
    begin = time.monotonic()
    collector = start_collector(programs, sink, kubeconfig, "--pod-label", "change")
    wait_until(lambda: len(sink.view.pods) >= arguments.pods, 300, "all pods")
    used = usage(collector.pid)
    print(f"{'synchronised, from its start on, in':50} {time.monotonic() - begin:6.1f} s, {used.cpu_s:.1f} s of CPU")
    print(f"{'resident memory':50} {used.resident_mib:6.0f} MiB, at most {used.peak_mib:.0f}", flush=True)
    rate = arguments.rate
    phases = (
        ("nothing changes", 0.0, ""),
        (f"{rate:g} changes/s", rate, "change"),
        (f"{rate:g} changes/s of what is not told", rate, "other"),
    )
    for title, server.rate, server.label in phases:
        time.sleep(SETTLED_S)
        begin, before = time.monotonic(), usage(collector.pid)
        changes, batches, told = sink.changes, sink.batches, server.told
        time.sleep(arguments.seconds)
        elapsed_s, after = time.monotonic() - begin, usage(collector.pid)
        print(
            f"{title:50} {100 * (after.cpu_s - before.cpu_s) / elapsed_s:6.2f}% of a core; a second: "
            f"{(server.told - told) / elapsed_s:.1f} changes, {(sink.changes - changes) / elapsed_s:.1f} told in "
            f"{(sink.batches - batches) / elapsed_s:.1f} batches; RSS {after.resident_mib:.0f} MiB, "
            f"at most {after.peak_mib:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
