"""Series as MetricFamily messages of io.prometheus.client, each after its length, with native histograms.

A native histogram of schema 3 has the bins in which latencies are kept, eight to a doubling; beside it stand the
buckets of the text, for who does not take it. Messages are encoded in columns: no Python statement runs once a bin.
Field numbers are those of io/prometheus/client/metrics.proto (prometheus/client_model). A family of many series comes
in several messages of the same name, so that none is large.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.protobuf import FIXED64, field, head, varint
from reducer.columns.distributions import BINS_A_DOUBLING, FIRST_DOUBLING, MICROSECOND, distributions
from reducer.outputs.metric import PROMETHEUS_UNITS, Distribution, Instrument
from reducer.outputs.prometheus_labels import LabelColumns, protobuf_of
from reducer.outputs.prometheus_text import BOUNDS, bucket_counts
from reducer.outputs.wire_columns import cut, lengths_of, padded_varints, varints

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.columns.cells import Bins
    from reducer.columns.distributions import Distributions
    from reducer.outputs.metric import Metric
    from reducer.outputs.observed import Observed, Snapshot

# A message is still in the processor's cache when it is compressed.
SERIES_A_MESSAGE = 500
_TYPES = {Instrument.COUNTER: 0, Instrument.GAUGE: 1, Instrument.HISTOGRAM: 4}
# The field of a Metric that holds the value.
_VALUE = {Instrument.COUNTER: 3, Instrument.GAUGE: 2}
_HISTOGRAM = 7
SCHEMA = 3
assert 1 << SCHEMA == BINS_A_DOUBLING
# Bucket i ends at 2^(i/8) s.
_FIRST_INDEX = 1 + BINS_A_DOUBLING * FIRST_DOUBLING
# Below it a reading would count as 0; it is that of Prometheus' own libraries.
_ZERO_THRESHOLD = 2.0**-128
_ZIGZAG_SCHEMA = SCHEMA << 1
_SETTINGS = struct.pack("<BBBd", 5 << 3, _ZIGZAG_SCHEMA, 6 << 3 | FIXED64, _ZERO_THRESHOLD)
# A count in six bytes: beyond 2^42 it is told to be that.
_COUNT_BYTES, _MOST_COUNT = 6, (1 << 42) - 1
_SPAN_BYTES = 2
_BUCKET = np.dtype(
    [("head", "V2"), ("count_tag", "u1"), ("count", "u1", _COUNT_BYTES), ("bound_tag", "u1"), ("bound", "<f8")]
)
_SPAN = np.dtype(
    [
        *(("head", "V2"), ("offset_tag", "u1"), ("offset", "u1", _SPAN_BYTES)),
        *(("length_tag", "u1"), ("length", "u1", _SPAN_BYTES)),
    ]
)
_head = lru_cache(1 << 16)(head)
_NUMBERS = np.dtype([("count_tag", "u1"), ("count", "u1", _COUNT_BYTES), ("sum_tag", "u1"), ("sum", "<f8")])


class _Series(NamedTuple):
    """Series with their labels as fields of a Metric, and how many bytes these are."""

    of: Snapshot
    labels: LabelColumns
    label_bytes: np.ndarray


def _encoded(of: Snapshot) -> _Series:
    labels = LabelColumns.as_protobuf(of.labels)
    return _Series(of, labels, np.sum([lengths_of(column) for column in labels], axis=0))


def protobuf(metrics: Sequence[Metric], observed: Observed) -> Iterator[bytes]:
    """Yield the messages of all metrics that have points."""
    sums, last = map(_encoded, (observed.sums, observed.last))
    for metric in metrics:
        before = _family(metric)
        series = last if metric.instrument is Instrument.GAUGE else sums
        for part in _parts_of(metric, series, observed.drop_reasons):
            yield b"".join((varint(len(before) + sum(map(len, part))), before, *part))


def _family(metric: Metric) -> bytes:
    name = metric.prometheus_name
    unit = PROMETHEUS_UNITS.get(metric.unit, "").encode()
    kind = varint(3 << 3) + varint(_TYPES[metric.instrument])
    return field(1, name.encode()) + field(2, metric.description.encode()) + kind + (field(5, unit) if unit else b"")


def _parts_of(metric: Metric, series: _Series, drop_reasons: Sequence[str]) -> Iterator[list[bytes]]:
    """Yield the Metric messages of a metric as fields of their family, as many as one message has."""
    values = series.of.values
    if isinstance(metric.sparse, Distribution):
        yield from _histograms(metric.sparse, series)
        return
    for points in metric.points:
        rows = np.flatnonzero(points.exists(values))
        yield from _numbers(metric, series, rows, points.value(values)[rows], points.attributes)
    for found in metric.sparse_points(series.of.bins, drop_reasons):
        yield from _numbers(metric, series, found.rows, found.values, found.attributes)


def _numbers(
    metric: Metric,
    series: _Series,
    rows: np.ndarray,
    values: np.ndarray,
    attributes: tuple[tuple[str, str], ...],
) -> Iterator[list[bytes]]:
    own, kind = protobuf_of(attributes), _VALUE[metric.instrument]
    before = own + head(kind, 9) + bytes([1 << 3 | FIXED64])
    for begin in range(0, len(rows), SERIES_A_MESSAGE):
        part = slice(begin, begin + SERIES_A_MESSAGE)
        numbers = np.empty(len(rows[part]), [("before", f"V{len(before)}"), ("value", "<f8")])
        numbers["before"], numbers["value"] = np.void(before), values[part]
        yield _metrics(series, rows[part], numbers.view(f"V{numbers.itemsize}").tolist())


def _metrics(series: _Series, rows: np.ndarray, *contents: Sequence[bytes]) -> list[bytes]:
    """Return the Metric messages of *rows*, each of its labels and *contents*, as fields of their family."""
    sizes = series.label_bytes[rows] + sum(map(lengths_of, contents))
    columns = (map(_head, repeat(4), sizes.tolist()), *(column[rows].tolist() for column in series.labels), *contents)
    pieces = [b""] * (len(columns) * len(rows))
    for number, column in enumerate(columns):
        pieces[number :: len(columns)] = column
    return pieces


def _histograms(source: Distribution, series: _Series) -> Iterator[list[bytes]]:
    bins = series.of.bins.get(source.kind)
    if bins is None:
        return
    by_series = distributions(bins)
    rows, place = by_series.place, np.repeat(np.arange(len(by_series.place)), by_series.size)
    for begin in range(0, len(rows), SERIES_A_MESSAGE):
        part = type(by_series)(*(column[begin : begin + SERIES_A_MESSAGE] for column in by_series))
        counts = bucket_counts(bins, place, begin, len(part.place))
        sums = series.of.values[source.total_us][part.place] * MICROSECOND
        pieces = (_count_and_sum(part.readings, sums), _classic_buckets(counts[:, :-1]), *_native_buckets(part, bins))
        columns = [*pieces[:2], [_SETTINGS] * len(part.place), *pieces[2:]]
        sizes = np.sum([lengths_of(column) for column in columns], axis=0)
        heads = list(map(_head, repeat(_HISTOGRAM), sizes.tolist()))
        yield _metrics(series, part.place, heads, *columns)


def _count_and_sum(readings: np.ndarray, sums: np.ndarray) -> list[bytes]:
    numbers = np.empty(len(readings), _NUMBERS)
    numbers["count_tag"], numbers["sum_tag"] = 1 << 3, 2 << 3 | FIXED64
    numbers["count"] = padded_varints(np.minimum(readings, _MOST_COUNT), _COUNT_BYTES)
    numbers["sum"] = sums
    return cut(numbers.tobytes(), np.arange(1, len(numbers) + 1) * _NUMBERS.itemsize)


def _classic_buckets(counts: np.ndarray) -> list[bytes]:
    """Return the buckets of each row of *counts*, (rows, len(BOUNDS)), as fields of a Histogram."""
    buckets = np.empty(counts.shape, _BUCKET)
    buckets["head"] = np.void(head(3, _BUCKET.itemsize - 2))
    buckets["count_tag"], buckets["bound_tag"] = 1 << 3, 2 << 3 | FIXED64
    buckets["count"] = padded_varints(np.minimum(counts.ravel(), _MOST_COUNT), _COUNT_BYTES).reshape(*counts.shape, -1)
    buckets["bound"] = BOUNDS
    return cut(buckets.tobytes(), np.arange(1, len(counts) + 1) * counts.shape[1] * _BUCKET.itemsize)


def _native_buckets(part: Distributions, bins: Bins) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return the positive_span fields of each series, what stands before its positive_delta, and the deltas."""
    cells = slice(int(part.first[0]), int(part.first[-1] + part.size[-1]))
    number, amount = bins.bin[cells], bins.amount[cells]
    first = part.first - part.first[0]
    before = np.append(0, number[:-1] + 1)
    before[first] = -_FIRST_INDEX  # the offset of a series' first span is its index itself
    is_first = np.zeros(len(number), bool)
    is_first[first] = True
    new_span = is_first | (number != before)
    begins = np.flatnonzero(new_span)
    spans = np.empty(len(begins), _SPAN)
    spans["head"] = np.void(head(12, _SPAN.itemsize - 2))
    spans["offset_tag"], spans["length_tag"] = 1 << 3, 2 << 3
    spans["offset"] = padded_varints(_zigzag(number[begins] - before[begins]), _SPAN_BYTES)
    spans["length"] = padded_varints(np.diff(np.append(begins, len(number))), _SPAN_BYTES)
    spans_until = np.cumsum(np.add.reduceat(new_span, first, dtype=np.int64))
    amounts_before = np.append(0, amount[:-1])
    amounts_before[first] = 0
    deltas, ends = varints(_zigzag(amount - amounts_before).astype(np.uint64))
    deltas_until = ends[first + part.size - 1]
    heads = list(map(_head, repeat(13), np.diff(deltas_until, prepend=0).tolist()))
    return cut(spans.tobytes(), spans_until * _SPAN.itemsize), heads, cut(deltas, deltas_until)


def _zigzag(numbers: np.ndarray) -> np.ndarray:
    zigzag: np.ndarray = (numbers << 1) ^ (numbers >> 63)
    return zigzag
