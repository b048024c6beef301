"""The daemon: reads the clouds at intervals, and has what changes sent."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from cloud_collector.inventory import Inventory
from cloud_collector.providers import opened
from cloud_collector.reader import Reader
from daemon.events import set_within
from daemon.signals import stop_event
from daemon.usage import resident_bytes
from intake.health import pages, serving
from intake.metadata import finish, metadata_client
from intake.statistics import CLOUDS

if TYPE_CHECKING:
    from cloud_collector.options import Settings

_LOGGER = logging.getLogger(__name__)


async def collect(settings: Settings) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP; another SIGTERM or SIGINT ends it at once.

    Raises:
        StartupError: a provider's libraries are missing, or an address cannot be listened on.

    """
    stopping = stop_event()
    await CloudCollector(settings).run(stopping)


class CloudCollector:
    """The reader, the inventory and the client, put together."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inventory = Inventory()
        self._reader = Reader([opened(name, settings) for name in settings.providers], self._inventory)
        kind, snapshot = intake_pb2.COLLECTOR_KIND_CLOUD, self._inventory.snapshot
        self._client = metadata_client(kind, settings.hostname, settings.intake, snapshot)
        self._was_read = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Read and tell until *stopping*; the reducer is connected to when the first reading is whole."""
        served = pages(CLOUDS, self.statistics, self.what_is_wrong)
        async with serving(self._settings.internal_prometheus, served):
            await self._read_and_tell(stopping)

    def statistics(self) -> intake_pb2.CollectorStatistics:
        """Return what the collector says of itself."""
        reader = self._reader
        return intake_pb2.CollectorStatistics(
            cpu_time_ns=time.process_time_ns(),
            resident_bytes=resident_bytes(),
            cloud_interfaces=len(self._inventory),
            cloud_interfaces_untracked=self._inventory.untracked,
            cloud_reads=reader.reads,
            cloud_failures=reader.failed,
            cloud_scopes_failing=len(reader.failures),
            cloud_scopes_lacking=sum(map(bool, reader.lacking.values())),
        )

    def what_is_wrong(self) -> str | None:
        """Return what could not be read when it was last tried."""
        wrong = [f"{scope}: {error}" for scope, error in self._reader.failures.items()]
        if not wrong and not self._was_read:
            wrong.append("the clouds are not read yet")
        return "\n".join(wrong) or None

    async def _read_and_tell(self, stopping: asyncio.Event) -> None:
        """Read at intervals; what hangs in one reading keeps nothing else from being read and told in the next."""
        telling: asyncio.Task[None] | None = None
        ending = asyncio.create_task(stopping.wait())
        readings = {asyncio.create_task(self._read())}
        await asyncio.wait((*readings, ending), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.is_set():
            telling = asyncio.create_task(self._client.run())
            telling.add_done_callback(lambda _: stopping.set())
        while not await set_within(stopping, self._settings.poll_interval_s):
            for reading in [each for each in readings if each.done()]:
                readings.remove(reading)
                reading.result()
            readings.add(asyncio.create_task(self._read()))
        for reading in readings:
            reading.cancel()
        self._reader.close()
        await self._finish(telling)

    async def _read(self) -> None:
        await self._reader.read()
        self._tell()

    def _tell(self) -> None:
        """Have the reducer told what has changed; a connection that begins is told all anyway."""
        now_ns = time.time_ns()
        changes = list(self._inventory.take_changes())
        if not self._was_read:
            self._was_read = True
            _LOGGER.info("%d interfaces in %d scopes", len(self._inventory), self._reader.reads)
        if not self._client.session.welcomed:
            return
        for entities in changes:
            self._client.submit(now_ns, entities, {})
        self._client.submit(now_ns, intake_pb2.Entities(), {}, self.statistics())

    async def _finish(self, telling: asyncio.Task[None] | None) -> None:
        if telling is None:
            return
        if telling.done():
            telling.result()
        await finish(self._client)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
