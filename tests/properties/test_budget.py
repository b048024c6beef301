"""The law of the budget: whatever there is and however small it is, sums stay, and it is kept."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer.columns.series import EndTable
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.rolling_up.budget import STEPS, Budget
from reducer.rolling_up.roll_up import roll_up

LAW = settings(deadline=None, max_examples=80)


@dataclass(frozen=True)
class LabelledWindow:
    """Rows with the labels of both ends and value columns, as the pipeline has them before it rolls them up."""

    sources: list
    dests: list
    values: dict


def _end_labels():
    names = st.sampled_from("abc")
    node = st.fixed_dictionaries(
        {
            "workload.name": names,
            "resolution_type": st.sampled_from(("PROCESS", "K8S_CONTAINER", "DNS")),
            "environment": names,
            "id": st.integers(0, 9).map(str),
        },
        optional=dict.fromkeys(("process.name", "namespace.name", "availability_zone", "pod", "image_version"), names),
    )
    address = st.integers(0, 2**32 - 1) | st.integers(0x0A000000, 0x0A0000FF) | st.integers(2**127, 2**128 - 1)
    unnamed = address.map(lambda number: str(ipaddress.ip_address(number))).map(
        lambda text: {"workload.name": "(unknown)", "resolution_type": "IP", "id": text, "ip": text}
    )
    return (node | unnamed).map(lambda labels: tuple(sorted(labels.items())))


@st.composite
def labelled_windows(draw):
    """Some windows of rows between the same few dozen ends."""
    ends = draw(st.lists(_end_labels(), min_size=2, max_size=40, unique=True))
    windows = []
    for _ in range(draw(st.integers(1, 14))):
        rows = draw(st.integers(1, 60))
        which = st.lists(st.sampled_from(ends), min_size=rows, max_size=rows)
        amounts = st.lists(st.integers(0, 1 << 40), min_size=rows, max_size=rows)
        columns = draw(st.sets(st.sampled_from(("bytes", "packets", "opened", "udp_bytes")), min_size=1))
        values = {name: np.array(draw(amounts), np.int64) for name in sorted(columns)}
        windows.append(LabelledWindow(draw(which), draw(which), values))
    return windows


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
