"""Rows of the DNS, given what the kernel would have counted."""

from __future__ import annotations

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import BIN_COLUMNS, DNS_COLUMNS, DNS_RESULTS
from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.btf import Btf
from kernel_collector.bpf.records import dns_dtypes
from kernel_collector.dns.probe import DnsTraffic
from kernel_collector.dns.rows import described, traffic_rows, with_timeouts
from kernel_collector.objects import OBJECTS
from kernel_collector.packets import OBJECT
from tests.rows import packed

HERE, THERE = packed("10.0.0.1"), packed("10.0.0.2")
CLIENT, SERVER = intake_pb2.ROLE_CONNECTOR, intake_pb2.ROLE_ACCEPTOR


@pytest.fixture(scope="module")
def dtypes():
    with BpfObject(OBJECTS / OBJECT) as opened:
        return dns_dtypes(Btf(opened.btf.data))


def peers_of(dtypes, *sockets):
    peers = np.zeros(len(sockets), dtypes["dns_peer"])
    for row, (cookie, role) in enumerate(sockets):
        peers["cookie"][row], peers["role"][row], peers["transport"][row] = cookie, role, 17
        peers["local_address"][row], peers["remote_address"][row] = np.void(HERE), np.void(THERE)
        peers["local_port"][row], peers["remote_port"][row] = (53, 4000) if role == SERVER else (4000, 53)
    return peers


def rows_of(columns, table):
    assert {name: column.dtype for name, column in columns.items()} == {c.name: c.dtype for c in table}
    assert len({len(column) for column in columns.values()}) == 1
    return [
        {
            name: column[row].tobytes() if column.dtype.kind == "V" else int(column[row])
            for name, column in columns.items()
        }
        for row in range(len(columns["socket"]))
    ]


def test_counts_become_rows_and_each_bin_finds_its_row(dtypes):
    peers = peers_of(dtypes, (1, CLIENT), (2, SERVER))
    counts = np.zeros(2, dtypes["dns_counts"])
    counts["number"], counts["cgroup"], counts["queries"] = [77, 5], [51, 52], [9, 1]
    counts["retransmits"], counts["timeouts"] = [3, 0], [1, 0]
    counts["latency_sum_ns"], counts["latency_count"] = [12_345_678, 999], [8, 1]
    counts["owner"]["network_namespace"] = 4
    counts["results"][0] = np.void(np.arange(1, 9, dtype="<u4").tobytes())
    bins = np.zeros(3, dtypes["dns_bin"])
    bins["entry"], bins["bin"] = [5, 77, 77], [80, 187, 190]
    traffic = DnsTraffic(peers, counts, bins, np.array([1, 6, 2], np.uint32))
    tables = traffic_rows(traffic, described(peers, counts, np.array([7, 8], np.uint32)))
    first, second = rows_of(tables["dns"], DNS_COLUMNS)
    assert {name: first[name] for name in DNS_RESULTS} == dict(zip(DNS_RESULTS, range(1, 9), strict=True))
    shared = {
        "socket": 1,
        "process": 7,
        "cgroup": 51,
        "network_namespace": 4,
        "local_address": HERE,
        "remote_address": THERE,
        "local_port": 4000,
        "remote_port": 53,
        "transport": 17,
        "role": CLIENT,
    }
    counted = {"queries": 9, "retransmits": 3, "timeouts": 1, "latency_sum_us": 12_345, "latency_count": 8}
    assert (shared | counted).items() <= first.items()
    assert (second["socket"], second["latency_sum_us"], second["role"]) == (2, 0, SERVER)
    of_second, *of_first = rows_of(tables["bins"], BIN_COLUMNS)
    kind = {"kind": intake_pb2.BIN_KIND_DNS_LATENCY}
    assert of_first == [shared | kind | {"bin": 187, "count": 6}, shared | kind | {"bin": 190, "count": 2}]
    assert (of_second["socket"], of_second["process"], of_second["bin"], of_second["count"]) == (2, 8, 80, 1)


def test_latencies_that_are_all_in_one_bin_are_told_by_the_row_itself(dtypes):
    peers = peers_of(dtypes, (1, CLIENT), (2, CLIENT), (3, CLIENT))
    counts = np.zeros(3, dtypes["dns_counts"])
    counts["number"], counts["latency_count"] = [77, 5, 6], [4, 5, 0]
    counts["latency_bin"], counts["latency_bin_count"] = [188, 191, 0], [4, 2, 0]
    bins = np.zeros(1, dtypes["dns_bin"])
    bins["entry"], bins["bin"] = 5, 80
    traffic = DnsTraffic(peers, counts, bins, np.array([3], np.uint32))
    tables = traffic_rows(traffic, described(peers, counts, np.array([7, 8, 9], np.uint32)))
    assert tables["dns"]["latency_bin"].tolist() == [188, 0, 0]
    told = [tables["bins"][name].tolist() for name in ("socket", "process", "bin", "count")]
    assert told == [[2, 2], [8, 8], [190, 80], [2, 3]]


def test_timeouts_are_added_to_the_row_of_their_peer_or_are_rows_of_their_own(dtypes):
    peers = peers_of(dtypes, (1, CLIENT))
    counts = np.zeros(1, dtypes["dns_counts"])
    counts["queries"] = 5
    nothing = np.empty(0, dtypes["dns_bin"]), np.empty(0, np.uint32)
    rows = traffic_rows(DnsTraffic(peers, counts, *nothing), described(peers, counts, np.array([7], np.uint32)))["dns"]
    assert with_timeouts(rows, described(peers[:0], counts[:0], np.empty(0, np.uint32))) is rows
    late = np.zeros(3, dtypes["dns_query"])
    late["peer"] = peers_of(dtypes, (1, CLIENT), (3, CLIENT), (1, CLIENT))
    late["cgroup"] = 9
    ends = described(late["peer"], late, np.array([0, 8, 0], np.uint32))
    found = {row["socket"]: row for row in rows_of(with_timeouts(rows, ends), DNS_COLUMNS)}
    assert {cookie: (row["queries"], row["timeouts"], row["process"]) for cookie, row in found.items()} == {
        1: (5, 2, 7),
        3: (0, 1, 8),
    }
    assert found[3]["cgroup"] == 9
