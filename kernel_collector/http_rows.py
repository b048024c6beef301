"""The rows of what sockets asked and answered by HTTP: from records of the kernel, in columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import BIN_COLUMNS, HTTP_COLUMNS, HTTP_STATUSES
from intake.merge import merge_rows
from kernel_collector.records import HttpPairKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake.columns import Columns, Tables

_ENDPOINTS = ("network_namespace", "local_address", "remote_address", "local_port", "remote_port")
_IPPROTO_TCP = 6
_BIN_KINDS = {
    HttpPairKind.LATENCY: intake_pb2.BIN_KIND_HTTP_LATENCY,
    HttpPairKind.STATUS: intake_pb2.BIN_KIND_HTTP_STATUS,
}
# By the first digit of a status.
_STATUS_OF_CLASS = {2: "status_2xx", 3: "status_3xx", 4: "status_4xx", 5: "status_5xx"}


class _Pairs(NamedTuple):
    """The pairs of bin and count in records: a row a pair."""

    record: np.ndarray  # index of its record
    kinds: np.ndarray
    bins: np.ndarray
    counts: np.ndarray


def http_rows(records: np.ndarray, owners: Callable[[Columns], np.ndarray]) -> Tables:
    """Return the tables `http` and `bins` of *records*, a row a socket and a row a socket and bin.

    Args:
        records: `http_record`s.
        owners: gives the ids of the owners of sockets, as `http_concern.owners`.

    """
    pairs = _pairs(records)
    sockets = _sockets(records)
    sockets["process"] = owners(sockets)
    http = {column.name: np.zeros(len(records), column.dtype) for column in HTTP_COLUMNS} | sockets
    http["requests"], http["latency_sum_us"] = records["requests"], records["latency_sum_ns"] // 1000
    http["latency_count"] = _counted(pairs, pairs.kinds == HttpPairKind.LATENCY, len(records))
    classes = np.where(pairs.kinds == HttpPairKind.STATUS, pairs.bins // 100, pairs.bins)
    is_status = pairs.kinds != HttpPairKind.LATENCY
    for number, status in _STATUS_OF_CLASS.items():
        http[status] = _counted(pairs, is_status & (classes == number), len(records))
    http[HTTP_STATUSES[-1]] = _counted(pairs, is_status & ~np.isin(classes, list(_STATUS_OF_CLASS)), len(records))
    return {"http": merge_rows(HTTP_COLUMNS, [http]), "bins": merge_rows(BIN_COLUMNS, [_bin_rows(pairs, sockets)])}


def statuses_untold(records: np.ndarray) -> int:
    """Return how many responses *records* tell of without their status."""
    pairs = _pairs(records)
    return int(pairs.counts[pairs.kinds == HttpPairKind.CLASS].sum(dtype=np.uint64))


def _pairs(records: np.ndarray) -> _Pairs:
    counts, bins, kinds = (
        np.ascontiguousarray(records[name]).view((dtype, records.dtype[name].itemsize // np.dtype(dtype).itemsize))
        for name, dtype in (("counts", "<u4"), ("bins", "<u2"), ("kinds", "u1"))
    )
    used = np.arange(kinds.shape[1]) < records["pairs"][:, None]
    return _Pairs(np.nonzero(used)[0], kinds[used], bins[used], counts[used])


def _sockets(records: np.ndarray) -> Columns:
    role = np.where(records["client"] != 0, intake_pb2.ROLE_CONNECTOR, intake_pb2.ROLE_ACCEPTOR)
    return {
        "socket": np.ascontiguousarray(records["cookie"]),
        "cgroup": records["cgroup"],
        "role": role.astype(np.uint8),
        **{name: records[name] for name in _ENDPOINTS},
    }


def _bin_rows(pairs: _Pairs, sockets: Columns) -> Columns:
    told = np.isin(pairs.kinds, list(_BIN_KINDS))
    rows = {name: column[pairs.record[told]] for name, column in sockets.items()}
    kinds = pairs.kinds[told]
    rows["transport"] = np.full(len(kinds), _IPPROTO_TCP, np.uint8)
    rows["kind"] = np.select([kinds == pair for pair in _BIN_KINDS], list(_BIN_KINDS.values())).astype(np.uint8)
    rows["bin"], rows["count"] = pairs.bins[told], pairs.counts[told]
    return rows


def _counted(pairs: _Pairs, which: np.ndarray, records: int) -> np.ndarray:
    """Return for each record the counts of the pairs *which*, added up."""
    return np.bincount(pairs.record[which], pairs.counts[which], records).astype(np.uint32)
