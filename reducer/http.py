"""The HTTP servers: the metrics of flows, and the reducer's own metrics and health."""

from __future__ import annotations

import asyncio
import errno
import re
from typing import TYPE_CHECKING

from aiohttp import web

from daemon.errors import StartupError
from reducer.outputs.prometheus import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from reducer.internal_metrics import InternalMetrics
    from reducer.outputs.prometheus import PrometheusSeries

    Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Check = Callable[[], str | None]

# A scrape holds a copy of the sums of all series: as many at a time, and for so long.
MOST_SCRAPES = 4
SCRAPE_TIMEOUT_S = 60.0
COMPRESS_IN_THREAD_BYTES = 16_384
_ADDRESS = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):([0-9]{1,5})")
MOST_PORT = 65_535


class HttpServer:
    """Serves *pages*, by path, at *address*, which *option* gave: `ADDR:PORT`, IPv6 in brackets; port 0: a free one.

    Raises:
        StartupError: *address* is none.

    """

    def __init__(self, option: str, address: str, pages: Mapping[str, Page]) -> None:
        self._option = option
        self._address = address
        self._host, self._port = parse_address(option, address)
        application = web.Application()
        application.add_routes([web.get(path, page) for path, page in pages.items()])
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> int:
        """Listen; return the port.

        Raises:
            StartupError: the address cannot be listened on.

        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host or None, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            in_use = error.errno == errno.EADDRINUSE
            reason = "it is in use" if in_use else (error.strerror or str(error)).lower()
            raise StartupError(
                f"cannot listen at {self._address}: {reason}; give {self._option} another ADDR:PORT"
            ) from error
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Close the port and all connections."""
        await self._runner.cleanup()


def parse_address(option: str, address: str) -> tuple[str, int]:
    """Return host and port of `ADDR:PORT`; an empty host is every address.

    Raises:
        StartupError: it is something else; the message names *option*.

    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[3]) > MOST_PORT:
        raise StartupError(f"{option} {address!r} is not ADDR:PORT, such as 127.0.0.1:7010 or [::1]:7010")
    return match[1] or match[2] or "", int(match[3])


def flow_metrics_page(series: PrometheusSeries) -> Page:
    """Return the page that gives *series* to Prometheus, gzipped if it asks for that."""
    scrapes = asyncio.Semaphore(MOST_SCRAPES)

    async def page(request: web.Request) -> web.StreamResponse:
        async with scrapes, asyncio.timeout(SCRAPE_TIMEOUT_S):
            response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
            response.enable_compression()
            await response.prepare(request)
            parts = series.render()
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


def health_page(check: Check) -> Page:
    """Return the page that answers 200 where *check* finds nothing wrong, else 503 and what is."""

    async def page(_request: web.Request) -> web.StreamResponse:
        wrong = check()
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    return page
