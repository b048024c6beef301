"""The containers that a Docker engine makes, as its events tell: known before they start, however soon they are gone.

A thread of its own follows the events, from when there is an engine, and again when it has restarted.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from kernel_collector.machine.bounded_http import AnswerError, Lines, Service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ebpf_net.v1 import intake_pb2

_LOGGER = logging.getLogger(__name__)
MOST_CREATED = 4_096
# All labels of a container are in it.
MOST_EVENT_BYTES = 1 << 20
HEAD_TIMEOUT_S = 5.0
PAUSE_S = 2.0
# Where an engine, or what stands before it, allows no events.
REFUSED_PAUSE_S = 60.0
_FILTERS = json.dumps({"type": ["container"], "event": ["create"]})
_JOIN_TIMEOUT_S = 1.0


class CreationEvents:
    """Follows an engine's events of containers that are created; the latest `MOST_CREATED` wait to be taken.

    Args:
        sockets: where the engine's socket may be; the first that takes a connection is used.
        read: gives a container's id and what is said of it, from the JSON of an event; raises AnswerError.

    Attributes:
        lost: events that were unreadable, too long, or too many.

    """

    def __init__(self, sockets: list[Path], read: Callable[[bytes], tuple[str, intake_pb2.Cgroup]]) -> None:
        self.lost = 0
        self._sockets = sockets
        self._read = read
        self._created: deque[tuple[str, intake_pb2.Cgroup]] = deque(maxlen=MOST_CREATED)
        # An engine keeps its last 256 events: those that nobody heard are asked for.
        self._heard_s = time.time()
        self._lines: Lines | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="docker events", daemon=True)
        self._thread.start()

    def take(self) -> list[tuple[str, intake_pb2.Cgroup]]:
        """Return what was created since the call before, oldest first."""
        return [self._created.popleft() for _ in range(len(self._created))]

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._lines:
            self._lines.end()
        self._thread.join(_JOIN_TIMEOUT_S)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._follow_first())

    def _follow_first(self) -> float:
        """Follow the first engine that there is until it ends; return after how many seconds to look again."""
        for path in self._sockets:
            try:
                self._follow_at(path)
            except OSError as error:
                _LOGGER.debug("events of Docker: %s: %s", path, error)
            except AnswerError as error:
                _LOGGER.debug("events of Docker: %s: %s", path, error)
                return REFUSED_PAUSE_S if error.status else PAUSE_S
            else:
                return PAUSE_S
        return PAUSE_S

    def _follow_at(self, path: Path) -> None:
        service = Service(str(path), MOST_EVENT_BYTES)
        query = urlencode({"filters": _FILTERS, "since": f"{self._heard_s:.6f}"})
        with service.follow(f"/events?{query}", time.monotonic() + HEAD_TIMEOUT_S) as self._lines:
            while not self._stopping.is_set() and (line := self._lines.next()):
                self._heard_s = time.time()
                self._take_in(line)

    def _take_in(self, line: bytes) -> None:
        try:
            created = self._read(line)
        except AnswerError as error:
            self.lost += 1
            _LOGGER.debug("an event of Docker: %s", error)
            return
        self.lost += len(self._created) == self._created.maxlen
        self._created.append(created)
