"""The rows of HTTP, of records as the kernel would give them."""

from __future__ import annotations

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import BIN_COLUMNS, HTTP_COLUMNS, empty_columns
from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.records import HttpPairKind, http_record_dtype
from kernel_collector.http.rows import http_rows, statuses_untold
from kernel_collector.objects import OBJECTS
from kernel_collector.packets import OBJECT
from tests.rows import packed

LATENCY, STATUS, CLASS = HttpPairKind.LATENCY, HttpPairKind.STATUS, HttpPairKind.CLASS
HERE, THERE = packed("10.0.0.1"), packed("10.0.0.2")


@pytest.fixture(scope="module")
def dtype():
    with BpfObject(OBJECTS / OBJECT) as opened:
        return http_record_dtype(opened.btf)


@pytest.fixture
def record(dtype):
    def made(cookie, pairs, *, client=1, **fields):
        one = np.zeros(1, dtype)
        one["cookie"], one["client"], one["cgroup"], one["network_namespace"] = cookie, client, 7, 8
        one["local_address"], one["remote_address"] = HERE, THERE
        one["local_port"], one["remote_port"] = 1000 + cookie, 80
        for name, value in fields.items():
            one[name] = value
        kinds, bins, counts = np.full(8, 99, "u1"), np.full(8, 99, "<u2"), np.full(8, 99, "<u4")
        for at, (kind, bin_, count) in enumerate(pairs):
            kinds[at], bins[at], counts[at] = kind, bin_, count
        one["pairs"] = len(pairs)
        one["kinds"], one["bins"], one["counts"] = (a.tobytes() for a in (kinds, bins, counts))
        return one

    return made


def by_cookie(sockets):
    return (sockets["socket"] * 10).astype(np.uint32)


def rows_of(*records):
    return http_rows(np.concatenate(records), by_cookie)


def test_a_row_has_all_that_a_record_tells(record):
    pairs = [
        (STATUS, 200, 3),
        (STATUS, 404, 2),
        (STATUS, 503, 1),
        (STATUS, 101, 1),
        (LATENCY, 160, 4),
        (LATENCY, 161, 3),
    ]
    found = rows_of(record(5, pairs, requests=8, latency_sum_ns=1_234_999))
    expected = empty_columns(1, "http")
    for name, value in (
        *(("socket", 5), ("process", 50), ("cgroup", 7), ("network_namespace", 8), ("role", intake_pb2.ROLE_CONNECTOR)),
        *(("local_address", HERE), ("remote_address", THERE), ("local_port", 1005), ("remote_port", 80)),
        *(("requests", 8), ("latency_sum_us", 1234), ("latency_count", 7)),
        *(("status_2xx", 3), ("status_4xx", 2), ("status_5xx", 1), ("status_other", 1)),
    ):
        expected[name][:] = np.array(value, expected[name].dtype)
    assert {name: column.tolist() for name, column in found["http"].items()} == {
        name: column.tolist() for name, column in expected.items()
    }
    bins = found["bins"]
    assert set(bins["transport"].tolist()) == {6}
    for name in ("socket", "process", "role", "local_port", "remote_address"):
        assert bins[name].tolist() == found["http"][name].tolist() * 6
    told = set(zip(bins["kind"].tolist(), bins["bin"].tolist(), bins["count"].tolist(), strict=True))
    kinds = {STATUS: intake_pb2.BIN_KIND_HTTP_STATUS, LATENCY: intake_pb2.BIN_KIND_HTTP_LATENCY}
    assert told == {(kinds[kind], bin_, count) for kind, bin_, count in pairs}


def test_records_of_a_socket_become_one_row(record):
    found = rows_of(
        record(1, [(STATUS, 200, 1), (LATENCY, 100, 1)], requests=2, latency_sum_ns=5000),
        record(2, [(STATUS, 200, 1)], client=0),
        record(1, [(STATUS, 200, 4), (LATENCY, 90, 4)], requests=3, latency_sum_ns=7000),
    )
    http, bins = found["http"], found["bins"]
    assert http["socket"].tolist() == [2, 1]
    assert http["role"].tolist() == [intake_pb2.ROLE_ACCEPTOR, intake_pb2.ROLE_CONNECTOR]
    assert [http[name][1] for name in ("requests", "status_2xx", "latency_count", "latency_sum_us")] == [5, 5, 5, 12]
    assert (http["latency_bin"][1], http["status"][1]) == (0, 0)
    assert sorted(zip(bins["socket"].tolist(), bins["bin"].tolist(), bins["count"].tolist(), strict=True)) == [
        (1, 90, 4),
        (1, 100, 1),
        (1, 200, 5),
    ]


def test_what_is_all_in_one_bin_is_told_by_the_row_itself(record):
    found = rows_of(
        record(1, [(STATUS, 404, 3), (LATENCY, 160, 2)], requests=3),
        record(2, [(STATUS, 200, 1), (STATUS, 204, 1), (LATENCY, 161, 2)]),
        record(3, [(STATUS, 200, 1), (CLASS, 2, 1), (LATENCY, 160, 1), (LATENCY, 162, 1)]),
        record(4, [], requests=1),
        record(5, [(CLASS, 2, 1)]),
    )
    http, bins = found["http"], found["bins"]
    told = [http[name].tolist() for name in ("latency_bin", "latency_count", "status", "status_2xx", "status_4xx")]
    assert told == [[161, 162, 0, 0, 0], [2, 2, 2, 0, 0], [404, 0, 0, 0, 0], [0, 2, 2, 0, 1], [3, 0, 0, 0, 0]]
    assert sorted(zip(bins["socket"].tolist(), bins["bin"].tolist(), bins["count"].tolist(), strict=True)) == [
        *((2, 200, 1), (2, 204, 1)),
        *((3, 160, 1), (3, 162, 1), (3, 200, 1)),
    ]


def test_responses_without_their_status_are_in_its_class_alone(record):
    records = record(1, [(CLASS, 2, 3), (CLASS, 5, 2), (CLASS, 1, 1), (STATUS, 204, 1)])
    http, bins = (http_rows(records, by_cookie)[table] for table in ("http", "bins"))
    assert [int(http[name][0]) for name in ("status_2xx", "status_5xx", "status_other")] == [4, 2, 1]
    assert bins["bin"].tolist() == [204]
    assert statuses_untold(records) == 6


def test_no_records_are_empty_tables(dtype):
    found = http_rows(np.empty(0, dtype), by_cookie)
    assert {name: len(column) for name, column in found["http"].items()} == {c.name: 0 for c in HTTP_COLUMNS}
    assert {name: len(column) for name, column in found["bins"].items()} == {c.name: 0 for c in BIN_COLUMNS}
