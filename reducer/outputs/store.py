"""The bounded queue of encoded windows that wait for their export, in memory; disk_store.py has the one on disk.

A batch of a collector is safe, and may be acknowledged, when the windows that hold its rows are exported or on disk.
Which of the two it is makes the difference between the queues: `put` and `done` return what became safe.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from intake.clock import SECOND_NS
from reducer.outputs.request import Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reducer.outputs.request import Request

_LOGGER = logging.getLogger(__name__)

Acknowledgements = dict[bytes, int]
"""Session id to batch number: every batch of the session up to it is safe."""

MOST_MEMORY_BYTES = 1 << 30


class WaitingRequest(NamedTuple):
    """A request of the queue; `id` names it to `done`."""

    id: int
    points: int
    body: bytes
    signal: Signal = Signal.METRICS


@dataclass
class WindowExport:
    """What of a window must be kept until it is exported.

    Attributes:
        end_ns: the window's end.
        requests: its points and log records, encoded.
        acknowledge: what becomes safe with it.
        balances: the matcher's state at its end.

    """

    end_ns: int
    requests: Sequence[Request]
    acknowledge: Acknowledgements = field(default_factory=dict)
    balances: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of its requests."""
        return sum(len(request.body) for request in self.requests)


@dataclass
class StoreStatistics:
    """How full the queue is, and what it had to drop since the start."""

    most_bytes: int
    requests: int = 0
    bytes: int = 0
    windows_unwritten: int = 0
    windows_dropped: int = 0
    points_dropped: int = 0


class Store(Protocol):
    """The queue. Its methods may be called from any thread.

    Attributes:
        acknowledged: at the start, what was safe when the reducer ended.
        balances: at the start, the matcher's state then.

    """

    acknowledged: Acknowledgements
    balances: bytes

    def put(self, window: WindowExport) -> Acknowledgements:
        """Add a window, later than those before; return what is safe now."""

    def next(self) -> WaitingRequest | None:
        """Return the oldest request; it stays."""

    def done(self, request_id: int) -> Acknowledgements:
        """Remove a request that was delivered or refused; return what is safe now."""

    def retry(self) -> Acknowledgements:
        """Try again to write what could not be written; return what is safe now."""

    def statistics(self) -> StoreStatistics:
        """Return how full the queue is; this one does not wait for another."""

    def close(self) -> None:
        """Let others have what the queue holds; what nobody can have is logged as lost."""


class MemoryStore:
    """The queue in memory: a window is safe when it and those before are exported, or when it had to be dropped."""

    def __init__(self, most_bytes: int = MOST_MEMORY_BYTES) -> None:
        self.acknowledged: Acknowledgements = {}
        self.balances = b""
        self._most_bytes = most_bytes
        self._windows: deque[tuple[WindowExport, deque[WaitingRequest]]] = deque()
        self._last_id = 0
        self._statistics = StoreStatistics(most_bytes)
        self._lock = threading.Lock()

    def put(self, window: WindowExport) -> Acknowledgements:
        """Add a window; return what is safe now."""
        with self._lock:
            waiting: deque[WaitingRequest] = deque()
            for request in window.requests:
                self._last_id += 1
                waiting.append(WaitingRequest(self._last_id, *request))
            self._windows.append((window, waiting))
            self._statistics.bytes += window.size
            self._statistics.requests += len(waiting)
            while self._statistics.bytes > self._most_bytes:
                self._drop_oldest()
            return self._finish_windows()

    def next(self) -> WaitingRequest | None:
        """Return the oldest request; it stays."""
        with self._lock:
            return next((waiting[0] for _, waiting in self._windows if waiting), None)

    def done(self, request_id: int) -> Acknowledgements:
        """Remove a request that was delivered or refused; return what is safe now."""
        with self._lock:
            # It may have been dropped while it was on its way.
            if self._windows and self._windows[0][1] and self._windows[0][1][0].id == request_id:
                self._remove(self._windows[0][1].popleft())
            return self._finish_windows()

    def retry(self) -> Acknowledgements:
        """Nothing can fail to be written here."""
        return {}

    def statistics(self) -> StoreStatistics:
        """Return how full the queue is."""
        return StoreStatistics(**vars(self._statistics))

    def close(self) -> None:
        """Log what waits: it ends with the process."""
        with self._lock:
            lost = [waiting for _, waiting in self._windows if waiting]
            if lost:
                requests = [request for waiting in lost for request in waiting]
                log_loss_at_end(len(lost), requests, "--data-dir keeps them")
            self._windows.clear()
            self._statistics.requests = self._statistics.bytes = 0

    def _remove(self, request: WaitingRequest) -> None:
        self._statistics.bytes -= len(request.body)
        self._statistics.requests -= 1

    def _drop_oldest(self) -> None:
        window, waiting = next(item for item in self._windows if item[1])
        points = sum(request.points for request in waiting)
        while waiting:
            self._remove(waiting.popleft())
        count_drop(self._statistics, window.end_ns, points, self._most_bytes)

    def _finish_windows(self) -> Acknowledgements:
        safe: Acknowledgements = {}
        while self._windows and not self._windows[0][1]:
            safe |= self._windows.popleft()[0].acknowledge
        return safe


def count_drop(statistics: StoreStatistics, end_ns: int, points: int, most_bytes: int) -> None:
    """Count and log that the window that ended at *end_ns* is lost."""
    statistics.windows_dropped += 1
    statistics.points_dropped += points
    _LOGGER.error(
        "the queue of exports is full (%d bytes): %d points of the window that ended at %d s are lost",
        most_bytes,
        points,
        end_ns // SECOND_NS,
    )


def log_loss_at_end(windows: int, requests: Sequence[Request | WaitingRequest], advice: str) -> None:
    """Log that *requests* of as many *windows* are lost since the process ends, when nobody reads counters any more."""
    points = Counter[Signal]()
    for request in requests:
        points[request.signal] += request.points
    units = " and ".join(f"{count} {signal.unit}" for signal, count in points.items())
    _LOGGER.error(
        "%s before the end and are lost, but for what collectors send again; %s",
        f"{units} of {windows} windows could not be sent" if units else f"{windows} windows could not be written",
        advice,
    )
