from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
import urllib.request

import pytest
from ebpf_net.v1 import intake_pb2

from daemon.http import HttpServer
from daemon.logs import PROVOKED
from intake.health import pages, serving
from intake.statistics import KUBERNETES
from tests.ports import free_ports


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


def test_pages_are_served_until_the_end_and_only_where_an_address_is_given():
    (port,) = free_ports(1)
    served = pages(KUBERNETES, intake_pb2.CollectorStatistics, lambda: "not well")

    def status():
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/healthz")
            return connection.getresponse().status

    async def main():
        async with serving("", served):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(status)
        async with serving(f"127.0.0.1:{port}", served):
            assert await asyncio.to_thread(status) == 503
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(status)

    asyncio.run(main())


def test_what_is_no_request_writes_no_log(caplog):
    no_requests = [
        b"\x16\x03\x01 of TLS\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    ]

    def ask(port):
        for text in no_requests:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(text)
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(100)

    async def main():
        server = HttpServer(
            "--internal-prom", "127.0.0.1:0", pages(KUBERNETES, intake_pb2.CollectorStatistics, lambda: None)
        )
        await asyncio.to_thread(ask, await server.start())
        await server.stop()

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
    assert "daemon.http" in PROVOKED


def test_the_end_does_not_wait_for_who_does_not_read():
    async def main():
        request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        served = pages(KUBERNETES, intake_pb2.CollectorStatistics, lambda: None)
        server = HttpServer("--internal-prom", "127.0.0.1:0", served)
        _, writer = await asyncio.open_connection("127.0.0.1", await server.start())
        writer.transport.pause_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    writer.write(request * 100)
                    await writer.drain()
        async with asyncio.timeout(20):
            await server.stop()
        writer.transport.abort()

    asyncio.run(main())
