"""A window's flows as a table: a row for each direction between two nodes and a port, its labels and what was counted.

What is counted has the name of the value column, that of TCP's after `tcp_`; `bytes` and `packets` are of all
protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from reducer.columns.series import FlowLevel
from reducer.columns.value_columns import NOT_OF_TCP, VALUE_COLUMNS
from reducer.outputs.flow_values import DROPS, LATENCY_COLUMNS, drop_reasons_of, flow_values, reason_names
from reducer.windows.rows import IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    import numpy as np

    from reducer.columns.series import EndTable, SealedWindow

LABELS = (
    *("workload.name", "workload.uid", "namespace.name", "environment", "availability_zone", "id", "ip", "pod"),
    *("process.name", "container.name", "image_version", "resolution_type"),
)
"""Of each end, in the order of the columns."""
PROTOCOLS = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp"}
_TIME = pl.Datetime("us", "UTC")


def _or_null(column: str) -> pl.Expr:
    """Return a column with null in the place of 0."""
    return pl.when(pl.col(column) != 0).then(pl.col(column)).alias(column)


def column_name(value: str) -> str:
    """Return the table's name of a value column."""
    return value if value.startswith(NOT_OF_TCP) else f"tcp_{value}"


def label_name(end: str, label: str) -> str:
    """Return the table's name of a label of *end*, `source` or `dest`."""
    return f"{end}_{label.replace('.', '_')}"


SCHEMA = pl.Schema(
    {
        "window_start": _TIME,
        "window_end": _TIME,
        **{label_name(end, label): pl.String() for end in ("source", "dest") for label in LABELS},
        "protocol": pl.String(),
        "source_port": pl.Int32(),
        "dest_port": pl.Int32(),
        "bytes": pl.Int64(),
        "packets": pl.Int64(),
        **{column_name(value): pl.Int64() for value in VALUE_COLUMNS},
        **dict.fromkeys(LATENCY_COLUMNS, pl.Int64()),
        **dict.fromkeys(DROPS, pl.Int64()),
        "drops_reason": pl.String(),
    }
)


def flow_level(window: SealedWindow) -> FlowLevel:
    """Return the level of *window* that has its flows."""
    return next(level for level in window.levels if isinstance(level, FlowLevel))


class FlowRecords:
    """Makes tables of windows; keeps the labels of ends as columns from one to the next."""

    def __init__(self) -> None:
        self._generation = -1
        self._known = 0
        self._ends = pl.DataFrame(schema=dict.fromkeys(LABELS, pl.String()))

    def table(self, window: SealedWindow) -> pl.DataFrame:
        """Return the flows of *window* with `SCHEMA`; a label that an end has not is null."""
        self._follow(window.ends)
        flows = flow_level(window)
        moments = pl.Series([window.start_ns // 1000, window.end_ns // 1000]).cast(_TIME)
        values = pl.DataFrame(
            {column_name(name): flows.values[name] for name in VALUE_COLUMNS}
            | flow_values(flows)
            | {"protocol": flows.protocol}
        )
        reasons = reason_names(drop_reasons_of(flows.bins, len(flows.source)), window.drop_reasons)
        return pl.concat(
            (self._of_end("source", flows.source), self._of_end("dest", flows.dest), values), how="horizontal"
        ).select(
            pl.lit(moments[0]).alias("window_start"),
            pl.lit(moments[1]).alias("window_end"),
            *(label_name(end, label) for end in ("source", "dest") for label in LABELS),
            pl.col("protocol").replace_strict(PROTOCOLS, default=None, return_dtype=pl.String()),
            *(_or_null(name).cast(pl.Int32()) for name in ("source_port", "dest_port")),
            (pl.col("tcp_bytes") + pl.col("udp_bytes")).alias("bytes"),
            (pl.col("tcp_packets") + pl.col("udp_packets")).alias("packets"),
            *map(column_name, VALUE_COLUMNS),
            *map(_or_null, LATENCY_COLUMNS),
            *DROPS,
            reasons.alias("drops_reason"),
        )

    def _of_end(self, end: str, indexes: np.ndarray) -> pl.DataFrame:
        return self._ends[indexes].rename({label: label_name(end, label) for label in LABELS})

    def _follow(self, ends: EndTable) -> None:
        if ends.generation != self._generation:
            self._generation, self._known = ends.generation, 0
            self._ends = self._ends.clear()
        new = ends.labels[self._known :]
        if new:
            told = [dict(labels) for labels in new]
            columns = {label: [labels.get(label) for labels in told] for label in LABELS}
            self._ends = self._ends.vstack(pl.DataFrame(columns, schema=self._ends.schema)).rechunk()
            self._known += len(new)
