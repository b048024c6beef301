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

from daemon.protobuf import FIXED64, attributes, field, head
from daemon.version import VERSION
from reducer.columns.value_columns import Rows
from reducer.outputs.conventions import REFERENCE
from reducer.outputs.ends import EncodedEnds
from reducer.outputs.metric import Codes, Instrument, Quantile
from reducer.outputs.metrics import ENABLED_METRICS
from reducer.outputs.otlp_histograms import HistogramEncoder
from reducer.outputs.request import Request
from reducer.outputs.resource import RESOURCE
from reducer.outputs.running_totals import RunningTotals
from reducer.outputs.wire_columns import lengths_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reducer.columns.series import EndTable, Labels, Level, SealedWindow
    from reducer.outputs.conventions import Attribute, Conventions
    from reducer.outputs.metric import Attributes, Metric, Points

SCOPE_NAME = "ebpf-net"
# Most receivers take messages of 4 MiB.
MOST_REQUEST_BYTES = 3_500_000
# Lengths of the messages around the points: of the request, the resource, the scope, the metric and its data.
ENVELOPE_BYTES = 64
# So many points are laid out in memory that is there already; those of a metric mostly fill a request.
POINTS_AT_ONCE = 8_192

_VALUE_TAG = {"int": bytes([6 << 3 | FIXED64]), "double": bytes([4 << 3 | FIXED64])}
_VALUE_BYTES = 8
_DTYPE = {"int": np.dtype("<i8"), "double": np.dtype("<f8")}
# The field of Metric that holds the points.
_DATA = {Instrument.GAUGE: 5, Instrument.COUNTER: 7, Instrument.HISTOGRAM: 10}
_DELTA, _CUMULATIVE = 1, 2
# Where the start time of a point is, counted from its end.
_START_AT = -(_VALUE_BYTES + 1 + 9 + 8)


def _point_attributes(labels: tuple[Attribute, ...]) -> bytes:
    return attributes(7, labels)


SCOPE = field(1, field(1, SCOPE_NAME.encode()), field(2, VERSION.encode()))


class _Envelope(NamedTuple):
    """What stands before the metrics of a request."""

    resource: bytes
    scope: bytes


class _Before(NamedTuple):
    """The series of a level in the window before, and which of them had points, by layout."""

    source: np.ndarray
    dest: np.ndarray
    existed: list[np.ndarray]


class _Parts(NamedTuple):
    """Metrics by how they are encoded; those in a layout have points of the same series with the same attributes."""

    layouts: list[list[tuple[Metric, Points]]]
    sparse: list[Metric]
    histograms: HistogramEncoder


def _parts(metrics: Sequence[Metric], conventions: Conventions) -> _Parts:
    points = [(metric, points) for metric in metrics for points in metric.points]
    layouts = [list(group) for _, group in groupby(points, lambda pair: (pair[1].exists, pair[1].attributes))]
    sparse = [metric for metric in metrics if isinstance(metric.sparse, (Codes, Quantile))]
    return _Parts(layouts, sparse, HistogramEncoder(metrics, conventions))


