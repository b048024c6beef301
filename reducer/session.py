"""A session, which is a run of a collector, and the connections that it has one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intake.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ebpf_net.v1 import intake_pb2

HEARTBEAT_INTERVAL_NS = 5 * SECOND_NS
# Times of batches beyond it, by the reducer's clock, are not believed.
MOST_AHEAD_NS = 5 * SECOND_NS
# Times of batches before it, by the reducer's clock, are not believed.
MOST_BEHIND_NS = 24 * 3600 * SECOND_NS


@dataclass(slots=True, eq=False)
class Stream:
    """A connection of a collector; `superseded` is called when another one takes its session over."""

    superseded: Callable[[], None]
    session: Session | None = None


@dataclass(slots=True, eq=False)
class Session:
    """A run of a collector.

    Attributes:
        id: its 16 bytes.
        taken: the highest batch number that was taken.
        safe: batches up to it need not be sent again.
        stream: its connection; None: disconnected.
        host: the collector's host name.
        kind: the name of the CollectorKind.
        watches: what it watches, if it tells; of several that watch the same the rows of one count.
        left_out_ns: time of its last batch, by the reducer's clock, if the rows of that were left out; else 0.
        clock_offset_ns: from the collector's clock to the reducer's.
        statistics: the last that the collector told.
        about: what else it said of itself and its machine.
        heard_unix_ns: when its last message came.

    """

    id: bytes
    taken: int = 0
    safe: int = 0
    stream: Stream | None = None
    host: str = ""
    kind: str = ""
    watches: str = ""
    left_out_ns: int = 0
    clock_offset_ns: int = 0
    statistics: intake_pb2.CollectorStatistics | None = None
    about: tuple[tuple[str, str], ...] = ()
    heard_unix_ns: int = 0
