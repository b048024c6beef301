"""HTTP servers of daemons, and their health.

It needs aiohttp, which not every daemon has.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import time
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http import HttpProcessingError

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Check = Callable[[], str | None]

_LOGGER = logging.getLogger(__name__)
# What a client sends that is no request is answered, and is no error of ours: anybody could fill the log with it.
_NO_REQUESTS = (HttpProcessingError, web.RequestPayloadError)
_LOGGER.addFilter(lambda record: not isinstance((record.exc_info or (None, None))[1], _NO_REQUESTS))
_ADDRESS = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):([0-9]{1,5})")
MOST_PORT = 65_535
# Longer than the minute from one scrape to the next that is usual.
IDLE_S = 120.0
# For pages that are being read when the daemon ends; aiohttp waits for so long twice.
_GRACE_AT_END_S = 0.5


class HttpServer:
    """Serves *pages*, by path, at *address*, which *option* gave: `ADDR:PORT`, IPv6 in brackets; port 0: a free one.

    Raises:
        StartupError: *address* is none.

    """

    def __init__(self, option: str, address: str, pages: Mapping[str, Page]) -> None:
        self._option = option
        self._address = address
        self._host, self._port = parse_address(option, address)
        self._idle = _Idle()
        application = web.Application(middlewares=[self._idle.note])
        application.add_routes([web.get(path, page) for path, page in pages.items()])
        self._runner = web.AppRunner(application, access_log=None, logger=_LOGGER, shutdown_timeout=_GRACE_AT_END_S)
        self._sweeping: asyncio.Task[None] | None = None

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
            # What asyncio says of it repeats the address.
            # Errors of names have numbers of their own, below 0.
            said = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)
            reason = "it is in use" if in_use else said
            raise StartupError(
                f"cannot listen at {self._address}: {reason}; give {self._option} another ADDR:PORT"
            ) from error
        self._sweeping = asyncio.create_task(self._sweep())
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._sweeping:
            self._sweeping.cancel()
        await self._runner.cleanup()

    async def _sweep(self) -> None:
        while server := self._runner.server:
            await asyncio.sleep(IDLE_S / 8)
            self._idle.close({each.transport for each in server.connections if each.transport})


class _Idle:
    """Connections without a request, or that do not take the answer: they would use up the open files of the daemon."""

    def __init__(self) -> None:
        self._busy: set[asyncio.Transport] = set()
        self._since: dict[asyncio.Transport, float] = {}

    @web.middleware
    async def note(self, request: web.Request, handler: Page) -> web.StreamResponse:
        """Take the connection for busy while a page is made."""
        transport = request.transport
        if transport is None:  # who asked has left
            return web.Response()
        self._busy.add(transport)
        try:
            return await handler(request)
        finally:
            self._busy.discard(transport)
            self._since.pop(transport, None)

    def close(self, connections: set[asyncio.Transport]) -> None:
        """Close those of all *connections* that have been idle for long."""
        now = time.monotonic()
        self._since = {each: self._since.get(each, now) for each in connections - self._busy}
        for connection, since in self._since.items():
            if now - since >= IDLE_S:
                connection.abort()


def parse_address(option: str, address: str) -> tuple[str, int]:
    """Return host and port of `ADDR:PORT`; an empty host is every address.

    Raises:
        StartupError: it is something else; the message names *option*.

    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[3]) > MOST_PORT:
        raise StartupError(f"{option} {address!r} is not ADDR:PORT, such as 127.0.0.1:7010 or [::1]:7010")
    return match[1] or match[2] or "", int(match[3])


def health_page(check: Check) -> Page:
    """Return the page that answers 200 where *check* finds nothing wrong, else 503 and what is."""

    async def page(_request: web.Request) -> web.StreamResponse:
        wrong = check()
        return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

    return page
