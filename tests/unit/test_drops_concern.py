"""Dropped packets: rows of records, and the names of reasons."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from intake.columns import DROP_COLUMNS
from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.records import drop_record_dtypes
from kernel_collector.drops import probe as drops
from kernel_collector.drops.concern import rows_of
from kernel_collector.drops.probe import Drops, name_of_unknown, reason_names
from kernel_collector.objects import OBJECTS
from tests.rows import packed


@functools.cache
def dtypes():
    return drop_record_dtypes(BpfObject(OBJECTS / drops.OBJECT).btf)


def test_a_row_has_the_packets_source_as_its_local_end():
    keys, counts = (np.zeros(2, dtype) for dtype in dtypes())
    keys[1] = (packed("10.0.0.1"), packed("10.0.0.2"), 4_026_531_840, 40_000, 80, 517, 6)
    counts[1] = (5, 7500, 99)
    rows = rows_of(Drops(keys, counts))
    assert {name: column[1].tolist() for name, column in rows.items() if not name.endswith("address")} == {
        "socket": 99,
        "network_namespace": 4_026_531_840,
        "local_port": 40_000,
        "remote_port": 80,
        "transport": 6,
        "reason": 517,
        "packets": 5,
        "bytes": 7500,
    }
    assert rows["local_address"][1].tobytes() == packed("10.0.0.1")
    assert rows["remote_address"][1].tobytes() == packed("10.0.0.2")
    assert {name: column.dtype for name, column in rows.items()} == {c.name: c.dtype for c in DROP_COLUMNS}


@pytest.mark.parametrize(("number", "name"), [(512 | 3 << 6 | 5, "SUBSYSTEM_3_5"), (200, "REASON_200")])
def test_reasons_that_the_kernels_types_do_not_name(number, name):
    assert name_of_unknown(number) == name


def test_the_names_are_the_kernels_own(monkeypatch):
    numbers = {"SKB_NOT_DROPPED_YET": 0, "SKB_CONSUMED": 1, "SKB_DROP_REASON_NO_SOCKET": 3, "SKB_DROP_REASON_MAX": 4}
    monkeypatch.setattr(drops, "kernel_enum", lambda _: numbers)
    assert reason_names() == {3: "NO_SOCKET"}
    monkeypatch.setattr(drops, "kernel_enum", lambda _: {})
    assert reason_names() == {2: "NOT_SPECIFIED"}, "the kernel is older than reasons"
