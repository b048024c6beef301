from __future__ import annotations

import logging

import numpy as np
import pytest

from reducer.columns.series import EndTable
from reducer.rolling_up.budget import OTHER, REVIEW_WINDOWS, STEPS, Budget
from reducer.rolling_up.roll_up import roll_up

POD = {
    "workload.name": "checkout",
    "workload.uid": "u-1",
    "resolution_type": "K8S_CONTAINER",
    "process.name": "java",
    "container.name": "app",
    "image_version": "1.2",
    "namespace.name": "shop",
    "environment": "prod",
    "availability_zone": "eu-1a",
    "id": "node-7",
    "ip": "10.0.0.7",
    "pod": "checkout-5d9f",
}
ADDRESS = {
    "workload.name": "(unknown)",
    "resolution_type": "IP",
    "environment": "(no agent)",
    "availability_zone": "(unknown)",
    "id": "203.0.113.77",
    "ip": "203.0.113.77",
}


def labels(told):
    return tuple(sorted(told.items()))


def without(told, *names):
    return {name: value for name, value in told.items() if name not in names}


def ancestors(told):
    found = [labels(told)]
    for step in STEPS:
        found.append(step(found[-1]))
    return [dict(each) for each in found[1:]]


def test_a_pod_becomes_its_workload_namespace_cluster():
    workload = without(POD, "id", "ip", "pod")
    plain = without(workload, "process.name", "container.name", "image_version")
    namespace = {name: POD[name] for name in ("namespace.name", "environment", "availability_zone")}
    cluster = {name: POD[name] for name in ("environment", "availability_zone")}
    other = {"workload.name": OTHER}
    assert ancestors(POD) == [workload, plain, namespace | other, cluster | other, other]


@pytest.mark.parametrize(
    ("address", "network"), [("203.0.113.77", "203.0.113.0/24"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64")]
)
def test_an_address_without_a_name_becomes_its_network(address, network):
    found = ancestors(ADDRESS | {"id": address, "ip": address})
    assert found[0] == ADDRESS | {"id": network, "ip": network}
    assert found[1] == without(ADDRESS, "id", "ip")
    assert found[2:4] == [{"workload.name": OTHER, "environment": "(no agent)", "availability_zone": "(unknown)"}] * 2
    assert found[4] == {"workload.name": OTHER}
    without_ip = without(ADDRESS, "ip") | {"id": address}  # --disable-node-ip-field
    assert ancestors(without_ip)[0] == without(ADDRESS, "ip") | {"id": network}


def node(index, namespace="shop"):
    return labels(POD | {"id": f"n{index}", "ip": f"10.0.0.{index}", "pod": f"p{index}", "namespace.name": namespace})


class Window:
    """Pairs of ends with their packets, as a level, and what a budget makes of it."""

    def __init__(self, table, pairs):
        self.table = table
        self.source, self.dest = (np.array([table.intern(pair[side]) for pair in pairs], np.uint32) for side in (0, 1))
        self.values = {"packets": np.array([pair[2] for pair in pairs], np.int64)}

    def through(self, budget):
        level = roll_up("id_id", self.source, self.dest, self.values)
        stand_in = budget.fit(level, self.table)
        if stand_in is not None:
            level = roll_up("id_id", stand_in[self.source], stand_in[self.dest], self.values)
        of = [[dict(self.table.labels[end]) for end in ends] for ends in (level.source, level.dest)]
        assert level.values["packets"].sum() == self.values["packets"].sum()
        return list(zip(zip(*of, strict=True), level.values["packets"].tolist(), strict=True))


def pods_of(series):
    return {ends[0].get("pod") for ends, _ in series}


SERVER = labels({"workload.name": "db", "environment": "prod", "id": "s", "ip": "10.1.0.1"})


def test_within_the_budget_nothing_changes(caplog):
    table, budget = EndTable(), Budget(10)
    series = Window(table, [(node(index), SERVER, 1) for index in range(10)]).through(budget)
    assert pods_of(series) == {f"p{index}" for index in range(10)}
    assert (budget.series_rolled_up, caplog.records) == (0, [])


def test_the_least_active_are_rolled_up_and_counted(caplog):
    caplog.set_level(logging.WARNING)
    table, budget = EndTable(), Budget(10)
    series = Window(table, [(node(index), SERVER, 100 + index) for index in range(20)]).through(budget)
    assert len(series) == 9  # room for one more
    assert pods_of(series) == {None, *(f"p{index}" for index in range(12, 20))}
    assert {ends[0]["workload.name"] for ends, _ in series} == {"checkout"}
    assert budget.series_rolled_up == 11
    Window(table, [(node(index), SERVER, 100 + index) for index in range(20)]).through(budget)
    assert [record.message for record in caplog.records] == [
        "level id_id has 20 series, more than 10 (--series-limit): the least active are rolled up"
    ]


def test_what_the_first_step_does_not_save_the_next_does():
    table = EndTable()
    window = [(node(index, f"namespace-{index}"), node(index, f"namespace-{index}"), 1) for index in range(30)]
    for most in (29, 12, 3, 2, 1):
        assert 1 <= len(Window(table, window).through(Budget(most))) <= most


def test_the_most_active_are_left_alone_as_long_as_others_make_room():
    table = EndTable()
    apart = [(node(index, f"namespace-{index}"), SERVER, 1 + 99 * (index == 7)) for index in range(64)]
    series = Window(table, apart).through(Budget(5))
    assert "p7" in pods_of(series)
    assert len(series) <= 5
    assert pods_of(Window(table, apart).through(Budget(1))) == {None}


def test_series_stay_as_they_are_though_activity_changes():
    table, budget = EndTable(), Budget(10)
    first = Window(table, [(node(index), SERVER, 100 + index) for index in range(20)]).through(budget)
    for turn in range(REVIEW_WINDOWS - 3):
        packets = [(node(index), SERVER, 100 + (index + turn) % 20) for index in range(20)]
        assert pods_of(Window(table, packets).through(budget)) == pods_of(first)
    fewer = Window(table, [(node(index), SERVER, 1) for index in range(4)]).through(budget)
    assert pods_of(fewer) == {None}  # they were rolled up, and stay so though there is room


def test_after_a_review_the_most_active_are_told_apart_again():
    table, budget = EndTable(), Budget(10)
    Window(table, [(node(index), SERVER, 100 + index) for index in range(20)]).through(budget)
    exchanged = [(node(index), SERVER, 1 << (20 - index)) for index in range(20)]
    windows = [pods_of(Window(table, exchanged).through(budget)) for _ in range(REVIEW_WINDOWS)]
    assert windows[0] == {None, *(f"p{index}" for index in range(12, 20))}
    assert windows[-1] == {None, *(f"p{index}" for index in range(8))}


def test_a_review_lets_all_go_that_there_is_room_for(caplog):
    table, budget = EndTable(), Budget(10)
    Window(table, [(node(index), SERVER, 1 + (index >= 5)) for index in range(20)]).through(budget)
    few = [(node(index), SERVER, 1) for index in range(5)]
    windows = [pods_of(Window(table, few).through(budget)) for _ in range(REVIEW_WINDOWS + 1)]
    assert windows[0] == {None}
    assert windows[-1] == {f"p{index}" for index in range(5)}


def test_decisions_outlive_the_table_of_ends():
    table, budget = EndTable(), Budget(10)
    pairs = [(node(index), SERVER, 100 + index) for index in range(20)]
    before = pods_of(Window(table, pairs).through(budget))
    table.clear()
    pairs.reverse()
    assert pods_of(Window(table, [(source, dest, 7) for source, dest, _ in pairs]).through(budget)) == before
