"""The collector's end of the wire: a gRPC stream that is opened again and again around a `CollectorSession`."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from typing import TYPE_CHECKING

import grpc
from ebpf_net.v1 import intake_pb2

from daemon.events import set_within
from intake.clock import SECOND_NS, read_clocks
from intake.credentials import ClientCredentials
from intake.session import CollectorSession
from intake.spool import Spool
from intake.wire import CLIENT_OPTIONS, METHOD, SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any

    from intake.columns import Tables

_LOGGER = logging.getLogger(__name__)
_WATCH_INTERVAL_S = 1.0
_CONNECT_TIMEOUT_S = 10.0
# What gRPC says of connections that the other end takes, and ends.
_ENDED = ("Socket closed", "Connection reset")
# What to look at, by what is said of TLS.
_TLS_ADVICE = {
    "CERTIFICATE_VERIFY_FAILED": "is the authority of the reducer's certificate in the file of --intake-tls-ca?",
    "not match SSL server name": "--intake-host must be a name that the reducer's certificate has",
    "Hostname Verification": "--intake-host must be a name that the reducer's certificate has",
    "WRONG_VERSION_NUMBER": "the reducer has no TLS: give it --tls-certificate, or this collector no --intake-tls-ca",
}


class IntakeClient:
    """Keeps a session with the reducer while `run` runs; rows are submitted from the same event loop.

    Attributes:
        session: the state of the session.
        spool: what is not acknowledged.

    """

    def __init__(
        self,
        host: str,
        port: int,
        hello: intake_pb2.Hello,
        snapshot: Callable[[], Iterable[intake_pb2.Entities]],
        credentials: ClientCredentials | None = None,
    ) -> None:
        """Make a client that is not connected yet.

        Args:
            host: of the reducer: a name or an address.
            port: of the reducer.
            hello: with kind, version and host.
            snapshot: gives the entities that unacknowledged batches and later rows may refer to, as `CollectorSession`
                takes them.
            credentials: plaintext and no token if not given.

        """
        self._target = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
        self._credentials = credentials or ClientCredentials()
        hello.session_id = os.urandom(16)
        self.spool = Spool()
        self.session = CollectorSession(hello, snapshot, self.spool, random.SystemRandom().random)
        self._bytes_sent = self._bytes_received = 0
        self._wake = asyncio.Event()
        self._finishing = False
        self._finished = asyncio.Event()
        self._failure: grpc.StatusCode | None = None
        self._welcomed = False

    @property
    def poll_interval_ns(self) -> int:
        """How often the reducer wants rows; 5 s until it has said so."""
        return self.session.poll_interval_ns

    @property
    def acknowledged(self) -> int:
        """The highest number such that no row of the batches up to it is kept any more.

        What only they refer to may be retired.
        """
        return self.session.acknowledged

    def submit(
        self,
        time_unix_ns: int,
        entities: intake_pb2.Entities,
        tables: Tables,
        statistics: intake_pb2.CollectorStatistics | None = None,
    ) -> int:
        """Put rows into the spool and have them sent; return the number of the last batch. See `CollectorSession`."""
        if statistics:
            statistics.wire_bytes_sent, statistics.wire_bytes_received = self._bytes_sent, self._bytes_received
        number = self.session.submit(time_unix_ns, entities, tables, statistics)
        self._wake.set()
        return number

    async def run(self) -> None:
        """Connect, and connect again after each loss, until `finish` or until cancelled."""
        while not self._finished.is_set():
            reason = await self._connection()
            if self._finished.is_set():
                return
            delay_ns = self.session.disconnected(read_clocks())
            self._log_loss(*reason)
            await asyncio.sleep(delay_ns / SECOND_NS)

    async def finish(self, timeout_s: float) -> bool:
        """End the session in good order: send what is left, and wait until the reducer has taken all.

        Returns:
            Whether it has within *timeout_s*; what it has not is lost with this process.

        """
        self._finishing = True
        self._wake.set()
        return await set_within(self._finished, timeout_s)

    async def _connection(self) -> tuple[grpc.StatusCode, str]:
        """Hold one connection; return why it ended."""
        self._welcomed = False
        async with self._channel() as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, intake_pb2.FromReducer] = channel.stream_stream(
                f"/{SERVICE}/{METHOD}", response_deserializer=intake_pb2.FromReducer.FromString
            )
            call = method(metadata=self._credentials.metadata)
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await call.wait_for_connection()
                self.session.connected(read_clocks())
                return await _first_of(self._read(call), self._write(call), self._watch())
            except TimeoutError:
                return grpc.StatusCode.DEADLINE_EXCEEDED, f"no connection within {_CONNECT_TIMEOUT_S:.0f} s"
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details() or ""
            finally:
                call.cancel()

    def _channel(self) -> grpc.aio.Channel:
        if self._credentials.channel is None:
            return grpc.aio.insecure_channel(self._target, CLIENT_OPTIONS)
        return grpc.aio.secure_channel(self._target, self._credentials.channel, CLIENT_OPTIONS)

    async def _read(
        self, call: grpc.aio.StreamStreamCall[bytes, intake_pb2.FromReducer]
    ) -> tuple[grpc.StatusCode, str]:
        async for message in call:
            self._bytes_received += message.ByteSize()
            if refused := self.session.received(message, read_clocks()):
                level = logging.DEBUG if self.session.batches_refused > 1 else logging.WARNING
                _LOGGER.log(level, "the reducer refused %s; further refusals are counted", refused)
            if message.HasField("welcome"):
                self._log_welcome()
            self._wake.set()
        code, details = await call.code(), await call.details()
        if code is grpc.StatusCode.OK and self._finishing and self.session.all_sent:
            self._finished.set()
        if code is not grpc.StatusCode.OK:
            return code, details
        return grpc.StatusCode.UNAVAILABLE, "the reducer ended the connection"

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, intake_pb2.FromReducer]) -> None:
        while True:
            now = read_clocks()
            if message := self.session.next_message(now):
                await call.write(message)
                self._bytes_sent += len(message)
            elif self._finishing and self.session.all_sent:
                await call.done_writing()
                return
            else:
                self._wake.clear()
                await set_within(self._wake, self.session.next_heartbeat_ns(now) / SECOND_NS)

    async def _watch(self) -> tuple[grpc.StatusCode, str]:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            if reason := self.session.lost(read_clocks()):
                return grpc.StatusCode.DEADLINE_EXCEEDED, reason

    def _log_welcome(self) -> None:
        self._failure = None
        self._welcomed = True
        _LOGGER.info("connected to the reducer at %s (version %s)", self._target, self.session.reducer_version)

    def _log_loss(self, code: grpc.StatusCode, details: str) -> None:
        """Log the first failure of its kind; those of the attempts that follow are only for debugging."""
        level = logging.DEBUG if code is self._failure else logging.WARNING
        self._failure = code
        details += self._advice(details)
        _LOGGER.log(level, "no connection to the reducer at %s, trying again: %s: %s", self._target, code.name, details)

    def _advice(self, details: str) -> str:
        """Return what to look at; who ends connections before a word is said may want more."""
        if advice := next((advice for said, advice in _TLS_ADVICE.items() if said in details), ""):
            return f"; {advice}"
        if self._welcomed or not any(each in details for each in _ENDED):
            return ""
        wanted = "a certificate (--intake-tls-certificate)" if self._credentials.channel else "TLS (--intake-tls-ca)"
        return f"; the reducer may want {wanted}"


async def _first_of(
    reader: Coroutine[Any, Any, tuple[grpc.StatusCode, str]],
    writer: Coroutine[Any, Any, None],
    watch: Coroutine[Any, Any, tuple[grpc.StatusCode, str]],
) -> tuple[grpc.StatusCode, str]:
    """Run all three; return what reader or watch returns first. A writer that fails leaves the reason to the reader."""
    reading, writing, watching = asyncio.create_task(reader), asyncio.create_task(writer), asyncio.create_task(watch)
    try:
        await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
        return await (reading if reading.done() else watching)
    finally:
        for task in (reading, writing, watching):
            task.cancel()
        await asyncio.gather(reading, writing, watching, return_exceptions=True)
