import numpy as np

from reducer.roll_up import roll_up
from reducer.series import VALUE_COLUMNS


def ends(*values):
    return np.array(values, np.uint32)


def column(*values):
    return np.array(values, np.int64)


def test_rows_of_a_pair_are_added_up():
    level = roll_up("az_az", ends(1, 2, 1, 1), ends(2, 1, 2, 3), {"bytes": column(1, 2, 4, 8)})
    assert level.name == "az_az"
    assert list(zip(level.source.tolist(), level.dest.tolist(), level.values["bytes"].tolist(), strict=True)) == [
        (1, 2, 5),
        (1, 3, 8),
        (2, 1, 2),
    ]
    assert level.source.dtype == level.dest.dtype == np.uint32
    assert set(level.values) == set(VALUE_COLUMNS)
    assert all(values.dtype == np.int64 and len(values) == 3 for values in level.values.values())


def test_the_least_round_trip_is_of_those_that_are_known():
    values = {"min_rtt_us": column(0, 9, 7, 0), "bytes": column(1, 1, 1, 1)}
    level = roll_up("az_az", ends(1, 1, 1, 2), ends(1, 1, 1, 2), values)
    assert level.values["min_rtt_us"].tolist() == [7, 0]


def test_pairs_without_any_value_are_left_out():
    level = roll_up("az_az", ends(1, 2), ends(2, 1), {"bytes": column(0, 3), "active": column(0, 0)})
    assert level.source.tolist() == [2]


def test_large_end_indexes_and_sums():
    top = np.iinfo(np.uint32).max
    level = roll_up("az_az", ends(top, top), ends(top, top), {"bytes": column(2**61, 1)})
    assert (level.source[0], level.dest[0], level.values["bytes"][0]) == (top, top, 2**61 + 1)


def test_nothing_gives_nothing():
    level = roll_up("az_az", ends(), ends(), {"bytes": column()})
    assert len(level.source) == 0
