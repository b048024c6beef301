"""The client of the encoder `otlp_log`: what is submitted becomes requests, which wait until a receiver has them."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import deque
from typing import TYPE_CHECKING

from daemon.events import set_within
from daemon.export_outcome import Accepted, Refused, Unavailable
from intake.clock import SECOND_NS
from intake.session import DEFAULT_POLL_INTERVAL_NS, FIRST_BACKOFF_NS, LONGEST_BACKOFF_NS
from intake.spool import SPOOL_BYTES
from kernel_collector.otlp_log.receiver import LogReceiver
from kernel_collector.otlp_log.records import LogRecords

if TYPE_CHECKING:
    from ebpf_net.v1 import intake_pb2

    from daemon.export_outcome import Outcome
    from intake.columns import Tables
    from intake.credentials import ClientCredentials
    from kernel_collector.otlp_log.records import Request

_LOGGER = logging.getLogger(__name__)
_FIRST_BACKOFF_S = FIRST_BACKOFF_NS / SECOND_NS
_LONGEST_BACKOFF_S = LONGEST_BACKOFF_NS / SECOND_NS
LONGEST_RETRY_AFTER_S = 60.0


class OtlpLogClient:
    """Sends requests one after the other, in order, while `run` runs.

    Args:
        host: name or address of the receiver.
        port: of the receiver.
        described: the host that the records are of; it may come to say more.
        credentials: plaintext and no token if not given.
        limit: of the requests that wait, bytes; beyond it the oldest are dropped.

    Attributes:
        bytes: of the requests that wait.
        rows_dropped: rows of requests that were dropped.
        bytes_dropped: payload bytes in those rows.
        requests_refused: requests that the receiver will not take, or not all of; what it did not is lost.

    """

    def __init__(
        self,
        host: str,
        port: int,
        described: intake_pb2.Host,
        credentials: ClientCredentials,
        limit: int = SPOOL_BYTES,
    ) -> None:
        self.bytes = 0
        self.rows_dropped = 0
        self.bytes_dropped = 0
        self.requests_refused = 0
        self._host: intake_pb2.Host | None = described  # until it was told
        self._records = LogRecords(described, os.urandom(16))
        self._receiver = LogReceiver(host, port, credentials)
        self._limit = limit
        self._waiting: deque[Request] = deque()
        self._submitted = 0
        self._backoff_s = _FIRST_BACKOFF_S
        self._connected: bool | None = None  # None: nothing was sent yet
        self._refusal = ""
        self._wake = asyncio.Event()
        self._finishing = asyncio.Event()
        self._finished = asyncio.Event()

    @property
    def poll_interval_ns(self) -> int:
        """How often rows are read: a receiver of OTLP has no say in it."""
        return DEFAULT_POLL_INTERVAL_NS

    @property
    def acknowledged(self) -> int:
        """The highest number such that no batch up to it refers to anything any more: records speak for themselves."""
        return self._submitted

    def submit(
        self,
        time_unix_ns: int,
        entities: intake_pb2.Entities,
        tables: Tables,
        statistics: intake_pb2.CollectorStatistics | None = None,
    ) -> int:
        """Encode rows and have them sent; return the number of the batch. See `CollectorSession`."""
        if self._host:
            entities.host.CopyFrom(self._host)
            self._host = None
        if statistics:
            self._complete(statistics)
        for request in self._records.encode(time_unix_ns, entities, tables, statistics):
            self._waiting.append(request)
            self.bytes += len(request.body)
        while self.bytes > self._limit and self._waiting:
            self._drop(self._waiting.popleft())
        self._wake.set()
        self._submitted += 1
        return self._submitted

    async def run(self) -> None:
        """Send what waits, and what comes, until `finish` or until cancelled."""
        try:
            while self._waiting or not self._finishing.is_set():
                if self._waiting:
                    await self._send(self._waiting.popleft())
                else:
                    self._wake.clear()
                    await self._wake.wait()
            self._finished.set()
        finally:
            self._receiver.close()

    async def finish(self, timeout_s: float) -> bool:
        """Send what is left at once; return whether the receiver has taken, or refused, all within *timeout_s*."""
        self._finishing.set()
        self._wake.set()
        return await set_within(self._finished, timeout_s)

    async def _send(self, request: Request) -> None:
        outcome = await asyncio.to_thread(self._receiver.send, request.body)
        if isinstance(outcome, Unavailable):
            self._waiting.appendleft(request)
            self._note_down(outcome)
            await self._pause(outcome)
        else:
            self.bytes -= len(request.body)
            self._note_up(request, outcome)

    def _note_down(self, outcome: Unavailable) -> None:
        if self._connected is not False:
            self._connected = False
            _LOGGER.warning("%s takes no records now, they are sent again: %s", self._receiver.url, outcome.reason)

    def _note_up(self, request: Request, outcome: Outcome) -> None:
        self._backoff_s = _FIRST_BACKOFF_S
        reason = ""
        if isinstance(outcome, Refused):
            reason = f"refused {request.records} records: {outcome.reason}"
        elif isinstance(outcome, Accepted):
            if not self._connected:
                _LOGGER.info("connected to %s: it takes records", self._receiver.url)
            self._connected = True
            if outcome.rejected:
                reason = f"rejected {outcome.rejected} records: {outcome.message or 'it gave no reason'}"
        if reason:
            self.requests_refused += 1
            level = logging.DEBUG if self._refusal else logging.ERROR
            self._refusal = reason
            _LOGGER.log(level, "%s %s; they are lost, further ones are counted", self._receiver.url, reason)

    async def _pause(self, outcome: Unavailable) -> None:
        """Wait before the next attempt, at most; the end of the collector ends the pause, once."""
        pause_s = max(
            self._backoff_s * random.uniform(0.5, 1.0),  # noqa: S311 - spreads load, keeps no secret
            min(outcome.retry_after_s, LONGEST_RETRY_AFTER_S),
        )
        self._backoff_s = min(2 * self._backoff_s, _LONGEST_BACKOFF_S)
        if self._finishing.is_set():
            await asyncio.sleep(pause_s)
        else:
            await set_within(self._finishing, pause_s)

    def _drop(self, request: Request) -> None:
        self.bytes -= len(request.body)
        self.rows_dropped += request.rows
        self.bytes_dropped += request.payload_bytes

    def _complete(self, statistics: intake_pb2.CollectorStatistics) -> None:
        statistics.spool_bytes = self.bytes
        statistics.spool_most_bytes = self._limit
        statistics.wire_bytes_sent, statistics.wire_bytes_received = (
            self._receiver.bytes_sent,
            self._receiver.bytes_received,
        )
        statistics.spool_rows_dropped = self.rows_dropped
        statistics.spool_bytes_dropped = self.bytes_dropped
        statistics.batches_refused = self.requests_refused
