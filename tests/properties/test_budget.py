"""The law of the budget: whatever there is and however small it is, sums stay, and it is kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer.budget import STEPS, Budget
from reducer.roll_up import roll_up
from reducer.series import VALUE_COLUMNS, EndTable
from tests.strategies import labelled_windows

LAW = settings(deadline=None, max_examples=80)


def ancestry(labels):
    found = [labels]
    for step in STEPS:
        found.append(step(found[-1]))
    return found


@LAW
@given(labelled_windows(), st.integers(1, 40), st.sets(st.integers(0, 20)))
def test_sums_stay_and_the_budget_is_kept(windows, most, cleared):
    table, budget = EndTable(), Budget(most)
    for number, window in enumerate(windows):
        if number in cleared:
            table.clear()
        source, dest = (
            np.array([table.intern(labels) for labels in ends], np.uint32) for ends in (window.sources, window.dests)
        )
        whole = roll_up("id_id", source, dest, window.values)
        stand_in = budget.fit(whole, table)
        if stand_in is None:
            assert len(whole.source) <= most
            continue
        level = roll_up("id_id", stand_in[source], stand_in[dest], window.values)
        assert len(level.source) <= most
        for name in VALUE_COLUMNS:
            if name != "min_rtt_us":
                assert level.values[name].sum() == whole.values[name].sum(), name
        for end in np.unique(np.concatenate((source, dest))).tolist():
            assert table.labels[stand_in[end]] in ancestry(table.labels[end])
