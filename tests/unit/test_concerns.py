"""The concerns taken together: which are open, and that what they give is added up."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import empty_columns
from kernel_collector import concerns
from kernel_collector.concern import Concern, Kind, Surroundings
from kernel_collector.concerns import Concerns, joined, watched_on_packets
from kernel_collector.options import Settings


class One(Concern):
    def __init__(self, _surroundings):
        self.closed = False

    def read(self):
        return {"bins": empty_columns(2, "bins")}

    def early(self):
        return {"bins": empty_columns(1, "bins")}

    def processes(self):
        return np.array([3, 1], np.uint32)

    def fill(self, statistics):
        statistics.events_lost += 5

    def announce(self, entities):
        entities.dns_names.add(name="new")

    def remind(self, entities):
        entities.dns_names.add(name="all")

    def close(self):
        self.closed = True


class Other(Concern):
    def __init__(self, _surroundings):
        pass

    def read(self):
        return {"bins": empty_columns(3, "bins"), "drops": empty_columns(1, "drops")}


class Many(Concern):
    """Has three parts of rows to read."""

    def __init__(self, _surroundings):
        self.left = 3

    def read(self):
        self.left -= 1
        return {"bins": empty_columns(10 + self.left, "bins")}

    @property
    def more(self):
        return self.left > 0


def refuses(_surroundings):
    raise OSError(errno.EPERM, "not on this kernel")


def kind(name, opens, *, wanted=True, part=""):
    return Kind(name, "see to it", lambda _: wanted, opens, lambda *_: "", part)


@pytest.fixture
def opened(monkeypatch):
    def open_all(*kinds):
        monkeypatch.setattr(concerns, "KINDS", kinds)
        return Concerns(Surroundings(Settings(), frozenset(), None, None, None))

    return open_all


def test_a_refused_one_is_told_and_the_rest_runs(opened, caplog):
    all_ = opened(kind("One", One), kind("Refused", refuses), kind("Other", Other), kind("Unwanted", One, wanted=False))
    assert [type(each) for each in all_] == [One, Other]
    assert [record.getMessage() for record in caplog.records] == [
        "Refused is not watched, all else is: [Errno 1] not on this kernel; see to it"
    ]


def test_what_they_give_is_added_up(opened):
    all_ = opened(kind("One", One), kind("Other", Other))
    tables = all_.read()
    assert {name: len(columns["socket"]) for name, columns in tables.items()} == {"bins": 5, "drops": 1}
    assert {name: len(columns["socket"]) for name, columns in all_.early().items()} == {"bins": 1}
    assert np.concatenate(list(all_.processes())).tolist() == [3, 1]
    statistics = intake_pb2.CollectorStatistics(events_lost=2)
    all_.fill(statistics)
    assert statistics.events_lost == 7
    new, known = intake_pb2.Entities(), intake_pb2.Entities()
    all_.announce(new)
    all_.remind(known)
    assert ([name.name for name in new.dns_names], [name.name for name in known.dns_names]) == (["new"], ["all"])


def test_many_rows_are_read_in_parts_and_no_part_twice(opened, monkeypatch):
    monkeypatch.setattr(concerns, "ENOUGH_ROWS", 20)
    all_ = opened(kind("One", One), kind("Many", Many), kind("Other", Other))
    told = []
    more = True
    while more:
        tables = all_.read()
        told.append({name: len(columns["socket"]) for name, columns in tables.items()})
        more = all_.more
    assert told == [{"bins": 2 + 12 + 11}, {"bins": 10 + 3, "drops": 1}]
    assert len(all_.read()["bins"]["socket"]) == 2 + 9 + 3


def test_closing_closes_each(opened):
    all_ = opened(kind("One", One), kind("Other", Other))
    one, _ = all_
    all_.close()
    assert one.closed
    assert not list(all_)


def test_rows_of_several_keep_their_order():
    first, second = empty_columns(1, "drops"), empty_columns(2, "drops")
    first["packets"][:], second["packets"][:] = 1, [2, 3]
    assert joined([{"drops": first}, {}, {"drops": second}])["drops"]["packets"].tolist() == [1, 2, 3]
    assert joined([]) == {}


def test_only_what_is_wanted_looks_at_packets(monkeypatch):
    kinds = (kind("A", One, part="a"), kind("B", One, part="b", wanted=False), kind("C", One))
    monkeypatch.setattr(concerns, "KINDS", kinds)
    assert watched_on_packets(Settings()) == ["a"]
