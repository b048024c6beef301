"""Latencies as points of OTLP's exponential histogram, encoded in columns like all other points.

A bin is a bucket of scale 3. What differs in length from point to point, the counts of its buckets, is encoded for all
points at once and cut; the rest is joined from pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daemon.protobuf import FIXED64, attributes, head, varint
from reducer.columns.distributions import (
    BINS_A_DOUBLING,
    FIRST_DOUBLING,
    HIGHEST_BIN,
    MICROSECOND,
    Distributions,
    distributions,
    middle,
)
from reducer.outputs.ends import EncodedEnds
from reducer.outputs.metric import Distribution
from reducer.outputs.wire_columns import cut, lengths_of, varints

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.columns.cells import Bins
    from reducer.columns.series import Level, SealedWindow
    from reducer.outputs.conventions import Attribute, Conventions
    from reducer.outputs.metric import Metric

SCALE = 3
assert 1 << SCALE == BINS_A_DOUBLING
# As many points are encoded at a time.
_POINTS = 65_536
_ZIGZAG_SCALE = SCALE << 1
# Buckets.offset of each first bin.
_OFFSETS = [
    b"\x08" + varint(offset << 1 if offset >= 0 else (-offset << 1) - 1)
    for offset in (first + BINS_A_DOUBLING * FIRST_DOUBLING for first in range(HIGHEST_BIN + 1))
]


def _point_attributes(labels: tuple[Attribute, ...]) -> bytes:
    return attributes(1, labels)


# Count, sum, scale, least and greatest: the fields of a point that have one length.
_NUMBERS = np.dtype(
    [
        ("count_tag", "u1"), ("count", "<u8"), ("sum_tag", "u1"), ("sum", "<f8"), ("scale_tag", "u1"), ("scale", "u1"),
        ("min_tag", "u1"), ("min", "<f8"), ("max_tag", "u1"), ("max", "<f8"),
    ]
)  # fmt: skip
_TAGS = {"count_tag": 4 << 3 | FIXED64, "sum_tag": 5 << 3 | FIXED64, "scale_tag": 6 << 3, "scale": _ZIGZAG_SCALE}
_TAGS |= {"min_tag": 12 << 3 | FIXED64, "max_tag": 13 << 3 | FIXED64}


_TIMES = np.dtype([("start_tag", "u1"), ("start", "<u8"), ("end_tag", "u1"), ("end", "<u8")])


class HistogramEncoder:
    """Encodes the points of those *metrics* that are a `Distribution`."""

    def __init__(self, metrics: Sequence[Metric], conventions: Conventions) -> None:
        self._metrics = [(metric, metric.sparse) for metric in metrics if isinstance(metric.sparse, Distribution)]
        self._ends = EncodedEnds(_point_attributes, conventions)
        # What stands before as many bytes, as the field of each of these numbers.
        self._heads: dict[int, list[bytes]] = {1: [], 2: [], 8: []}

    def encode(
        self, window: SealedWindow, level: Level, began_ns: np.ndarray
    ) -> Iterator[tuple[Metric, memoryview, np.ndarray]]:
        """Yield points of a metric, and where each of them ends, int64.

        Args:
            window: whose time the points have.
            level: the series.
            began_ns: by series, int64: when what it counts began.

        """
        if self._metrics:
            self._ends.update(window.ends)
        times = np.empty(len(level.source), _TIMES)
        times["start_tag"], times["end_tag"] = 2 << 3 | FIXED64, 3 << 3 | FIXED64
        times["start"], times["end"] = began_ns, window.end_ns
        for metric, source in self._metrics:
            bins = level.bins.get(source.kind)
            if bins is None:
                continue
            by_series = distributions(bins)
            for begin in range(0, len(by_series.place), _POINTS):
                part = Distributions(*(column[begin : begin + _POINTS] for column in by_series))
                total_s = level.values[source.total_us][part.place] * MICROSECOND
                numbers = _numbers(part, total_s, bins)
                yield metric, *self._points(level, times[part.place], part, numbers, bins)

    def _points(
        self, level: Level, times: np.ndarray, part: Distributions, numbers: np.ndarray, bins: Bins
    ) -> tuple[memoryview, np.ndarray]:
        source, dest = level.source[part.place], level.dest[part.place]
        counts, counts_end = _bucket_counts(part, bins)
        offsets = list(map(_OFFSETS.__getitem__, bins.bin[part.first].tolist()))
        counts_bytes = np.diff(counts_end, prepend=0)
        counts_heads = self._heads_of(2, counts_bytes)
        buckets_bytes = counts_bytes + lengths_of(offsets) + lengths_of(counts_heads)
        of_level = _point_attributes((("aggregation", level.name),))
        pieces: list[bytes] = [of_level] * (11 * len(source))
        pieces[0::11] = [b""] * len(source)
        pieces[1::11] = map(self._ends.source.__getitem__, source.tolist())
        pieces[2::11] = map(self._ends.dest.__getitem__, dest.tolist())
        pieces[3::11] = map(self._ends.zones.__getitem__, self._ends.az_equal(source, dest).tolist())
        pieces[5::11] = cut(numbers.tobytes(), np.arange(1, len(numbers) + 1) * _NUMBERS.itemsize)
        pieces[6::11] = self._heads_of(8, buckets_bytes)
        pieces[7::11] = offsets
        pieces[8::11] = counts_heads
        pieces[9::11] = cut(counts, counts_end)
        pieces[10::11] = cut(times.tobytes(), np.arange(1, len(times) + 1) * _TIMES.itemsize)
        lengths = lengths_of(pieces).reshape(-1, 11).sum(axis=1)
        pieces[0::11] = self._heads_of(1, lengths)
        lengths += lengths_of(pieces[0::11])
        return memoryview(b"".join(pieces)), np.cumsum(lengths)

    def _heads_of(self, number: int, lengths: np.ndarray) -> list[bytes]:
        """Return what stands before as many bytes of a length-delimited field."""
        heads = self._heads[number]
        for length in range(len(heads), int(lengths.max()) + 1):
            heads.append(head(number, length))
        return list(map(heads.__getitem__, lengths.tolist()))


def _numbers(part: Distributions, total_s: np.ndarray, bins: Bins) -> np.ndarray:
    """Return the `_NUMBERS` of points; least and greatest are middles of bins, but the mean is between them.

    Of a single reading all three are the same.
    """
    numbers = np.empty(len(part.place), _NUMBERS)
    for name, tag in _TAGS.items():
        numbers[name] = tag
    mean = total_s / part.readings
    numbers["count"], numbers["sum"] = part.readings, total_s
    least, greatest = middle(bins.bin[part.first]), middle(bins.bin[part.first + part.size - 1])
    several = part.readings > 1
    numbers["min"] = np.where(several, np.minimum(least, mean), mean)
    numbers["max"] = np.where(several, np.maximum(greatest, mean), mean)
    return numbers


def _bucket_counts(part: Distributions, bins: Bins) -> tuple[bytes, np.ndarray]:
    """Return the counts from the first bin to the last of each place, as varints, and where those of a place end."""
    cells = slice(int(part.first[0]), int(part.first[-1] + part.size[-1]))
    first_bin = bins.bin[part.first]
    span = bins.bin[part.first + part.size - 1] - first_bin + 1
    until = np.cumsum(span)
    counts = np.zeros(int(until[-1]), np.uint64)
    counts[np.repeat(until - span - first_bin, part.size) + bins.bin[cells]] = bins.amount[cells]
    encoded, ends = varints(counts)
    return encoded, ends[until - 1]
