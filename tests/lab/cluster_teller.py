"""Tells a reducer of a cluster as the collector of Kubernetes does; the API's objects come from a pipe, not a server.

Each line of the pipe is JSON: `[changed, deleted]`, pairs of a resource's plural and an object, or its uid.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from ebpf_net.v1 import intake_pb2

from intake.client import IntakeClient
from intake.clock import read_clocks
from k8s_collector.cluster import Choice, Cluster
from k8s_collector.resources import WATCHED
from tests.intake_ends import until

_RESOURCES = {resource.plural: resource for resource in WATCHED}


async def tell(host: str, port: int, pipe: Path) -> None:
    """Tell what each line changes, and say so, until the pipe ends."""
    cluster = Cluster(Choice())
    hello = intake_pb2.Hello(kind=intake_pb2.COLLECTOR_KIND_K8S, version="test", host=intake_pb2.Host(name="cluster"))
    client = IntakeClient(host, port, hello, cluster.snapshot)
    running: asyncio.Task[None] | None = None
    with pipe.open() as lines:
        while line := await asyncio.to_thread(lines.readline):
            now = read_clocks()
            changed, deleted = json.loads(line)
            for plural, value in changed:
                cluster.changed(_RESOURCES[plural], value, now)
            for plural, uid in deleted:
                cluster.deleted(_RESOURCES[plural], uid, now)
            messages = list(cluster.take_changes())
            if running is None:  # what was announced is in the snapshot
                running, messages = asyncio.create_task(client.run()), []
            for entities in messages:
                client.submit(now.unix_ns, entities, {})
            await until(lambda: client.session.all_sent)
            sys.stdout.write(f"told {len(changed) + len(deleted)}\n")
            sys.stdout.flush()
    await client.finish(10)


if __name__ == "__main__":
    asyncio.run(tell(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
