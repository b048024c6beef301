"""What flows have besides value columns, as columns: quantiles of latencies, and what was dropped and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.columns.cells import CellKind
from reducer.columns.distributions import quantiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reducer.columns.cells import Bins
    from reducer.columns.series import FlowLevel

LATENCIES = {
    "tcp_rtt": CellKind.TCP_RTT,
    "tcp_connect": CellKind.TCP_CONNECT,
    "dns_client": CellKind.DNS_CLIENT,
    "dns_server": CellKind.DNS_SERVER,
    "http_client": CellKind.HTTP_CLIENT,
    "http_server": CellKind.HTTP_SERVER,
}
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
DROPS = {"drops_packets": CellKind.DROPPED_PACKETS, "drops_bytes": CellKind.DROPPED_BYTES}
NO_REASON = -1


def latency_column(latency: str, quantile: str) -> str:
    """Return the name of the column of a quantile, microseconds."""
    return f"{latency}_{quantile}_us"


LATENCY_COLUMNS = tuple(latency_column(latency, quantile) for latency in LATENCIES for quantile in QUANTILES)


def flow_values(flows: FlowLevel) -> dict[str, np.ndarray]:
    """Return columns, int64, 0 where a flow has none: `LATENCY_COLUMNS`, `DROPS`, `source_port` and `dest_port`."""
    count = len(flows.source)
    values = {"source_port": flows.source_port, "dest_port": flows.dest_port}
    for latency, kind in LATENCIES.items():
        for quantile, share in QUANTILES.items():
            column = values[latency_column(latency, quantile)] = np.zeros(count, np.int64)
            if kind in flows.bins:
                rows, seconds = quantiles(flows.bins[kind], share)
                column[rows] = np.maximum(np.rint(seconds * 1e6), 1)
    for name, kind in DROPS.items():
        values[name] = np.zeros(count, np.int64)
        if kind in flows.bins:
            np.add.at(values[name], flows.bins[kind].place, flows.bins[kind].amount)
    return values


def drop_reasons_of(bins: Mapping[CellKind, Bins], count: int) -> np.ndarray:
    """Return of each flow the reason that most of its packets were dropped for, int64; `NO_REASON` where none were."""
    reason = np.full(count, NO_REASON)
    dropped = bins.get(CellKind.DROPPED_PACKETS)
    if dropped is not None:
        order = np.argsort(dropped.amount, kind="stable")
        reason[dropped.place[order]] = dropped.bin[order]  # of several the last stays
    return reason


def reason_names(reasons: np.ndarray, names: Sequence[str]) -> pl.Series:
    """Return the names of reasons, text; null where there is none."""
    named = pl.Series([*names, None], dtype=pl.String())
    return named[np.where(reasons == NO_REASON, len(names), reasons).astype(np.int64)]
