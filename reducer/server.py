"""The reducer's end of the wire: the gRPC service around `ReducerSessions`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

import grpc
from ebpf_net.v1 import intake_pb2

from daemon.errors import StartupError
from daemon.events import set_within
from intake.clock import SECOND_NS
from intake.wire import METHOD, SERVER_OPTIONS, SERVICE
from reducer.session import Stream
from reducer.sessions import ReducerSessions, RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake.credentials import ServerCredentials

_LOGGER = logging.getLogger(__name__)
_LOAD_INTERVAL_S = 0.05
_HELLO_TIMEOUT_S = 10.0
_REJECTION_LOG_INTERVAL_S = 10.0

_Context = grpc.aio.ServicerContext[bytes, bytes]


class _Connection:
    """A stream and its call: one task reads, answers come from it and from acknowledgements, one at a time."""

    def __init__(self, context: _Context, reading: Callable[[_Connection], asyncio.Task[None]]) -> None:
        self.context = context
        self.stream = Stream(superseded=self._end_reading)
        self._writing = asyncio.Lock()
        self._acknowledging: asyncio.Task[None] | None = None
        self._refused = False
        self.reader = reading(self)

    def _end_reading(self) -> None:
        self.reader.cancel()

    async def write(self, message: intake_pb2.FromReducer) -> None:
        """Send *message*."""
        async with self._writing:
            await self.context.write(message.SerializeToString())

    def log(self, answer: intake_pb2.FromReducer) -> None:
        """Log a welcome, and the first refusal: those that follow are counted."""
        host = self.stream.session.host if self.stream.session else ""
        match answer.WhichOneof("message"):
            case "welcome":
                _LOGGER.info("collector of %r connected from %s", host, self.context.peer())
            case "refusal" if not self._refused:
                self._refused = True
                refusal = answer.refusal
                _LOGGER.warning("refused batch %d of the collector of %r: %s", refusal.number, host, refusal.reason)

    def acknowledge(self) -> None:
        """Send how far the session is safe; where that waits for a slow collector, the last number is sent once."""
        if self._acknowledging is None or self._acknowledging.done():
            self._acknowledging = asyncio.create_task(self._acknowledge())

    async def _acknowledge(self) -> None:
        session = self.stream.session
        sent = 0
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):  # the reader finds the end of the call
            while session and sent < session.safe:
                sent = session.safe
                await self.write(intake_pb2.FromReducer(ack=intake_pb2.Ack(number=sent)))


class IntakeServer:
    """Serves `Intake.Connect`."""

    def __init__(
        self, sessions: ReducerSessions, credentials: ServerCredentials, overloaded: Callable[[], bool]
    ) -> None:
        """Make a server that does not listen yet.

        Args:
            sessions: take the messages.
            credentials: what a collector has to show.
            overloaded: while it says so nothing is read, and the collectors keep what they have.

        """
        self._sessions = sessions
        self._credentials = credentials
        self._overloaded = overloaded
        self._taking = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._log_rejection_after = 0.0
        self._connections: dict[Stream, _Connection] = {}
        self._server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=sessions.most_sessions)
        # Without a deserializer messages come as bytes: one that cannot be parsed is refused and the stream goes on.
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._connect)
        self._server.add_registered_method_handlers(SERVICE, {METHOD: handler})

    async def start(self, port: int) -> int:
        """Listen on *port* of every address, 0 for any free one; return the port.

        Raises:
            StartupError: the port is in use, or this process may not have it.

        """
        address = f"[::]:{port}"  # gRPC takes this for every address of both families
        try:
            if self._credentials.server is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, self._credentials.server)
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on port {port}, which is in use or not allowed: "
                "end the program that has it (`ss -tlnp` shows which), or give another --port"
            ) from error
        self._taking.set()
        self._watching = asyncio.create_task(self._watch_load())
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """End all connections after *grace_s* seconds at most."""
        await self._server.stop(grace_s)
        if self._watching:
            self._watching.cancel()

    def safe(self, numbers: dict[bytes, int]) -> None:
        """Acknowledge the batches of each session up to its number."""
        for session in self._sessions.safe(numbers):
            connection = session.stream and self._connections.get(session.stream)
            if connection:
                connection.acknowledge()

    async def _connect(self, _requests: object, context: _Context) -> None:
        if not self._credentials.admits(context.invocation_metadata()):
            reason = "the token is missing or wrong: give the collector this reducer's with --intake-token-file"
            await self._reject(context, RejectedError("UNAUTHENTICATED", reason))
        connection = _Connection(context, lambda new: asyncio.create_task(self._read(new)))
        self._connections[connection.stream] = connection
        try:
            await asyncio.wait((connection.reader,))
            connection.reader.result()
        except RejectedError as error:
            await self._reject(context, error)
        except asyncio.CancelledError:
            if not connection.reader.cancelled():
                raise  # the call was cancelled, not the reader
            await context.abort(grpc.StatusCode.ABORTED, "another connection took this session over")
        finally:
            connection.reader.cancel()
            del self._connections[connection.stream]
            self._sessions.closed(connection.stream, time.time_ns())

    async def _reject(self, context: _Context, error: RejectedError) -> None:
        """End the call with the reason; where many are rejected only some are logged."""
        self._sessions.counters.rejected += 1
        if time.monotonic() >= self._log_rejection_after:
            self._log_rejection_after = time.monotonic() + _REJECTION_LOG_INTERVAL_S
            count = self._sessions.counters.rejected
            _LOGGER.warning("rejected %s: %s (%d rejected so far)", context.peer(), error.reason, count)
        await context.abort(grpc.StatusCode[error.status], error.reason)

    async def _read(self, connection: _Connection) -> None:
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                data = await connection.context.read()
        except TimeoutError:
            reason = f"no Hello within {_HELLO_TIMEOUT_S:.0f} s"
            raise RejectedError("DEADLINE_EXCEEDED", reason) from None
        while isinstance(data, bytes):  # else grpc.aio.EOF
            answer = self._sessions.received(connection.stream, data, time.time_ns())
            if answer is not None:
                connection.log(answer)
                self._warn_of_twin(connection, answer)
                await connection.write(answer)
            if not self._taking.is_set():
                await self._wait_for_pipeline(connection)
            data = await connection.context.read()

    def _warn_of_twin(self, connection: _Connection, answer: intake_pb2.FromReducer) -> None:
        session = connection.stream.session
        if session and answer.HasField("welcome") and session in self._sessions.twins:
            _LOGGER.warning(
                "another collector on %r tells of the same sockets already: what this one does is left out while the "
                "other is connected; end one of the two",
                session.host,
            )

    async def _wait_for_pipeline(self, connection: _Connection) -> None:
        """Wait until the pipeline takes batches again, with signs of life for the collector."""
        interval_s = self._sessions.heartbeat_interval_ns / SECOND_NS
        while not self._taking.is_set():
            reply = intake_pb2.HeartbeatReply(time_unix_ns=time.time_ns())
            await connection.write(intake_pb2.FromReducer(heartbeat=reply))
            await set_within(self._taking, interval_s)

    async def _watch_load(self) -> None:
        """Ask once for all connections whether more can be taken."""
        while True:
            if self._overloaded():
                self._taking.clear()
            else:
                self._taking.set()
            await asyncio.sleep(_LOAD_INTERVAL_S)
