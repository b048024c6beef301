"""Sends the requests of the queue to the OTLP receiver, one after the other, until each is taken or refused."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daemon.events import set_within
from daemon.export_outcome import Accepted, Refused, Unavailable
from daemon.threads import in_daemon_thread
from reducer.outputs.request import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.export_outcome import Outcome
    from reducer.outputs.store import Acknowledgements, Store, WaitingRequest
    from reducer.outputs.transport import Transport

_LOGGER = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
MOST_BACKOFF_S = 30.0
# How often the store is looked at though nobody said that there is something new, so that it can retry to write.
IDLE_S = 1.0
# A window can be hundreds of requests, each of which may be refused.
LOSSES_INTERVAL_S = 10.0


@dataclass
class ExportStatistics:
    """What of a signal was sent since the start: `refused` was not taken by the receiver, `failed` is sent again."""

    requests_sent: int = 0
    requests_refused: int = 0
    requests_failed: int = 0
    points_sent: int = 0
    points_refused: int = 0
    points_rejected: int = 0
    bytes_sent: int = 0
    bytes_refused: int = 0


class Exporter:
    """The loop between *store* and *transport*; *safe* is called, in the event loop, with what became safe.

    A request that the receiver cannot take now is sent again, the same bytes, with a growing pause, forever: what
    limits that is the size of the store. Order is kept.

    Attributes:
        statistics: by signal.
        connected: whether the receiver took, or refused, the last request.

    """

    def __init__(
        self,
        store: Store,
        transport: Transport,
        safe: Callable[[Acknowledgements], None],
        most_backoff_s: float = MOST_BACKOFF_S,
    ) -> None:
        self.statistics = {signal: ExportStatistics() for signal in Signal}
        self.connected = True
        self._store = store
        self._transport = transport
        self._safe = safe
        self._most_backoff_s = most_backoff_s
        self._backoff_s = FIRST_BACKOFF_S
        self._woken = asyncio.Event()
        self._finishing = asyncio.Event()
        self._ends_at: float | None = None
        # Of each signal: points that nobody was told of yet, and when somebody was.
        self._lost = dict.fromkeys(Signal, 0)
        self._losses_told_s: dict[Signal, float] = {}

    def wake(self) -> None:
        """Say that the store has something new."""
        self._woken.set()

    def finish(self, within_s: float) -> None:
        """Make `run` return when the store is empty, or after *within_s*, without the answer that is then awaited."""
        self._ends_at = asyncio.get_running_loop().time() + within_s
        self._finishing.set()
        self._woken.set()

    async def run(self) -> None:
        """Send what the store has, and what it gets, until `finish`."""
        while not self._is_over():
            self._woken.clear()
            self._report(await asyncio.to_thread(self._store.retry))
            request = await asyncio.to_thread(self._store.next)
            if request is not None:
                pause_s = await self._send(request)
                if pause_s:
                    await self._pause(pause_s)
            elif self._ends_at is None:
                await self._wait_for_work()
            else:
                return

    async def _send(self, request: WaitingRequest) -> float:
        """Send a request once; return for how long to wait before the next."""
        outcome = await self._outcome(request)
        if isinstance(outcome, Unavailable):
            self._note_down(request, outcome)
            return self._next_backoff(outcome)
        self._note_up(request, outcome)
        self._report(await asyncio.to_thread(self._store.done, request.id))
        return 0.0

    async def _outcome(self, request: WaitingRequest) -> Outcome:
        """Send a request, and wait for what becomes of it; at the end only as long as there is time."""
        sending = in_daemon_thread(self._transport.send, request.body, request.signal)
        finishing = asyncio.ensure_future(self._finishing.wait())
        either: tuple[asyncio.Future[Any], ...] = (sending, finishing)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            await asyncio.wait((sending,), timeout=max(0.0, self._time_left()))
        finishing.cancel()
        return sending.result() if sending.done() else Unavailable("no answer before the end")

    def _note_down(self, request: WaitingRequest, outcome: Unavailable) -> None:
        self.statistics[request.signal].requests_failed += 1
        if self.connected:
            self.connected = False
            _LOGGER.warning(
                "the OTLP receiver %s cannot take %s (%s): they wait and are sent again",
                self._transport.endpoint,
                request.signal,
                outcome.reason,
            )

    def _note_up(self, request: WaitingRequest, outcome: Outcome) -> None:
        self._backoff_s = FIRST_BACKOFF_S
        statistics = self.statistics[request.signal]
        if not self.connected:
            self.connected = True
            _LOGGER.info("the OTLP receiver %s takes %s again", self._transport.endpoint, request.signal)
        if isinstance(outcome, Accepted):
            rejected = min(outcome.rejected, request.points)
            statistics.requests_sent += 1
            statistics.bytes_sent += len(request.body)
            statistics.points_sent += request.points - rejected
            statistics.points_rejected += rejected
            if rejected:
                self._log_loss(request.signal, "rejected", rejected, outcome.message or "no reason given")
            elif outcome.message:
                _LOGGER.warning("the OTLP receiver %s says: %s", self._transport.endpoint, outcome.message)
        elif isinstance(outcome, Refused):
            statistics.requests_refused += 1
            statistics.points_refused += request.points
            statistics.bytes_refused += len(request.body)
            self._log_loss(request.signal, "refused", request.points, outcome.reason)

    def _log_loss(self, signal: Signal, what: str, points: int, reason: str) -> None:
        """Log what was lost, with what was since the last time: a receiver that takes nothing is told of seldom."""
        self._lost[signal] += points
        now_s = time.monotonic()
        if now_s >= self._losses_told_s.get(signal, -math.inf) + LOSSES_INTERVAL_S:
            _LOGGER.error(
                "the OTLP receiver %s %s %d %s, which are lost: %s",
                *(self._transport.endpoint, what, self._lost[signal], signal.unit, reason),
            )
            self._losses_told_s[signal] = now_s
            self._lost[signal] = 0

    def _next_backoff(self, outcome: Unavailable) -> float:
        """Return the pause: between half and all of one that doubles, but not less than the receiver asked for."""
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        self._backoff_s = min(2 * self._backoff_s, self._most_backoff_s)
        return max(pause_s, min(outcome.retry_after_s, self._most_backoff_s))

    def _report(self, safe: Acknowledgements) -> None:
        if safe:
            self._safe(safe)

    def _is_over(self) -> bool:
        return self._ends_at is not None and self._time_left() <= 0

    def _time_left(self) -> float:
        return math.inf if self._ends_at is None else self._ends_at - asyncio.get_running_loop().time()

    async def _wait_for_work(self) -> None:
        await set_within(self._woken, IDLE_S)

    async def _pause(self, seconds: float) -> None:
        """Wait; `finish` ends that, once, so that everything is tried again before the end."""
        if self._ends_at is None:
            await set_within(self._finishing, seconds)
        else:
            await asyncio.sleep(max(0.0, min(seconds, self._time_left())))
