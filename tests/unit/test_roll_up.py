import numpy as np
import pytest

from reducer.columns.cells import CellKind, cells_of, code_of
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.rolling_up import roll_up as module
from reducer.rolling_up.roll_up import LevelSum, roll_up, rolled_up


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


@pytest.mark.parametrize("least", [0, 1000])
def test_levels_of_parts_add_up_to_that_of_the_whole(monkeypatch, least):
    monkeypatch.setattr(module, "LEAST_JOINED", least)
    random = np.random.default_rng(7)
    source, dest = (random.integers(0, 5, 200).astype(np.uint32) for _ in range(2))
    values = {
        "bytes": random.integers(0, 9, 200),
        "min_rtt_us": random.integers(0, 9, 200),
        "closed": column(*[0] * 200),
    }
    total = LevelSum()

    def rolled(these):
        cells = cells_of(np.arange(len(these)), code_of(CellKind.TCP_RTT, these % 7), values["bytes"][these])
        return roll_up("az_az", source[these], dest[these], {name: each[these] for name, each in values.items()}, cells)

    for part in np.split(np.arange(200), 10):
        total.add(rolled(part))
    told, whole = total.take(), rolled(np.arange(200))
    assert (told.source.tolist(), told.dest.tolist()) == (whole.source.tolist(), whole.dest.tolist())
    assert all((told.values[name] == whole.values[name]).all() for name in VALUE_COLUMNS)
    for name in ("place", "bin", "amount"):
        assert (getattr(told.bins[CellKind.TCP_RTT], name) == getattr(whole.bins[CellKind.TCP_RTT], name)).all()


def test_ends_of_a_level_may_be_others():
    cells = cells_of(np.arange(2), code_of(CellKind.TCP_RTT, 3), column(1, 2))
    level = roll_up("az_az", ends(1, 2), ends(3, 3), {"bytes": column(5, 6)}, cells)
    told = rolled_up(level, ends(7, 7), ends(3, 3))
    assert (told.source.tolist(), told.dest.tolist(), told.values["bytes"].tolist()) == ([7], [3], [11])
    assert told.bins[CellKind.TCP_RTT].amount.tolist() == [3]
