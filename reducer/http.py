"""What the reducer serves by HTTP: the metrics of flows, and its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from isal import isal_zlib

from reducer.outputs.expositions import TEXT, negotiated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daemon.http import Page
    from reducer.internal_export import InternalMetrics
    from reducer.outputs.prometheus import PrometheusSeries

_LOGGER = logging.getLogger(__name__)
# A scrape holds a copy of the sums of all series: as many at a time, and for so long.
MOST_SCRAPES = 4
SCRAPE_TIMEOUT_S = 60.0
# Labels repeat: the text becomes a fiftieth already by little effort. Of zlib's levels the least takes seven times as
# long as this one of ISA-L, and longer than rendering.
COMPRESSION_LEVEL = 1
BLOCK_BYTES = 1 << 18
_GZIP = 31
COMPRESS_IN_THREAD_BYTES = 16_384
_NOT_ACCEPTABLE = re.compile(r"q\s*=\s*0(\.0*)?")


def flow_metrics_page(series: PrometheusSeries) -> Page:
    """Return the page that gives *series* to Prometheus: in the format that it prefers, gzipped if it takes that."""
    scrapes = asyncio.Semaphore(MOST_SCRAPES)

    async def page(request: web.Request) -> web.StreamResponse:
        exposition = negotiated(request.headers.get("Accept", ""))
        headers = {"Content-Type": exposition.content_type, "Vary": "Accept, Accept-Encoding"}
        gzipped = takes_gzip(request.headers.get("Accept-Encoding", ""))
        if gzipped:
            headers["Content-Encoding"] = "gzip"
        response = web.StreamResponse(headers=headers)
        if request.method == hdrs.METH_HEAD:
            return response  # aiohttp sends the headers, and would send a body that is written (RFC 9110, 9.3.2)
        async with scrapes:
            if request.transport is None:  # who asked has left while others were served
                return response
            with contextlib.suppress(ConnectionResetError):
                try:
                    async with asyncio.timeout(SCRAPE_TIMEOUT_S):
                        await response.prepare(request)
                        # To copy the sums takes long enough to be done elsewhere as well.
                        parts = await asyncio.to_thread(series.render, exposition)
                        blocks = in_blocks(compressed(parts) if gzipped else parts)
                        while block := await asyncio.to_thread(next, blocks, b""):
                            await response.write(block)
                        await response.write_eof()
                except TimeoutError:
                    _LOGGER.warning(
                        "%s has not taken the metrics within %g s: it is cut off", request.remote, SCRAPE_TIMEOUT_S
                    )
                    if request.transport is not None:
                        request.transport.abort()  # the end of the body would say that this was all
        return response

    return page


def compressed(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield *parts* gzipped."""
    compressor = isal_zlib.compressobj(COMPRESSION_LEVEL, wbits=_GZIP)
    yield from map(compressor.compress, parts)
    yield compressor.flush()


def in_blocks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield *parts* joined to blocks of `BLOCK_BYTES` and little more: each is a turn of a thread, and a write."""
    block, size = [], 0
    for part in parts:
        block.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            yield b"".join(block)
            block, size = [], 0
    if size:
        yield b"".join(block)


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header has gzip among what may be sent (RFC 9110, 12.5.3)."""
    for item in accept_encoding.split(","):
        coding, *parameters = (part.strip().lower() for part in item.split(";"))
        if coding == "gzip":
            return not any(_NOT_ACCEPTABLE.fullmatch(each) for each in parameters)
    return False


def internal_metrics_page(metrics: InternalMetrics) -> Page:
    """Return the page that gives the reducer's own metrics to Prometheus."""

    async def page(request: web.Request) -> web.StreamResponse:
        body = await metrics.render()
        headers = {"Content-Type": TEXT.content_type, "Vary": "Accept-Encoding"}
        response = web.Response(body=body, headers=headers, zlib_executor_size=COMPRESS_IN_THREAD_BYTES)
        if takes_gzip(request.headers.get("Accept-Encoding", "")):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    return page
