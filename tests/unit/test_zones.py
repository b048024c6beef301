from __future__ import annotations

import numpy as np
import pytest

from reducer.budget import Budget
from reducer.roll_up import roll_up
from reducer.series import EndTable
from reducer.zones import Zones, carry_over

BYTES, UDP_BYTES = 10, 3


def end(name, zone, resolution="PROCESS"):
    labels = {"workload.name": name, "availability_zone": zone, "resolution_type": resolution}
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def told(table, zones, *pairs):
    source, dest = (np.array([table.intern(pair[side]) for pair in pairs], np.uint32) for side in (0, 1))
    values = {"bytes": np.full(len(pairs), BYTES), "udp_bytes": np.full(len(pairs), UDP_BYTES)}
    level = roll_up("az_az", source, dest, values)
    zones.tell(level, table)
    return level


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
        (end("a", "1"), end("b", "2", "AWS"), 13, 0),
    ],
)
def test_both_zones_have_to_be_known(source, dest, cross, same):
    level = told(EndTable(), Zones(), (source, dest))
    assert (level.values["cross_zone_bytes"].sum(), level.values["same_zone_bytes"].sum()) == (cross, same)


def test_a_table_that_is_cleared_is_read_again():
    table, zones = EndTable(), Zones()
    told(table, zones, (end("a", "1"), end("b", "1")))
    table.clear()
    level = told(table, zones, (end("c", "2"), end("d", "1")))
    assert level.values["cross_zone_bytes"].tolist() == [13]


def test_what_is_rolled_up_keeps_it():
    table, zones = EndTable(), Zones()
    pairs = [(end(f"a-{number}", f"{number % 3}"), end("b", "1")) for number in range(9)]
    whole = told(table, zones, *pairs)
    stand_in = Budget(1).fit(whole, table)
    level = roll_up("az_az", stand_in[whole.source], stand_in[whole.dest], whole.values)
    carry_over(whole, stand_in, level)
    assert len(level.source) == 1
    assert (level.values["cross_zone_bytes"].tolist(), level.values["same_zone_bytes"].tolist()) == ([78], [39])
