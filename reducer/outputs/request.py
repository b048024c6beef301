"""What is sent by OTLP: a request of one of its signals, encoded."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Signal(StrEnum):
    """What a request holds: OTLP has a service for each."""

    METRICS = "metrics"
    LOGS = "logs"

    @property
    def unit(self) -> str:
        """What its requests hold many of."""
        return "log records" if self is Signal.LOGS else "points"


class Request(NamedTuple):
    """An encoded request of a signal's Export, and how many points, or log records, it holds."""

    points: int
    body: bytes
    signal: Signal = Signal.METRICS
