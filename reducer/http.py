"""What the reducer serves by HTTP: the metrics of flows, and its own."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import TYPE_CHECKING

from aiohttp import web

from reducer.outputs.expositions import TEXT, negotiated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.http import Page
    from reducer.internal_export import InternalMetrics
    from reducer.outputs.prometheus import PrometheusSeries

# A scrape holds a copy of the sums of all series: as many at a time, and for so long.
MOST_SCRAPES = 4
SCRAPE_TIMEOUT_S = 60.0
# Labels repeat: the text becomes a fiftieth already by the least effort, and that is what a scrape waits for most.
COMPRESSION_LEVEL = 1
_GZIP = 31
COMPRESS_IN_THREAD_BYTES = 16_384


def flow_metrics_page(series: PrometheusSeries) -> Page:
    """Return the page that gives *series* to Prometheus: in the format that it prefers, gzipped if it takes that."""
    scrapes = asyncio.Semaphore(MOST_SCRAPES)

    async def page(request: web.Request) -> web.StreamResponse:
        async with scrapes, asyncio.timeout(SCRAPE_TIMEOUT_S):
            exposition = negotiated(request.headers.get("Accept", ""))
            headers = {"Content-Type": exposition.content_type, "Vary": "Accept, Accept-Encoding"}
            gzipped = "gzip" in request.headers.get("Accept-Encoding", "")
            if gzipped:
                headers["Content-Encoding"] = "gzip"
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            # To copy the sums takes long enough to be done elsewhere as well.
            parts = await asyncio.to_thread(series.render, exposition)
            parts = _compressed(parts) if gzipped else parts
            with contextlib.suppress(ConnectionResetError):  # who asked has left
                while part := await asyncio.to_thread(_next_part, parts):
                    await response.write(part)
                await response.write_eof()
            return response

    return page


def _compressed(parts: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(COMPRESSION_LEVEL, wbits=_GZIP)
    for part in parts:
        if compressed := compressor.compress(part):
            yield compressed
    yield compressor.flush()


def _next_part(parts: Iterator[bytes]) -> bytes:
    return next(parts, b"")


def internal_metrics_page(metrics: InternalMetrics) -> Page:
    """Return the page that gives the reducer's own metrics to Prometheus."""

    async def page(_request: web.Request) -> web.StreamResponse:
        body = await metrics.render()
        headers = {"Content-Type": TEXT.content_type}
        response = web.Response(body=body, headers=headers, zlib_executor_size=COMPRESS_IN_THREAD_BYTES)
        response.enable_compression()
        return response

    return page
