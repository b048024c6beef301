"""What the formats of Prometheus are made from: the series at one time, as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from reducer.columns.cells import Bins, CellKind
    from reducer.outputs.prometheus_labels import SeriesLabels


class Snapshot(NamedTuple):
    """Series at one time: a row a series."""

    labels: list[SeriesLabels]
    values: dict[str, np.ndarray]
    bins: dict[CellKind, Bins]


class Observed(NamedTuple):
    """All that there is to tell at one time.

    Attributes:
        sums: the series with what they add up to.
        last: those of the last window, with its values.
        drop_reasons: what the bins of dropped packets mean.

    """

    sums: Snapshot
    last: Snapshot
    drop_reasons: Sequence[str]
