"""Both ends of the wire on loopback, for tests: a real server around a recording pipeline, and a network between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.client import IntakeClient
from intake.clock import SECOND_NS
from intake.columns import empty_columns
from intake.credentials import ServerCredentials
from reducer.server import IntakeServer
from reducer.sessions import ReducerSessions
from tests.ports import free_ports


class RecordingPipeline:
    def __init__(self):
        self.numbers = []
        self.rows = 0
        self.bytes = 0
        self.snapshots = 0
        self.hosts = []
        self.heard_ns = 0

    def hello(self, session, host, kind):
        self.hosts.append(host.name)

    def snapshot(self, session, entities, now_ns, *, partial):
        self.snapshots += 1

    def take(self, session, number, event_time_ns, batch, tables):
        self.numbers.append(number)
        for rows in tables.values():
            self.rows += len(rows["socket"])
            self.bytes += int(rows["bytes_sent"].sum())

    def heard(self, session, event_time_ns):
        self.heard_ns = event_time_ns

    def closed(self, session, now_ns):
        pass

    def forget(self, session):
        pass


class Reducer:
    """A server that can be stopped and started again on the same port, with or without its numbers."""

    def __init__(self, credentials=None, heartbeat_interval_ns=SECOND_NS // 5):
        self.pipeline = RecordingPipeline()
        self.overloaded = False
        [self.port] = free_ports(1)
        self._credentials = credentials or ServerCredentials()
        self._heartbeat_interval_ns = heartbeat_interval_ns

    async def start(self, safe=None):
        self.sessions = ReducerSessions(self.pipeline, 30 * SECOND_NS, SECOND_NS, self._heartbeat_interval_ns)
        self.sessions.restore(safe or {})
        self.server = IntakeServer(self.sessions, self._credentials, lambda: self.overloaded)
        self.port = await self.server.start(self.port)

    async def stop(self):
        await self.server.stop(0)


@asynccontextmanager
async def reducer(**options):
    instance = Reducer(**options)
    await instance.start()
    try:
        yield instance
    finally:
        await instance.stop()


@asynccontextmanager
async def collector(port, host="127.0.0.1", **options):
    hello = intake_pb2.Hello(kind=intake_pb2.COLLECTOR_KIND_KERNEL, version="test", host=intake_pb2.Host(name="node"))
    client = IntakeClient(host, port, hello, list, **options)
    running = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def rows(count=10, sent=1):
    columns = empty_columns(count)
    columns["socket"][:] = np.arange(1, count + 1)
    columns["bytes_sent"][:] = sent
    return columns


def submit(client, count=10):
    return client.submit(time.time_ns(), intake_pb2.Entities(), {"tcp": rows(count)})


async def until(condition, timeout_s=40.0):  # longer than the longest pause between two attempts to connect
    """Wait until *condition* holds; fail if it does not in time."""
    async with asyncio.timeout(timeout_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


class Network:
    """Forwards connections to a port until it is told to swallow all silently, as a firewall does."""

    def __init__(self, port):
        self._target = port
        self._tasks = set()
        self._writers = []

    async def start(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def swallow(self):
        """Forward nothing any more on the connections there are; new ones are not affected."""
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)

    async def _forward(self, source, sink):
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
            sink.close()

    async def stop(self):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
