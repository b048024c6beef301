"""Series as text for Prometheus: format 0.0.4, or OpenMetrics 1.0.

In the latter a counter's family has its name without `_total`, units are told, and the end is marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reducer.columns.distributions import BINS_A_DOUBLING, FIRST_DOUBLING, MICROSECOND
from reducer.outputs.metric import PROMETHEUS_UNITS, Distribution, Instrument
from reducer.outputs.prometheus_labels import LabelColumns, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.columns.cells import Bins
    from reducer.outputs.metric import Metric
    from reducer.outputs.observed import Observed, Snapshot

# Upper bounds of the buckets of histograms: powers of four, in seconds, from 15 microseconds to 16 seconds. More of
# them would be most of what is scraped; who wants them has native histograms.
_FIRST_POWER, _STEP, _BOUNDS = -16, 2, 11
BOUNDS = [2.0 ** (_FIRST_POWER + _STEP * number) for number in range(_BOUNDS)]
# A part is still in the processor's cache when it is compressed.
LINES_A_CHUNK = 500


def plain_text(metrics: Sequence[Metric], observed: Observed) -> Iterator[bytes]:
    """Yield the text of format 0.0.4 in parts of a few hundred lines."""
    return _text(metrics, observed, openmetrics=False)


def openmetrics_text(metrics: Sequence[Metric], observed: Observed) -> Iterator[bytes]:
    """Yield the text of OpenMetrics in parts of a few hundred lines."""
    yield from _text(metrics, observed, openmetrics=True)
    yield b"# EOF\n"


def bucket_counts(bins: Bins, place: np.ndarray, first: int, rows: int) -> np.ndarray:
    """Return how many readings are below each of `BOUNDS`, and in all, (rows, len(BOUNDS) + 1) int64.

    Args:
        bins: of latencies.
        place: of each bin the row, ascending.
        first: of the rows the first.
        rows: how many of them.

    """
    cells = slice(*np.searchsorted(place, (first, first + rows)).tolist())
    # The power of two that a bin is below: each bound is one.
    power = bins.bin[cells] // BINS_A_DOUBLING + FIRST_DOUBLING + 1
    bucket = np.clip(-(-(power - _FIRST_POWER) // _STEP), 0, len(BOUNDS))
    counts = np.zeros((rows, len(BOUNDS) + 1), np.int64)
    np.add.at(counts, (place[cells] - first, bucket), bins.amount[cells])
    return counts.cumsum(axis=1)


def _text(metrics: Sequence[Metric], observed: Observed, *, openmetrics: bool) -> Iterator[bytes]:
    sums, last = (LabelColumns.as_text(series.labels) for series in (observed.sums, observed.last))
    for metric in metrics:
        head = _head(metric, openmetrics=openmetrics)
        is_gauge = metric.instrument is Instrument.GAUGE
        lines = _Lines(metric.prometheus_name, *((observed.last, last) if is_gauge else (observed.sums, sums)))
        for part in _lines_of(metric, observed.drop_reasons, lines):
            yield head + part
            head = b""


def _head(metric: Metric, *, openmetrics: bool) -> bytes:
    family = metric.prometheus_name
    unit = ""
    if openmetrics:
        family = family.removesuffix("_total")
        spelt_out = PROMETHEUS_UNITS.get(metric.unit)
        unit = f"# UNIT {family} {spelt_out}\n" if spelt_out and family.endswith(f"_{spelt_out}") else ""
    return f"# HELP {family} {metric.description}\n# TYPE {family} {metric.instrument.value}\n{unit}".encode()


def _lines_of(metric: Metric, drop_reasons: Sequence[str], lines: _Lines) -> Iterator[bytes]:
    series = lines.series
    if isinstance(metric.sparse, Distribution):
        yield from lines.of_histogram(metric.sparse)
    for points in metric.points:
        rows = np.flatnonzero(points.exists(series.values))
        yield from lines.of_numbers(rows, points.value(series.values)[rows], points.attributes)
    for found in metric.sparse_points(series.bins, drop_reasons):
        yield from lines.of_numbers(found.rows, found.values, found.attributes)


class _Lines(NamedTuple):
    """The lines of a metric: what stands between the labels of two of them is one piece, with the value in it."""

    name: str
    series: Snapshot
    labels: LabelColumns

    def of_numbers(
        self, rows: np.ndarray, values: np.ndarray, attributes: tuple[tuple[str, str], ...] = ()
    ) -> Iterator[bytes]:
        """Yield a line for each of *rows*, a few hundred at a time."""
        before = f"{self.name}{{".encode()
        after = b"," + text_of(attributes)[:-1] + b"} " if attributes else b"} "
        between = _value_between(after, before)
        for begin in range(0, len(rows), LINES_A_CHUNK):
            part = slice(begin, begin + LINES_A_CHUNK)
            pieces = [b""] * (4 * len(rows[part]))
            for number, column in enumerate(self.labels):
                pieces[number::4] = column[rows[part]].tolist()
            pieces[3::4] = map(between.__mod__, values[part].tolist())
            pieces[-1] = pieces[-1].removesuffix(before)
            yield before + b"".join(pieces)

    def of_histogram(self, source: Distribution) -> Iterator[bytes]:
        """Yield the lines of a histogram by series: its buckets, the sum and the count."""
        bins = self.series.bins.get(source.kind)
        if bins is None:
            return
        rows, place = np.unique(bins.place, return_inverse=True)
        lines = len(BOUNDS) + 3
        bucket, total, count = (f"{self.name}_{what}{{".encode() for what in ("bucket", "sum", "count"))
        befores = [*([bucket] * (len(BOUNDS) + 1)), total, count]
        afters = [*(f',le="{bound!r}"}} '.encode() for bound in BOUNDS), b',le="+Inf"} ', b"} ", b"} "]
        betweens = list(map(_value_between, afters, [*befores[1:], befores[0]]))
        for begin in range(0, len(rows), LINES_A_CHUNK // lines):
            part = rows[begin : begin + LINES_A_CHUNK // lines]
            counts = bucket_counts(bins, place, begin, len(part))
            sums = self.series.values[source.total_us][part] * MICROSECOND
            pieces = [b""] * (2 * lines * len(part))
            pieces[0::2] = [text for text in self.labels.joined(part) for _ in range(lines)]
            for line, between in enumerate(betweens):
                column = sums if line == lines - 2 else counts[:, min(line, len(BOUNDS))]
                pieces[2 * line + 1 :: 2 * lines] = map(between.__mod__, column.tolist())
            pieces[-1] = pieces[-1].removesuffix(bucket)
            yield bucket + b"".join(pieces)


def _value_between(after: bytes, before: bytes) -> bytes:
    """Return the format of a value between the labels of its line, *after* them, and those of the next."""
    return after.replace(b"%", b"%%") + b"%r\n" + before
