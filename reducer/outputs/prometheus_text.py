"""Series as text for Prometheus: format 0.0.4, or OpenMetrics 1.0.

In the latter a counter's family has its name without `_total`, units are told, and the end is marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.distributions import BINS_A_DOUBLING, FIRST_DOUBLING, MICROSECOND
from reducer.metric import PROMETHEUS_UNITS, Distribution, Instrument
from reducer.outputs.prometheus_labels import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.cells import Bins
    from reducer.metric import Metric
    from reducer.outputs.prometheus import Observed, Snapshot

# Upper bounds of the buckets of histograms: powers of four, in seconds, from 15 microseconds to 16 seconds. More of
# them would be most of what is scraped; who wants them has native histograms.
_FIRST_POWER, _STEP, _BOUNDS = -16, 2, 11
BOUNDS = [2.0 ** (_FIRST_POWER + _STEP * number) for number in range(_BOUNDS)]
LINES_A_CHUNK = 5_000


def plain_text(metrics: Sequence[Metric], observed: Observed) -> Iterator[bytes]:
    """Yield the text of format 0.0.4 in parts of a few thousand lines."""
    return _text(metrics, observed, openmetrics=False)


def openmetrics_text(metrics: Sequence[Metric], observed: Observed) -> Iterator[bytes]:
    """Yield the text of OpenMetrics in parts of a few thousand lines."""
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
    for metric in metrics:
        head = _head(metric, openmetrics=openmetrics)
        for part in _lines_of(metric, observed):
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


def _lines_of(metric: Metric, observed: Observed) -> Iterator[bytes]:
    name = metric.prometheus_name
    series = observed.last if metric.instrument is Instrument.GAUGE else observed.sums
    if isinstance(metric.sparse, Distribution):
        yield from _histogram_lines(name, metric.sparse, series)
    for points in metric.points:
        rows = np.flatnonzero(points.exists(series.values))
        yield from _lines(name, series, rows, points.value(series.values)[rows], points.attributes)
    for found in metric.sparse_points(series.bins, observed.drop_reasons):
        yield from _lines(name, series, found.rows, found.values, found.attributes)


def _lines(
    name: str, series: Snapshot, rows: np.ndarray, values: np.ndarray, attributes: tuple[tuple[str, str], ...] = ()
) -> Iterator[bytes]:
    """Yield a line of text for each of *rows*, a few thousand at a time."""
    before, after = f"{name}{{".encode(), b"," + text_of(attributes)[:-1] + b"} " if attributes else b"} "
    for begin in range(0, len(rows), LINES_A_CHUNK):
        part = slice(begin, begin + LINES_A_CHUNK)
        labels = [series.labels[row] for row in rows[part].tolist()]
        pieces = [before, b"", b"", b"", after, b""] * len(labels)
        pieces[1::6] = [each.source.text for each in labels]
        pieces[2::6] = [each.dest.text for each in labels]
        pieces[3::6] = [each.others.text[:-1] for each in labels]
        pieces[5::6] = map(b"%r\n".__mod__, values[part].tolist())
        yield b"".join(pieces)


def _histogram_lines(name: str, source: Distribution, series: Snapshot) -> Iterator[bytes]:
    """Yield the lines of a histogram by series: its buckets, the sum and the count."""
    bins = series.bins.get(source.kind)
    if bins is None:
        return
    rows, place = np.unique(bins.place, return_inverse=True)
    lines = len(BOUNDS) + 3
    befores = [f"{name}_bucket{{".encode()] * (len(BOUNDS) + 1) + [f"{name}_sum{{".encode(), f"{name}_count{{".encode()]
    bounds = [f',le="{bound!r}"}} '.encode() for bound in BOUNDS]
    afters = [*bounds, b',le="+Inf"} ', b"} ", b"} "]
    for begin in range(0, len(rows), LINES_A_CHUNK // lines):
        part = rows[begin : begin + LINES_A_CHUNK // lines]
        counts = bucket_counts(bins, place, begin, len(part))
        sums = series.values[source.total_us][part] * MICROSECOND
        texts = [series.labels[row].text() for row in part.tolist()]
        pieces: list[bytes] = [b""] * (4 * lines * len(part))
        pieces[0::4] = befores * len(part)
        pieces[1::4] = [text for text in texts for _ in range(lines)]
        pieces[2::4] = afters * len(part)
        for line in range(lines):
            column = sums if line == lines - 2 else counts[:, min(line, len(BOUNDS))]
            pieces[4 * line + 3 :: 4 * lines] = map(b"%r\n".__mod__, column.tolist())
        yield b"".join(pieces)
