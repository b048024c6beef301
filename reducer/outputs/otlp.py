"""A window's series as OTLP requests, encoded in columns: no Python statement runs once a point.

A point is its value after byte strings that exist already: its length, its source's attributes, its destination's,
and what all points of a metric share. So the points of a metric are joined from lists, and the values are scattered
into the joined bytes, which the metrics that the same series have use one after the other. Field numbers and wire types
are those of opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

import struct
import sys
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.protobuf import FIXED64, LENGTH_DELIMITED, attributes, field, head, varint
from daemon.version import VERSION
from reducer.metrics import ENABLED_METRICS, Instrument, Metric
from reducer.outputs.ends import AZ_EQUAL, EncodedEnds
from reducer.outputs.store import Signal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reducer.metrics import Points
    from reducer.series import Labels, Level, SealedWindow

SERVICE_NAME = "ebpf-net-reducer"
SCOPE_NAME = "ebpf-net"
# Most receivers take messages of 4 MiB.
MOST_REQUEST_BYTES = 3_500_000
# Lengths of the messages around the points: of the request, the resource, the scope, the metric and its data.
ENVELOPE_BYTES = 64

_VALUE_TAG = {"int": bytes([6 << 3 | FIXED64]), "double": bytes([4 << 3 | FIXED64])}
_VALUE_BYTES = 8
# Sum.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA, Sum.is_monotonic = true.
_DELTA_MONOTONIC = bytes([2 << 3, 1, 3 << 3, 1])


class Request(NamedTuple):
    """An encoded request of a signal's Export, and how many points, or log records, it holds."""

    points: int
    body: bytes
    signal: Signal = Signal.METRICS


def _point_attributes(labels: Labels) -> bytes:
    return attributes(7, labels)


RESOURCE = field(1, attributes(1, (("service.name", SERVICE_NAME), ("service.version", VERSION))))
SCOPE = field(1, field(1, SCOPE_NAME.encode()), field(2, VERSION.encode()))
_AZ_EQUAL_ATTRIBUTES = [b"" if text is None else _point_attributes((("az_equal", text),)) for text in AZ_EQUAL]


