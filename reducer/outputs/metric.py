"""What a metric is: its name, unit and type, and how its points are made from the columns and bins of series."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from reducer.columns.distributions import quantiles
from reducer.columns.value_columns import is_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from reducer.columns.cells import Bins, CellKind

    Values = Mapping[str, np.ndarray]
    Column = Callable[[Values], np.ndarray]

MICROSECONDS = 1e6
# Units (UCUM) that Prometheus spells out at the end of a name.
PROMETHEUS_UNITS = {"By": "bytes", "s": "seconds"}

Attributes = tuple[tuple[str, str], ...]


class Instrument(Enum):
    """COUNTER is a monotonic sum over the window (delta), GAUGE a reading, HISTOGRAM readings by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Points:
    """The points of a metric that have the same attributes of its own: at most one a series.

    Attributes:
        value: from the value columns of the series to int64 or float64, a row a series.
        exists: from the same to bool: the series that have a point; the others' values mean nothing.
        attributes: what these points have besides the labels of their series.

    """

    value: Column
    exists: Column
    attributes: Attributes = ()


@dataclass(frozen=True)
class Codes:
    """Counts by bin of a kind: a point for each bin that a series has.

    Attributes:
        kind: whose bins they are.
        label: that tells them apart.
        text: its value of a bin; the names of reasons of drops are given.

    """

    kind: CellKind
    label: str
    text: Callable[[int, Sequence[str]], str]


@dataclass(frozen=True)
class Quantile:
    """The time that a share of the readings of a kind is below, in units of which a second has *units_a_second*."""

    kind: CellKind
    share: float
    units_a_second: float = 1.0


@dataclass(frozen=True)
class Distribution:
    """Readings of a kind by size; *total_us* is the value column that has their sum in microseconds."""

    kind: CellKind
    total_us: str


class SparsePoints(NamedTuple):
    """Points of the series *rows* (int64) with the same attributes of their own."""

    rows: np.ndarray
    values: np.ndarray
    attributes: Attributes


@dataclass(frozen=True)
class Metric:
    """A metric: `unit` by UCUM, `number` the type of its values; those not `enabled` are left out by default.

    Its points come from the columns, `points`, or from the bins of series, `sparse`.
    """

    name: str
    unit: str
    instrument: Instrument
    number: Literal["int", "double"]
    description: str
    points: tuple[Points, ...] = ()
    sparse: Codes | Quantile | Distribution | None = None
    enabled: bool = True

    @property
    def group(self) -> str:
        """The first word of its name: tcp, udp, dns, http, drops, zone."""
        return self.name.partition(".")[0]

    @property
    def prometheus_name(self) -> str:
        """The name by the rules of Prometheus: unit spelt out, `_total` for a counter."""
        name = self.name.replace(".", "_")
        unit = PROMETHEUS_UNITS.get(self.unit)
        if unit and not name.endswith(f"_{unit}"):
            name += f"_{unit}"
        return f"{name}_total" if self.instrument is Instrument.COUNTER else name

    def sparse_points(self, bins: Mapping[CellKind, Bins], drop_reasons: Sequence[str]) -> Iterator[SparsePoints]:
        """Yield the points of `Codes` and of a `Quantile`; *bins* have series as places."""
        source = self.sparse
        if source is None or isinstance(source, Distribution) or source.kind not in bins:
            return
        found = bins[source.kind]
        if isinstance(source, Quantile):
            rows, seconds = quantiles(found, source.share)
            yield SparsePoints(rows, seconds * source.units_a_second, ())
            return
        for code in np.unique(found.bin).tolist():
            these = found.bin == code
            attributes = ((source.label, source.text(code, drop_reasons)),)
            yield SparsePoints(found.place[these], found.amount[these], attributes)


def column(name: str) -> Column:
    """Return a value column itself."""
    return lambda values: values[name]


def positive(name: str) -> Column:
    """Return where a value column is above 0."""
    return lambda values: values[name] > 0


def total(names: Sequence[str]) -> Column:
    """Return the sum of value columns."""
    return lambda values: np.sum([values[name] for name in names], axis=0)


def mean_seconds(total_us: str, count: str) -> Column:
    """Return the mean of times, by the value columns of their sum in microseconds and of their number."""
    return lambda values: values[total_us] / values[count].clip(min=1) / MICROSECONDS


def any_of(*names: str) -> Column:
    """Return where any of value columns is not 0."""

    def exists(values: Values) -> np.ndarray:
        some = np.zeros(len(values[names[0]]), bool)
        for name in names:
            if not is_nothing(values[name]):
                some |= values[name] != 0
        return some

    return exists


def counter(name: str, unit: str, description: str, of: str, exists: Column) -> Metric:
    """Return a counter whose points are a value column's."""
    return Metric(name, unit, Instrument.COUNTER, "int", description, (Points(column(of), exists),))


def average(name: str, description: str, total_us: str, count: str) -> Metric:
    """Return a gauge of the mean of times."""
    points = (Points(mean_seconds(total_us, count), positive(count)),)
    return Metric(name, "s", Instrument.GAUGE, "double", description, points)


def gauge(name: str, unit: str, description: str, of: str, exists: Column) -> Metric:
    """Return a gauge whose points are a value column's."""
    return Metric(name, unit, Instrument.GAUGE, "int", description, (Points(column(of), exists),))


def histogram(name: str, description: str, kind: CellKind, total_us: str) -> Metric:
    """Return a histogram of times."""
    return Metric(name, "s", Instrument.HISTOGRAM, "double", description, sparse=Distribution(kind, total_us))