class OtlpEncoder:
    """Encodes windows; keeps the encoded attributes of ends, and which series there were, from one to the next.

    A series that is in a window no more has, once, a point of 0 for each counter and gauge that it had a point of. With
    *cumulative* temporality counters and histograms run since their series began, and so are told in each window.
    """

    def __init__(
        self,
        metrics: Sequence[Metric] = ENABLED_METRICS,
        most_request_bytes: int = MOST_REQUEST_BYTES,
        most_points: int | None = None,
        conventions: Conventions = REFERENCE,
        *,
        resource: bytes = RESOURCE,
        cumulative: bool = False,
    ) -> None:
        metrics = conventions.metrics(metrics)
        self._envelope = _Envelope(resource, SCOPE + field(3, conventions.schema_url.encode()))
        self._ends = EncodedEnds(_point_attributes, conventions)
        # How long what is encoded of sources and destinations is, by index.
        self._end_bytes = [np.empty(0, np.int64) for _ in range(2)]
        self._zone_bytes = lengths_of(self._ends.zones)
        self._most_request_bytes = most_request_bytes
        self._most_points = most_points
        # What stands before the point of each length; ends' labels are bounded, so lengths are.
        self._point_prefixes: list[bytes] = []
        self._headers = {metric.name: _metric_header(metric) for metric in metrics}
        running = [metric for metric in metrics if cumulative and metric.instrument is not Instrument.GAUGE]
        self._of_window = _parts([metric for metric in metrics if metric not in running], conventions)
        self._running = _parts(running, conventions)
        self._totals = RunningTotals() if cumulative else None
        self._temporality = _CUMULATIVE if cumulative else _DELTA
        self._before: dict[str, _Before] = {}
        self._labels: list[Labels] = []

    def encode(self, window: SealedWindow) -> list[Request]:
        """Return the requests that hold the points of *window*, in order; none where there are no points."""
        totals = self._totals.add(window) if self._totals else []
        if self._update_ends(window.ends):
            self._follow(window.ends)
        self._labels = window.ends.labels
        packer = _Packer(self._envelope, self._most_request_bytes, self._most_points, self._temporality)
        for level in window.levels:
            began_ns = np.full(len(level.source), window.start_ns)
            self._encode_columns(packer, window, level)
            self._encode_bins(packer, window, level, self._of_window, began_ns)
        for level, began_ns, _ in totals:
            for layout in self._running.layouts:
                rows = np.flatnonzero(layout[0][1].exists(level.values))
                if len(rows):
                    tail = _tail(window, level, layout[0][1].attributes)
                    laid_out = self._lay_out(level.source[rows], level.dest[rows], tail, began_ns[rows])
                    self._encode_layout(packer, layout, laid_out, Rows(level.values, rows))
            self._encode_bins(packer, window, level, self._running, began_ns)
        return packer.finish()

    def _encode_bins(
        self, packer: _Packer, window: SealedWindow, level: Level, parts: _Parts, began_ns: np.ndarray
    ) -> None:
        for metric in parts.sparse:
            for points in metric.sparse_points(level.bins, window.drop_reasons):
                tail = _tail(window, level, points.attributes)
                source, dest = level.source[points.rows], level.dest[points.rows]
                laid_out = self._lay_out(source, dest, tail, began_ns[points.rows])
                self._add(packer, metric, laid_out, points.values.astype(_DTYPE[metric.number]))
        for metric, encoded, ends in parts.histograms.encode(window, level, began_ns):
            packer.add(metric, self._headers[metric.name], encoded, ends)

    def _encode_columns(self, packer: _Packer, window: SealedWindow, level: Level) -> None:
        before = self._before.get(level.name)
        ended = _ended(level, before)
        existing = [layout[0][1].exists(level.values) for layout in self._of_window.layouts]
        for number, (layout, exists) in enumerate(zip(self._of_window.layouts, existing, strict=True)):
            rows = np.flatnonzero(exists)
            source, dest = level.source[rows], level.dest[rows]
            if before is not None and len(ended):
                these = ended[before.existed[number][ended]]
                source = np.concatenate((source, before.source[these]))
                dest = np.concatenate((dest, before.dest[these]))
            tail = _tail(window, level, layout[0][1].attributes)
            for begin in range(0, len(source), POINTS_AT_ONCE):
                some = slice(begin, begin + POINTS_AT_ONCE)
                laid_out = self._lay_out(source[some], dest[some], tail)
                self._encode_layout(packer, layout, laid_out, Rows(level.values, rows[some]))
        self._before[level.name] = _Before(level.source, level.dest, existing)

    def _encode_layout(
        self,
        packer: _Packer,
        layout: list[tuple[Metric, Points]],
        laid_out: tuple[np.ndarray, np.ndarray],
        values: Rows,
    ) -> None:
        """Add the points that were *laid_out*; those beyond the rows of *values* are 0."""
        for metric, points in layout:
            numbers = np.zeros(len(laid_out[1]), _DTYPE[metric.number])
            told = points.value(values)
            numbers[: len(told)] = told
            self._add(packer, metric, laid_out, numbers)

    def _add(
        self, packer: _Packer, metric: Metric, laid_out: tuple[np.ndarray, np.ndarray], numbers: np.ndarray
    ) -> None:
        template, ends = laid_out
        template[ends - _VALUE_BYTES - 1] = _VALUE_TAG[metric.number][0]
        template[ends[:, None] + np.arange(-_VALUE_BYTES, 0)] = numbers.view(np.uint8).reshape(-1, _VALUE_BYTES)
        packer.add(metric, self._headers[metric.name], template.data, ends)

    def _lay_out(
        self, source: np.ndarray, dest: np.ndarray, tail: bytes, began_ns: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes of a point for each pair of ends, writable, and where each point ends, int64.

        Their start time is that in the *tail*, or else *began_ns*.
        """
        az_equal = self._ends.az_equal(source, dest)
        lengths = self._end_bytes[0][source] + self._end_bytes[1][dest] + self._zone_bytes[az_equal] + len(tail)
        for length in range(len(self._point_prefixes), int(lengths.max()) + 1):
            self._point_prefixes.append(head(1, length))
        pieces: list[bytes] = [tail] * (5 * len(source))
        pieces[0::5] = map(self._point_prefixes.__getitem__, lengths.tolist())
        pieces[1::5] = map(self._ends.source.__getitem__, source.tolist())
        pieces[2::5] = map(self._ends.dest.__getitem__, dest.tolist())
        pieces[3::5] = map(self._ends.zones.__getitem__, az_equal.tolist())
        lengths += lengths_of(pieces[0::5])
        template, ends = np.frombuffer(bytearray().join(pieces), np.uint8), np.cumsum(lengths)
        if began_ns is not None:
            start_at = ends[:, None] + np.arange(_START_AT, _START_AT + 8)
            template[start_at] = began_ns.astype("<i8").view(np.uint8).reshape(-1, 8)
        return template, ends

    def _follow(self, ends: EndTable) -> None:
        """Know the series of the window before by the indexes that their ends have now, seldom as that is."""
        for name, before in self._before.items():
            used, place = np.unique(np.concatenate((before.source, before.dest)), return_inverse=True)
            now = np.array([ends.intern(self._labels[end]) for end in used.tolist()], np.uint32)[place]
            source, dest = now[: len(before.source)], now[len(before.source) :]
            order = np.lexsort((dest, source))
            existed = [exists[order] for exists in before.existed]
            self._before[name] = _Before(source[order], dest[order], existed)
        self._update_ends(ends)

    def _update_ends(self, ends: EndTable) -> bool:
        """Encode what is new in *ends*; return whether the table was cleared."""
        cleared = self._ends.update(ends)
        if cleared:
            self._end_bytes = [np.empty(0, np.int64) for _ in range(2)]
        self._end_bytes = [
            np.concatenate((known, lengths_of(encoded[len(known) :])))
            for known, encoded in zip(self._end_bytes, (self._ends.source, self._ends.dest), strict=True)
        ]
        return cleared


def _ended(level: Level, before: _Before | None) -> np.ndarray:
    """Return the rows of *before* that are not in *level*."""
    if before is None or not len(before.source):
        return np.empty(0, np.int64)
    pairs, wanted = (of.source.astype(np.uint64) << np.uint64(32) | of.dest for of in (level, before))
    if not len(pairs):
        return np.arange(len(wanted))
    return np.flatnonzero(pairs[np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)] != wanted)


def _tail(window: SealedWindow, level: Level, own: Attributes) -> bytes:
    """Return what all points of the same attributes of their own end with: their value is 0 so far."""
    return b"".join(
        (
            _point_attributes((("aggregation", level.name), *own)),
            struct.pack("<BQBQ", 2 << 3 | FIXED64, window.start_ns, 3 << 3 | FIXED64, window.end_ns),
            _VALUE_TAG["int"],
            bytes(_VALUE_BYTES),
        )
    )


def _metric_header(metric: Metric) -> bytes:
    texts = (metric.name, metric.description, metric.unit)
    return b"".join(field(number, text.encode()) for number, text in enumerate(texts, 1))


class _Packed(NamedTuple):
    """The points of a metric in a request, in pieces."""

    metric: Metric
    header: bytes
    points: list[bytes]


class _Packer:
    """Fills requests up to a size and a number with the points of metrics, those of a metric together."""

    def __init__(self, envelope: _Envelope, most_bytes: int, most_points: int | None, temporality: int) -> None:
        # What follows the points: aggregation_temporality, of a sum is_monotonic = true.
        histogram = bytes([2 << 3, temporality])
        self._settings = {Instrument.GAUGE: b"", Instrument.COUNTER: histogram + bytes([3 << 3, 1])}
        self._settings[Instrument.HISTOGRAM] = histogram
        self._envelope = envelope
        self._most_bytes = most_bytes
        self._most_points = most_points or sys.maxsize
        self._requests: list[Request] = []
        # By name.
        self._metrics: dict[str, _Packed] = {}
        self._size = 0
        self._points = 0

    def add(self, metric: Metric, header: bytes, points: memoryview, ends: np.ndarray) -> None:
        """Copy *points*, which end at *ends*, into this request and as many more as they need."""
        begin, first = 0, 0
        while first < len(ends):
            around = sum(map(len, self._envelope)) + len(header) + ENVELOPE_BYTES
            room = self._most_bytes - self._size - around
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
        if metric.name not in self._metrics:
            self._metrics[metric.name] = _Packed(metric, header, [])
            self._size += len(header) + ENVELOPE_BYTES
        self._metrics[metric.name].points.append(points)
        self._size += len(points)

    def _close(self) -> None:
        # The points are many: each is copied but once more.
        parts: list[bytes] = []
        for metric, header, points in self._metrics.values():
            number, settings = _DATA[metric.instrument], self._settings[metric.instrument]
            size = sum(map(len, points)) + len(settings)
            data_head = head(number, size)
            parts += (head(2, len(header) + len(data_head) + size), header, data_head, *points, settings)
        resource, scope = self._envelope
        size = len(scope) + sum(map(len, parts))
        scope_head = head(2, size)
        request_head = head(1, len(resource) + len(scope_head) + size)
        body = b"".join((request_head, resource, scope_head, scope, *parts))
        self._requests.append(Request(self._points, body))
        self._metrics, self._size, self._points = {}, 0, 0
