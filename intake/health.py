"""What a collector that is no kernel's serves of itself: metrics for Prometheus, and whether it is well."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from daemon.http import HttpServer, health_page
from intake.clock import NANOSECOND_S
from intake.statistics import PROCESS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from ebpf_net.v1 import intake_pb2
    from prometheus_client import Metric

    from daemon.http import Check, Page
    from intake.statistics import Statistic

OPTION = "--internal-prom"
_FAMILIES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


def internal_prometheus_option(default: str) -> Callable[[Callable[..., Any]], Any]:
    """Return the option that says where `serving` does so."""
    return click.option(
        OPTION,
        default=default,
        show_default=True,
        metavar="ADDR:PORT",
        help="Where /healthz and /metrics of the collector itself are served; empty: nowhere.",
    )


@contextlib.asynccontextmanager
async def serving(address: str, served: Mapping[str, Page]) -> AsyncIterator[None]:
    """Serve pages at `address:port`; nothing where that is empty.

    Raises:
        StartupError: the address is none, or cannot be listened on.

    """
    if not address:
        yield
        return
    server = HttpServer(OPTION, address, served)
    await server.start()
    try:
        yield
    finally:
        await server.stop()


def pages(
    told: Sequence[Statistic], statistics: Callable[[], intake_pb2.CollectorStatistics], check: Check
) -> dict[str, Page]:
    """Return what is served, by path: of *statistics* those that are *told*, and what *check* finds."""
    registry = CollectorRegistry()
    registry.register(_Statistics(told, statistics))

    async def metrics(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return {"/metrics": metrics, "/healthz": health_page(check)}


class _Statistics(Collector):
    def __init__(self, told: Sequence[Statistic], statistics: Callable[[], intake_pb2.CollectorStatistics]) -> None:
        self._told = told
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        record = self._statistics()
        for statistic in (*PROCESS, *self._told):
            value: float = getattr(record, statistic.field)
            name = f"ebpf_net_collector_{statistic.field}"
            if statistic.unit == "s":
                name, value = name.replace("_ns", "_seconds"), value * NANOSECOND_S
            yield _FAMILIES[statistic.kind](name, statistic.description, value)
