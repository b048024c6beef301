"""The two clocks of a machine, read together."""

from __future__ import annotations

import time
from typing import NamedTuple

SECOND_NS = 1_000_000_000
NANOSECOND_S = 1e-9


class Instant(NamedTuple):
    """A moment: by the clock that other machines share, and by the one that nobody sets."""

    unix_ns: int
    monotonic_ns: int


def read_clocks() -> Instant:
    """Return this moment."""
    return Instant(time.time_ns(), time.monotonic_ns())
