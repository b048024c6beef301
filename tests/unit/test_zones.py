from __future__ import annotations

import numpy as np
import pytest

from reducer.columns.series import EndTable
from reducer.columns.value_columns import ZONE_COLUMNS
from reducer.naming.zones import Zones

BYTES, UDP_BYTES = 10, 3


def end(name, zone, resolution="PROCESS"):
    labels = {"workload.name": name, "availability_zone": zone, "resolution_type": resolution}
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def told(table, zones, *pairs):
    """Return the columns of rows between ends."""
    source, dest = (np.array([table.intern(pair[side]) for pair in pairs], np.uint32) for side in (0, 1))
    values = {"bytes": np.full(len(pairs), BYTES), "udp_bytes": np.full(len(pairs), UDP_BYTES)}
    nothing = dict.fromkeys(ZONE_COLUMNS, np.zeros(len(pairs), np.int64))
    return nothing | zones.columns(source, dest, values, table)


@pytest.mark.parametrize(
    ("source", "dest", "cross", "same"),
    [
        (end("a", "1"), end("b", "1"), 0, 13),
        (end("a", "1"), end("b", "2"), 13, 0),
        (end("a", "1"), end("b", "(unknown)"), 0, 0),
        (end("a", ""), end("b", "1"), 0, 0),
        (end("a", "(unknown)"), end("b", "(unknown)"), 0, 0),
        (end("a", "1"), end("b", "GOOGLE", "IP"), 0, 0),
        (end("a", "1"), end("b", "GOOGLE", "DNS"), 0, 0),
        (end("a", "eu-west-1a"), end("b", "eu-west-1b", "AWS"), 13, 0),
        (end("a", "us-west-2-lax-1a"), end("b", "us-west-2-lax-1a", "AWS"), 0, 13),
        (end("a", "eu-west-1a"), end("b", "eu-west-1", "AWS"), 0, 0),
        (end("a", "us-gov-east-1a"), end("b", "us-gov-east-1", "AWS"), 0, 0),
        (end("a", "us-central1-a"), end("b", "us-central1-b", "GCP"), 13, 0),
        (end("a", "us-central1-a"), end("b", "us-central1", "GCP"), 0, 0),
        (end("a", "us-central1-a"), end("b", "global", "GCP"), 0, 0),
        (end("a", "eastus2-1"), end("b", "eastus2-2", "AZURE"), 13, 0),
        (end("a", "eastus2-1"), end("b", "eastus2", "AZURE"), 0, 0),
        (end("a", "rack-1"), end("b", "rack-10"), 13, 0),
    ],
)
def test_both_zones_have_to_be_known(source, dest, cross, same):
    columns = told(EndTable(), Zones(), (source, dest), (source, end("c", "(unknown)")))
    assert [columns[name].tolist() for name in ZONE_COLUMNS] == [[cross, 0], [same, 0]]


def test_a_table_that_is_cleared_is_read_again():
    table, zones = EndTable(), Zones()
    told(table, zones, (end("a", "1"), end("b", "1")))
    table.clear()
    assert told(table, zones, (end("c", "2"), end("d", "1")))["cross_zone_bytes"].tolist() == [13]


def test_rows_without_payload_have_none():
    table = EndTable()
    ends = np.array([table.intern(end("a", "1"))], np.uint32)
    assert Zones().columns(ends, ends, {"opened": np.ones(1, np.int64)}, table) == {}
