"""The rows of what sockets asked and answered by HTTP: from records of the kernel, in columns."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import BIN_COLUMNS, HTTP_COLUMNS, HTTP_STATUSES, empty_columns
from intake.merge import merge_some
from kernel_collector.bpf.records import HttpPairKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake.columns import Columns, Tables

_ENDPOINTS = ("network_namespace", "local_address", "remote_address", "local_port", "remote_port")
_BIN_KINDS = {
    HttpPairKind.LATENCY: intake_pb2.BIN_KIND_HTTP_LATENCY,
    HttpPairKind.STATUS: intake_pb2.BIN_KIND_HTTP_STATUS,
}
# By the first digit of a status.
_STATUS_OF_CLASS = {2: "status_2xx", 3: "status_3xx", 4: "status_4xx", 5: "status_5xx"}


class _Pairs(NamedTuple):
    """The pairs of bin and count in records: arrays of the shape (the most pairs that a record has, records)."""

    kinds: np.ndarray  # of HttpPairKind; 0 where there is no pair
    bins: np.ndarray
    counts: np.ndarray

    def counted(self, which: np.ndarray) -> np.ndarray:
        """Return for each record the counts of the pairs *which*, added up, uint32."""
        sums: np.ndarray = np.where(which, self.counts, 0).sum(axis=0, dtype=np.uint32)
        return sums


def http_rows(records: np.ndarray, owners: Callable[[Columns], np.ndarray]) -> Tables:
    """Return the tables `http` and `bins` of *records*.

    Args:
        records: `http_record`s.
        owners: gives the ids of the owners of sockets, as `http_concern.owners`.

    """
    pairs = _pairs(records)
    sockets = _sockets(records)
    sockets["process"] = owners(sockets)
    http = empty_columns(len(records), "http") | sockets
    http["requests"], http["latency_sum_us"] = records["requests"], records["latency_sum_ns"] // 1000
    is_latency = pairs.kinds == HttpPairKind.LATENCY
    is_status = (pairs.kinds != 0) & ~is_latency
    http["latency_count"] = pairs.counted(is_latency)
    classes = np.where(pairs.kinds == HttpPairKind.STATUS, pairs.bins // 100, pairs.bins)
    for number, status in _STATUS_OF_CLASS.items():
        http[status] = pairs.counted(is_status & (classes == number))
    http[HTTP_STATUSES[-1]] = pairs.counted(is_status & ~np.isin(classes, list(_STATUS_OF_CLASS)))

    several = _several(records["cookie"])
    one_bin, one_status = (~several & (which.sum(axis=0) == 1) for which in (is_latency, is_status))
    one_status &= ~(pairs.kinds == HttpPairKind.CLASS).any(axis=0)
    http["latency_bin"] = _the_only(pairs.bins, is_latency, one_bin, add=1)
    http["status"] = _the_only(pairs.bins, is_status, one_status)
    apart = is_latency & ~one_bin | (pairs.kinds == HttpPairKind.STATUS) & ~one_status
    bins = _bin_rows(pairs, apart, sockets)
    return {
        "http": merge_some(HTTP_COLUMNS, http, several),
        "bins": merge_some(BIN_COLUMNS, bins, np.isin(bins["socket"], records["cookie"][several])),
    }


def statuses_untold(records: np.ndarray) -> int:
    """Return how many responses *records* tell of without their status."""
    pairs = _pairs(records)
    return int(pairs.counts[pairs.kinds == HttpPairKind.CLASS].sum(dtype=np.uint64))


def _pairs(records: np.ndarray) -> _Pairs:
    most = int(records["pairs"].max(initial=0))
    shape = len(records), records.dtype["kinds"].itemsize
    counts, bins, kinds = (
        np.ascontiguousarray(np.ascontiguousarray(records[name]).view(dtype).reshape(shape)[:, :most].T)
        for name, dtype in (("counts", "<u4"), ("bins", "<u2"), ("kinds", "u1"))
    )
    used = np.arange(most)[:, None] < records["pairs"]
    return _Pairs(np.where(used, kinds, 0), bins, counts)


def _sockets(records: np.ndarray) -> Columns:
    role = np.where(records["client"] != 0, intake_pb2.ROLE_CONNECTOR, intake_pb2.ROLE_ACCEPTOR)
    return {
        "socket": np.ascontiguousarray(records["cookie"]),
        "cgroup": records["cgroup"],
        "role": role.astype(np.uint8),
        **{name: records[name] for name in _ENDPOINTS},
    }


def _several(cookies: np.ndarray) -> np.ndarray:
    """Return which records are of a socket that has others."""
    order = np.argsort(cookies, kind="stable")
    again = np.flatnonzero(cookies[order[1:]] == cookies[order[:-1]])
    several = np.zeros(len(cookies), bool)
    several[order[again]] = several[order[again + 1]] = True
    return several


def _the_only(bins: np.ndarray, which: np.ndarray, has_one: np.ndarray, add: int = 0) -> np.ndarray:
    """Return of each record the bin of its pair *which*, *add* added, where it *has_one*; else 0; uint16."""
    return np.where(has_one, np.where(which, bins, 0).sum(axis=0) + add, 0).astype(np.uint16)


def _bin_rows(pairs: _Pairs, which: np.ndarray, sockets: Columns) -> Columns:
    which = which.T
    of = np.nonzero(which)[0]
    rows = {name: column[of] for name, column in sockets.items()}
    kinds = pairs.kinds.T[which]
    rows["transport"] = np.full(len(of), socket.IPPROTO_TCP, np.uint8)
    rows["kind"] = np.select([kinds == pair for pair in _BIN_KINDS], list(_BIN_KINDS.values())).astype(np.uint8)
    rows["bin"], rows["count"] = pairs.bins.T[which], pairs.counts.T[which]
    return rows
