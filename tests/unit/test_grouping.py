import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from reducer.knowledge.owners import Owners
from reducer.matching import grouping
from reducer.matching.grouping import Parts, hashed, part_of, parts_for, split
from reducer.windows.rows import uniform_rows
from tests.flow_rows import acceptor_row, connector_row
from tests.rows import session_id, tcp_rows

NAMES = ("socket", "remote_address", "process", "drops", *grouping._KEY_COLUMNS)


@pytest.mark.parametrize(("rows", "parts"), [(0, 1), (1, 1), (10, 1), (11, 2), (20, 2), (21, 4), (40, 4), (41, 8)])
def test_as_many_parts_as_the_rows_need(monkeypatch, rows, parts):
    monkeypatch.setattr(grouping, "MOST_ROWS_OF_PART", 10)
    assert parts_for(rows) == parts


def test_every_row_is_in_one_part_with_the_other_end_of_its_flow():
    owners = Owners()
    owners.hello(session_id(0), intake_pb2.Host(name="host"))
    tables = []
    for begin in (0, 100):
        numbers = range(begin, begin + 100)
        told = tcp_rows(
            *(connector_row(local_port=40000 + number, socket=number) for number in numbers),
            *(acceptor_row(remote_port=40000 + number, socket=1000 + number) for number in numbers),
        )
        owner = owners.of(session_id(0), told["process"], told["cgroup"])
        tables.append(uniform_rows("tcp", told) | {"process": owner})
    parts = Parts(tables, owners.view(), 5, NAMES, 4)
    found = [parts.part(number) for number in range(4)]
    whole = Parts(tables, owners.view(), 5, NAMES).part(0)
    sockets = [part.rows["socket"].tolist() for part in found]
    assert sorted(socket for each in sockets for socket in each) == sorted(whole.rows["socket"].tolist())
    assert all(25 < len(each) < 200 for each in sockets)
    for part, told in zip(found, sockets, strict=True):
        assert {socket % 1000 for socket in told if socket < 1000} == {
            socket % 1000 for socket in told if socket >= 1000
        }
        assert told == [socket for socket in whole.rows["socket"].tolist() if socket in told], "in their order"
        assert (hashed(part.keys(np.arange(len(told))), 5) == part.hashes).all()
        of_whole = np.flatnonzero(np.isin(whole.rows["socket"], told))
        assert (part.rows["remote_address"] == whole.rows["remote_address"].reshape(-1, 2)[of_whole].ravel()).all()
        assert not part.rows["drops"].any()


def test_split_follows_the_parts_of_rows():
    hashes = np.arange(100, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    parts = split(np.arange(100), hashes, 8)
    assert len(parts) == 8
    assert all((part_of(hashes[these], 8) == number).all() for number, these in enumerate(parts))
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
