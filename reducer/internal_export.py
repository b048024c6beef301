"""Gives the reducer's metrics about itself to others: as text to Prometheus, and by OTLP.

What is written a thousand times, the attributes of collectors, is encoded once for each collector, not once a point.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from functools import cache, partial
from operator import add
from typing import TYPE_CHECKING, Generic, TypeVar

from daemon.export_outcome import Accepted
from daemon.protobuf import FIXED64, attributes, field, head
from daemon.threads import in_daemon_thread
from reducer.internal_metrics import families
from reducer.outputs.otlp import ENVELOPE_BYTES, MOST_REQUEST_BYTES, SCOPE
from reducer.outputs.resource import RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reducer.internal_metrics import Attributes, Family, InternalMetric, Snapshot
    from reducer.outputs.transport import Transport

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)

EXPORT_INTERVAL_S = 10.0
_UNITS = {"s": "seconds", "By": "bytes"}
# Sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE, Sum.is_monotonic = true.
_CUMULATIVE_MONOTONIC = bytes([2 << 3, 2, 3 << 3, 1])
# Tag and value of NumberDataPoint.as_double and as_int.
_AS_DOUBLE, _AS_INT = 4 << 3 | FIXED64, 6 << 3 | FIXED64
_DOUBLE, _INT = struct.Struct("<Bd"), struct.Struct("<Bq")


class InternalMetrics:
    """Serves what *snapshot*, called in the event loop, returns."""

    def __init__(self, snapshot: Callable[[], Snapshot], resource: bytes = RESOURCE) -> None:
        self._snapshot = snapshot
        self._resource = resource
        self._start_ns = time.time_ns()

    async def render(self) -> bytes:
        """Return the metrics now as text."""
        return await asyncio.to_thread(render, self._snapshot())

    async def export(self, transport: Transport, interval_s: float = EXPORT_INTERVAL_S) -> None:
        """Send the metrics by OTLP each *interval_s*, forever; what cannot be sent is not sent again."""
        while True:
            await asyncio.sleep(interval_s)
            for body in await asyncio.to_thread(encode, self._snapshot(), self._start_ns, self._resource):
                outcome = await in_daemon_thread(transport.send, body)
                if not isinstance(outcome, Accepted):
                    _LOGGER.debug("the reducer's own metrics were not taken: %s", outcome.reason)


def render(snapshot: Snapshot) -> bytes:
    """Return the metrics of *snapshot* in the text format of Prometheus."""
    encoded = _Encoded(_text)
    return "".join(_lines(family, encoded.of(family)) for family in families(snapshot)).encode(errors="replace")


def encode(
    snapshot: Snapshot,
    start_unix_ns: int,
    resource: bytes = RESOURCE,
    most_request_bytes: int = MOST_REQUEST_BYTES - ENVELOPE_BYTES,
) -> list[bytes]:
    """Return the metrics of *snapshot* as ExportMetricsServiceRequests; counters run since *start_unix_ns*."""
    times = struct.pack("<BQBQ", 2 << 3 | FIXED64, start_unix_ns, 3 << 3 | FIXED64, snapshot.time_unix_ns)

    @cache
    def before_value(holder: Attributes) -> bytes:
        rest = attributes(7, holder) + times
        return head(1, len(rest) + _INT.size) + rest

    encoded = _Encoded(before_value)
    requests: list[list[bytes]] = [[]]
    size = 0
    for family in families(snapshot):
        message = _message(family, encoded.of(family))
        if size and size + len(message) > most_request_bytes:
            requests.append([])
            size = 0
        requests[-1].append(message)
        size += len(message)
    return [field(1, resource, field(2, SCOPE, *metrics)) for metrics in requests if metrics]


def prometheus_name(metric: InternalMetric) -> str:
    """Return the name by the rules of Prometheus: unit spelt out, `_total` for a counter."""
    name = metric.name.replace(".", "_")
    unit = _UNITS.get(metric.unit)
    if unit and unit not in name.split("_"):
        name += f"_{unit}"
    return f"{name}_total" if metric.kind == "counter" else name


class _Encoded(Generic[T]):
    """The attributes of holders as *encode* makes them, once for each list of holders."""

    def __init__(self, encode: Callable[[Attributes], T]) -> None:
        self._encode = encode
        self._known: dict[int, tuple[Sequence[Attributes], list[T]]] = {}

    def of(self, family: Family) -> list[T]:
        key = id(family.holders)
        if key not in self._known:
            self._known[key] = (family.holders, list(map(self._encode, family.holders)))
        return self._known[key][1]


def _text(holder: Attributes) -> str:
    return f"{{{','.join(map(_label, holder))}}} " if holder else " "


def _label(attribute: tuple[str, str]) -> str:
    name, value = attribute
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'


def _lines(family: Family, labels: Sequence[str]) -> str:
    name = prometheus_name(family.metric)
    samples = f"\n{name}".join(map(add, labels, map(repr, family.values)))
    return f"# HELP {name} {family.metric.description}\n# TYPE {name} {family.metric.kind}\n{name}{samples}\n"


def _message(family: Family, before_values: Sequence[bytes]) -> bytes:
    metric = family.metric
    pack = partial(_DOUBLE.pack, _AS_DOUBLE) if isinstance(family.values[0], float) else partial(_INT.pack, _AS_INT)
    points = b"".join(map(add, before_values, map(pack, family.values)))
    data = field(7, points, _CUMULATIVE_MONOTONIC) if metric.kind == "counter" else field(5, points)
    texts = (metric.name, metric.description, metric.unit)
    return field(2, *(field(number, text.encode()) for number, text in enumerate(texts, 1)), data)
