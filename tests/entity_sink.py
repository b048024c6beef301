"""A reducer that only remembers what it is told of a cluster: each session's words, and what it makes of them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from intake.compression import parse
from intake.wire import METHOD, SERVER_OPTIONS, SERVICE
from reducer.knowledge.directory import Directory
from reducer.knowledge.entities import Pod
from reducer.knowledge.timeline import keys_of, place_of, scope_of
from tests.entity_view import EntityView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ENVIRONMENT = ""  # the collectors are told none


class EntitySink:
    """Listens on a free port of loopback, in a thread of its own.

    Attributes:
        port: it listens on.
        sessions: what each of them told, by id, in order of their beginning.
        hellos: of each connection.
        connected: ids of the sessions that have a connection.
        statistics: the last that any collector told.
        batches: how many came.
        changes: how many entities they told or retired.
        snapshots: how many messages with a snapshot, or with a part of one, came.

    """

    def __init__(self, poll_interval_ns: int = SECOND_NS // 2) -> None:
        """Listen, and have collectors tell of themselves at an interval, more often than a reducer if not given."""
        self._poll_interval_ns = poll_interval_ns
        self.port = 0
        self.sessions: dict[bytes, EntityView] = {}
        self.hellos: list[intake_pb2.Hello] = []
        self.connected: set[bytes] = set()
        self.statistics: intake_pb2.CollectorStatistics | None = None
        self.batches = 0
        self.changes = 0
        self.snapshots = 0
        self._directory = Directory(0)
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._listening.wait(20)

    @property
    def view(self) -> EntityView:
        """What the last session has told."""
        return list(self.sessions.values())[-1] if self.sessions else EntityView()

    def pods_now(self, addresses: Sequence[bytes]) -> tuple[list[Pod | None], int]:
        """Return the pods that the reducer would name for *addresses* now, and how many addresses are any pod's now."""

        async def look_up() -> tuple[list[Pod | None], int]:
            view, now_ns = self._directory.view(), time.time_ns()
            words = np.frombuffer(b"".join(addresses), np.uint64).reshape(-1, 2)
            wanted = keys_of(place_of(words), scope_of(ENVIRONMENT))
            found, _ = view.pods.find(wanted, np.full(len(wanted), now_ns))
            every = np.unique(view.pods.key)
            held, _ = view.pods.find(every, np.full(len(every), now_ns))
            pods = (view.entities[number] for number in found.tolist())
            return [pod if isinstance(pod, Pod) else None for pod in pods], int(np.count_nonzero(held))

        return asyncio.run_coroutine_threadsafe(look_up(), self._loop).result(20)

    def disconnect(self) -> None:
        """End all connections, and be there for new ones at once."""
        asyncio.run_coroutine_threadsafe(self._restart(), self._loop).result(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(20)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        await self._start()
        self._listening.set()
        await self._stopping.wait()
        await self._server.stop(0)

    async def _start(self) -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        handler: Any = grpc.stream_stream_rpc_method_handler(
            self._connect, response_serializer=intake_pb2.FromReducer.SerializeToString
        )
        self._server.add_registered_method_handlers(SERVICE, {METHOD: handler})
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def _restart(self) -> None:
        await self._server.stop(0)
        await self._start()

    async def _connect(self, messages: AsyncIterator[bytes], _: object) -> AsyncIterator[intake_pb2.FromReducer]:
        session = b""
        try:
            async for data in messages:
                message = parse(data)
                if message.HasField("hello"):
                    session = message.hello.session_id
                    self.hellos.append(message.hello)
                    self.connected.add(session)
                answer = self._take(message, session)
                if answer is not None:
                    yield answer
        finally:
            self.connected.discard(session)
            self._directory.closed(session, time.time_ns())

    def _take(self, message: intake_pb2.FromCollector, session: bytes) -> intake_pb2.FromReducer | None:
        now_ns = time.time_ns()
        if message.HasField("hello"):
            self._directory.hello(session, message.hello.host, message.hello.kind)
            welcome = intake_pb2.Welcome(
                version="sink",
                poll_interval_ns=self._poll_interval_ns,
                heartbeat_interval_ns=max(self._poll_interval_ns, SECOND_NS),
                hello_time_unix_ns=message.hello.time_unix_ns,
                time_unix_ns=now_ns,
            )
            return intake_pb2.FromReducer(welcome=welcome)
        if message.HasField("snapshot"):
            self.snapshots += 1
            self.sessions.setdefault(session, EntityView()).snapshot(message.snapshot)
            snapshot = message.snapshot
            self._directory.snapshot(session, ENVIRONMENT, snapshot.entities, now_ns, partial=snapshot.partial)
        elif message.HasField("batch"):
            self.batches += 1
            self.changes += sum(len(entities) for _, entities in message.batch.entities.ListFields())
            self.sessions[session].changes(message.batch.entities)
            self._directory.learn(session, ENVIRONMENT, message.batch.entities, message.batch.time_unix_ns)
            if message.batch.HasField("statistics"):
                self.statistics = message.batch.statistics
            return intake_pb2.FromReducer(ack=intake_pb2.Ack(number=message.batch.number))
        elif message.HasField("heartbeat"):
            sent_ns = message.heartbeat.time_unix_ns
            reply = intake_pb2.HeartbeatReply(heartbeat_time_unix_ns=sent_ns, time_unix_ns=now_ns)
            return intake_pb2.FromReducer(heartbeat=reply)
        return None
