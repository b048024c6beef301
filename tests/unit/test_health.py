from __future__ import annotations

import asyncio
import urllib.request

from ebpf_net.v1 import intake_pb2

from daemon.http import HttpServer
from intake.health import pages
from intake.statistics import KUBERNETES


def test_metrics_have_all_statistics():
    statistics = intake_pb2.CollectorStatistics(cpu_time_ns=1_500_000_000, kubernetes_pods=7, kubernetes_lists=3)

    async def serve(check):
        server = HttpServer("--internal-prom", "127.0.0.1:0", pages(KUBERNETES, lambda: statistics, check))
        port = await server.start()

        def get(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.read().decode()

        try:
            return await asyncio.to_thread(get, "/metrics"), await asyncio.to_thread(get, "/healthz")
        finally:
            await server.stop()

    metrics, health = asyncio.run(serve(lambda: None))
    lines = metrics.splitlines()
    assert "ebpf_net_collector_kubernetes_pods 7.0" in lines
    assert "ebpf_net_collector_kubernetes_lists_total 3.0" in lines
    assert "ebpf_net_collector_cpu_time_seconds_total 1.5" in lines
    assert all(f"# HELP ebpf_net_collector_{each.field}" in metrics for each in KUBERNETES)
    assert health == "ok\n"