class OtlpEncoder:
    """Encodes windows; keeps the encoded attributes of ends from one to the next."""

    def __init__(
        self,
        metrics: Sequence[Metric] = ENABLED_METRICS,
        most_request_bytes: int = MOST_REQUEST_BYTES,
        most_points: int | None = None,
    ) -> None:
        self._ends = EncodedEnds(_point_attributes)
        self._most_request_bytes = most_request_bytes
        self._most_points = most_points
        # What stands before the point of each length; ends' labels are bounded, so lengths are.
        self._point_prefixes: list[bytes] = []
        self._headers = {metric.name: _metric_header(metric) for metric in metrics}
        # Points of the same attributes and the same series are laid out once.
        points = [(metric, points) for metric in metrics for points in metric.points]
        self._layouts = [list(group) for _, group in groupby(points, lambda pair: (pair[1].exists, pair[1].attributes))]

    def encode(self, window: SealedWindow) -> list[Request]:
        """Return the requests that hold the points of *window*, in order; none where there are no points."""
        self._ends.update(window.ends)
        packer = _Packer(self._most_request_bytes, self._most_points)
        for level in window.levels:
            for layout in self._layouts:
                self._encode_layout(packer, window, level, layout)
        return packer.finish()

    def _encode_layout(
        self, packer: _Packer, window: SealedWindow, level: Level, layout: list[tuple[Metric, Points]]
    ) -> None:
        rows = np.flatnonzero(layout[0][1].exists(level.values))
        if not len(rows):
            return
        values = {name: column[rows] for name, column in level.values.items()}
        tail = b"".join(
            (
                _point_attributes((("aggregation", level.name), *layout[0][1].attributes)),
                struct.pack("<BQBQ", 2 << 3 | FIXED64, window.start_ns, 3 << 3 | FIXED64, window.end_ns),
                _VALUE_TAG["int"],
                bytes(_VALUE_BYTES),
            )
        )
        template, ends = self._lay_out(level.source[rows], level.dest[rows], tail)
        value_at = ends[:, None] + np.arange(-_VALUE_BYTES, 0)
        tag_at = ends - _VALUE_BYTES - 1
        for metric, points in layout:
            number = points.value(values).astype("<i8" if metric.number == "int" else "<f8")
            template[tag_at] = _VALUE_TAG[metric.number][0]
            template[value_at] = number.view(np.uint8).reshape(-1, _VALUE_BYTES)
            packer.add(metric, self._headers[metric.name], template.data, ends)

    def _lay_out(self, source: np.ndarray, dest: np.ndarray, tail: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes of a point for each pair of ends, writable, and where each point ends, int64."""
        az_equal = self._ends.az_equal(source, dest)
        pieces: list[bytes] = [tail] * (5 * len(source))
        pieces[1::5] = map(self._ends.source.__getitem__, source.tolist())
        pieces[2::5] = map(self._ends.dest.__getitem__, dest.tolist())
        pieces[3::5] = map(_AZ_EQUAL_ATTRIBUTES.__getitem__, az_equal.tolist())
        pieces[0::5] = [b""] * len(source)
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces)).reshape(-1, 5).sum(axis=1)
        for length in range(len(self._point_prefixes), int(lengths.max()) + 1):
            self._point_prefixes.append(bytes([1 << 3 | LENGTH_DELIMITED]) + varint(length))
        pieces[0::5] = map(self._point_prefixes.__getitem__, lengths.tolist())
        lengths += np.fromiter(map(len, pieces[0::5]), np.int64, len(lengths))
        return np.frombuffer(bytearray().join(pieces), np.uint8), np.cumsum(lengths)


def _metric_header(metric: Metric) -> bytes:
    texts = (metric.name, metric.description, metric.unit)
    return b"".join(field(number, text.encode()) for number, text in enumerate(texts, 1))


class _Packer:
    """Fills requests up to a size and a number with the points of one metric after the other."""

    def __init__(self, most_bytes: int, most_points: int | None) -> None:
        self._most_bytes = most_bytes
        self._most_points = most_points or sys.maxsize
        self._requests: list[Request] = []
        self._metrics: list[bytes] = []
        self._size = 0
        self._points = 0

    def add(self, metric: Metric, header: bytes, points: memoryview, ends: np.ndarray) -> None:
        """Copy *points*, which end at *ends*, into this request and as many more as they need."""
        begin, first = 0, 0
        while first < len(ends):
            room = self._most_bytes - self._size - len(RESOURCE) - len(SCOPE) - len(header) - ENVELOPE_BYTES
            last = min(int(np.searchsorted(ends, begin + room, "right")), first + self._most_points - self._points)
            if last <= first and self._metrics:
                self._close()
                continue
            last = max(last, first + 1)
            end = int(ends[last - 1])
            self._append(metric, header, bytes(points[begin:end]))
            self._points += last - first
            begin, first = end, last

    def finish(self) -> list[Request]:
        if self._metrics:
            self._close()
        return self._requests

    def _append(self, metric: Metric, header: bytes, points: bytes) -> None:
        number, settings = (7, _DELTA_MONOTONIC) if metric.instrument is Instrument.COUNTER else (5, b"")
        data_head = head(number, len(points) + len(settings))
        metric_head = head(2, len(header) + len(data_head) + len(points) + len(settings))
        parts = (metric_head, header, data_head, points, settings)
        self._metrics += parts
        self._size += sum(map(len, parts))

    def _close(self) -> None:
        # The points are many: each is copied but once more.
        scope_head = head(2, len(SCOPE) + self._size)
        request_head = head(1, len(RESOURCE) + len(scope_head) + len(SCOPE) + self._size)
        body = b"".join((request_head, RESOURCE, scope_head, SCOPE, *self._metrics))
        self._requests.append(Request(self._points, body))
        self._metrics, self._size, self._points = [], 0, 0
