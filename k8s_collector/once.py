"""What would be sent, as JSON for people and their tools."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from intake.clock import Instant, read_clocks
from intake.readable import print_readable
from k8s_collector.access import find_access
from k8s_collector.api import Api, ApiError
from k8s_collector.cluster import Cluster
from k8s_collector.collector import ClusterSink, emptiness, watches
from k8s_collector.pod_table import OWNER_WAIT_NS

if TYPE_CHECKING:
    from k8s_collector.options import Settings


async def print_once(settings: Settings) -> int:
    """List the cluster, print what the reducer would be told, and on standard error what is wrong.

    Returns:
        The exit status: 1 where something could not be listed.

    Raises:
        StartupError: there are no credentials.

    """
    cluster = Cluster(settings.choice)
    api = await Api.open(find_access(settings.kubeconfig, settings.context, os.environ))
    followed = list(watches(api, settings, ClusterSink(cluster, asyncio.Event())))
    failures: list[ApiError] = []
    try:
        for watch in followed:
            try:
                await watch.list()
            except ApiError as error:
                failures.append(error)
    finally:
        await api.close()
    for text in emptiness(followed):
        sys.stderr.write(f"warning: {text}\n")
    now = read_clocks()
    cluster.advance(Instant(now.unix_ns, now.monotonic_ns + OWNER_WAIT_NS))
    return print_readable(cluster.snapshot(), ("nodes", "services", "pods"), failures)
