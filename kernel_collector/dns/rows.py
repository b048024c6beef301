"""What the kernel counted of the DNS as rows of the wire: the tables `dns` and `bins`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import DNS_COLUMNS, DNS_RESULTS, stacked, whole
from intake.merge import merge_some

if TYPE_CHECKING:
    from intake.columns import Columns, Tables
    from kernel_collector.dns.probe import DnsTraffic

_PEER = ("local_address", "remote_address", "local_port", "remote_port", "transport", "role")
_SHARED = ("socket", "process", "cgroup", "network_namespace", *_PEER)
_US = np.uint64(1000)


def described(peers: np.ndarray, of: np.ndarray, processes: np.ndarray) -> Columns:
    """Return what rows have in common.

    Args:
        peers: `dns_peer`s.
        of: `dns_counts` or `dns_query`s, a row each of them.
        processes: the ids of the processes that own them.

    """
    return {
        "socket": peers["cookie"],
        "process": processes,
        "cgroup": of["cgroup"],
        "network_namespace": of["owner"]["network_namespace"],
        **{name: peers[name] for name in _PEER},
    }


def traffic_rows(traffic: DnsTraffic, ends: Columns) -> Tables:
    """Return the rows of what was counted; *ends* is what is `described` of its peers."""
    counts = traffic.counts
    results = np.ascontiguousarray(counts["results"]).view("<u4").reshape(len(counts), len(DNS_RESULTS))
    rows = ends | {name: counts[name] for name in ("queries", "retransmits", "timeouts", "latency_count")}
    rows |= {name: results[:, number] for number, name in enumerate(DNS_RESULTS)}
    rows["latency_sum_us"] = counts["latency_sum_ns"] // _US
    in_one_bin = counts["latency_bin_count"] == counts["latency_count"]
    rows["latency_bin"] = np.where(in_one_bin, counts["latency_bin"], 0)
    first = np.flatnonzero(~in_one_bin & (counts["latency_bin"] != 0))
    order = np.argsort(counts["number"])
    at = order[np.searchsorted(counts["number"], traffic.bins["entry"], sorter=order)]
    bins = {name: np.concatenate((ends[name][first], ends[name][at])) for name in _SHARED}
    bins["bin"] = np.concatenate((counts["latency_bin"][first] - 1, traffic.bins["bin"]))
    bins["count"] = np.concatenate((counts["latency_bin_count"][first], traffic.bin_counts))
    bins["kind"] = np.full(len(bins["bin"]), intake_pb2.BIN_KIND_DNS_LATENCY)
    return {"dns": whole("dns", rows), "bins": whole("bins", bins)}


def with_timeouts(rows: Columns, ends: Columns) -> Columns:
    """Return *rows*, and for each row of *ends*, what is `described` of a query, a time-out besides."""
    if not len(ends["socket"]):
        return rows
    timeouts = whole("dns", ends | {"timeouts": np.ones(len(ends["socket"]), np.uint32)})
    all_rows = stacked([timeouts, rows])
    return merge_some(DNS_COLUMNS, all_rows, np.isin(all_rows["socket"], ends["socket"]))
