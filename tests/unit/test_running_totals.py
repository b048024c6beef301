from collections import Counter

import numpy as np
import pytest

from reducer.columns.cells import CellKind
from reducer.columns.series import EndTable
from reducer.outputs.running_totals import FORGOTTEN_AFTER_WINDOWS, RunningTotals
from tests.windows import START_NS, WINDOW_NS, sealed_window

DATABASE = {"workload.name": "db"}


def told(totals, ends):
    """Return what a level's series add up to, by the name of their source."""
    level = totals.level
    names = [dict(ends.labels[end])["workload.name"] for end in level.source]
    found = {name: Counter() for name in names}
    for column, values in level.values.items():
        for name, value in zip(names, values.tolist(), strict=True):
            found[name][column] += value
    for kind, bins in level.bins.items():
        for place, number, amount in zip(bins.place, bins.bin, bins.amount, strict=True):
            found[names[place]][kind, int(number)] += int(amount)
    return {name: +counts for name, counts in found.items()}


@pytest.mark.parametrize("clear_every", [1, 3, 100])
def test_totals_are_the_sums_of_windows(clear_every):
    random, ends, totals = np.random.default_rng(7), EndTable(), RunningTotals()
    expected: dict[str, Counter] = {}
    for number in range(9):
        rows = []
        for name in random.choice(30, 12, replace=False).tolist():
            counts = {"bytes": int(random.integers(1, 99)), (CellKind.TCP_RTT, int(random.integers(0, 5))): 2}
            counts |= {"opened": 1} if number > 4 else {}
            expected.setdefault(f"w{name}", Counter()).update(counts)
            rows.append(({"workload.name": f"w{name}"}, DATABASE, counts))
        (found,) = totals.add(sealed_window(ends, {"az_az": rows}, number))
        assert told(found, ends) == expected
        pairs = found.level.source.astype(np.uint64) << np.uint64(32) | found.level.dest
        assert (np.diff(pairs.astype(np.int64)) > 0).all()
        if number % clear_every == clear_every - 1:
            ends.clear()


def test_series_are_forgotten_and_begin_anew():
    ends, totals = EndTable(), RunningTotals()
    one, two = (
        ({"workload.name": "one"}, DATABASE, {"bytes": 1, (CellKind.TCP_RTT, 3): 1}),
        ({}, DATABASE, {"bytes": 1}),
    )
    two = ({"workload.name": "two"}, *two[1:])
    totals.add(sealed_window(ends, {"az_az": [one, two]}))
    for number in range(1, FORGOTTEN_AFTER_WINDOWS + 1):
        (found,) = totals.add(sealed_window(ends, {"az_az": [two]}, number))
        assert ("one" in told(found, ends)) == (number < FORGOTTEN_AFTER_WINDOWS)
    assert not found.level.bins
    (found,) = totals.add(sealed_window(ends, {"az_az": [one, two]}, 11))
    assert told(found, ends)["one"] == {"bytes": 1, (CellKind.TCP_RTT, 3): 1}
    began = dict(zip(told(found, ends), found.began_ns.tolist(), strict=True))
    assert began == {"one": START_NS + 11 * WINDOW_NS, "two": START_NS}


def test_levels_are_apart():
    ends = EndTable()
    row = ({"workload.name": "one"}, DATABASE, {"bytes": 1})
    totals = RunningTotals()
    for number in range(2):
        found = totals.add(sealed_window(ends, {"az_az": [row], "id_id": [row] if number else []}, number))
    assert [each.level.values["bytes"].tolist() for each in found] == [[2], [1]]
