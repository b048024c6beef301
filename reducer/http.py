"""What the reducer serves by HTTP: the metrics of flows, and its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from reducer.outputs.prometheus import CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.http import Page
    from reducer.internal_export import InternalMetrics
    from reducer.outputs.prometheus import PrometheusSeries

# A scrape holds a copy of the sums of all series: as many at a time, and for so long.
MOST_SCRAPES = 4
SCRAPE_TIMEOUT_S = 60.0
COMPRESS_IN_THREAD_BYTES = 16_384


def flow_metrics_page(series: PrometheusSeries) -> Page:
    """Return the page that gives *series* to Prometheus: gzipped, or in OpenMetrics, if it asks for that."""
    scrapes = asyncio.Semaphore(MOST_SCRAPES)

    async def page(request: web.Request) -> web.StreamResponse:
        async with scrapes, asyncio.timeout(SCRAPE_TIMEOUT_S):
            openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
            content_type = OPENMETRICS_CONTENT_TYPE if openmetrics else CONTENT_TYPE
            response = web.StreamResponse(headers={"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"})
            response.enable_compression()
            await response.prepare(request)
            parts = series.render(openmetrics=openmetrics)
            with contextlib.suppress(ConnectionResetError):  # who asked has left
                while part := await asyncio.to_thread(_next_part, parts):
                    await response.write(part)
                await response.write_eof()
            return response

    return page


def _next_part(parts: Iterator[bytes]) -> bytes:
    return next(parts, b"")


def internal_metrics_page(metrics: InternalMetrics) -> Page:
    """Return the page that gives the reducer's own metrics to Prometheus."""

    async def page(_request: web.Request) -> web.StreamResponse:
        body = await metrics.render()
        headers = {"Content-Type": CONTENT_TYPE}
        response = web.Response(body=body, headers=headers, zlib_executor_size=COMPRESS_IN_THREAD_BYTES)
        response.enable_compression()
        return response

    return page
