import numpy as np

from reducer.flows import CONNECTOR_UNKNOWN, IDLE_WINDOWS, FlowTable, by_side, other

NONE = np.empty(0, np.int64)


def keys(count, first=0):
    return np.arange(6 * count, dtype=np.uint64).reshape(6, count) + np.uint64(first)


def add(flows, *hashes):
    return flows.find_or_add(np.array(hashes, np.uint64), keys(len(hashes)))


def test_flows_are_found_by_their_hash():
    flows = FlowTable()
    first = add(flows, 10, 30, 50)
    second = add(flows, 5, 30, 40, 50, 60)
    assert second[[1, 3]].tolist() == first[1:].tolist()
    assert len(flows) == len({*first.tolist(), *second.tolist()}) == 6
    assert add(flows, 5, 10, 30, 40, 50, 60).tolist() == [second[0], first[0], first[1], second[2], first[2], second[4]]
    assert (flows.key[:, first] == keys(3)).all()


def test_the_memory_grows_and_keeps_what_it_had():
    flows = FlowTable()
    slots = add(flows, *range(1, 1001))
    flows.owner[by_side(slots)] = np.arange(2000)
    flows.sender["bytes"][by_side(slots)] = -np.arange(2000)
    add(flows, *range(1001, 5000))
    assert add(flows, *range(1, 1001)).tolist() == slots.tolist()
    assert flows.owner[by_side(slots)].tolist() == list(range(2000))
    assert flows.sender["bytes"][by_side(slots)].tolist() == [-index for index in range(2000)]


def test_slots_of_forgotten_flows_are_used_again_clean():
    flows = FlowTable()
    slots = add(flows, *range(1, 1025))
    columns = [flows.owner, flows.knows, flows.done, *flows.sender.values(), *flows.receiver.values()]
    for column in (*columns, flows.connector, flows.pending):
        column[:] = 1
    flows.forget(0, slots, NONE)
    assert len(flows) == 0
    again = add(flows, *range(1, 1025))
    assert sorted(again.tolist()) == sorted(slots.tolist())
    assert not any(column.any() for column in columns)
    assert (flows.connector == CONNECTOR_UNKNOWN).all()
    assert not flows.pending.any()


def test_idle_flows_are_forgotten():
    flows = FlowTable()
    slots = add(flows, 1, 2)
    flows.last_seen[slots] = [100, 101]
    flows.forget(100 + IDLE_WINDOWS, NONE, NONE)
    assert flows.slots.tolist() == [slots[1]]
    assert flows.untracked == 0


def test_beyond_the_bound_those_idle_the_longest_go():
    flows = FlowTable(most_flows=2)
    slots = add(flows, 1, 2, 3, 4)
    flows.last_seen[slots] = [7, 5, 8, 6]
    flows.forget(8, NONE, NONE)
    assert sorted(flows.slots.tolist()) == sorted(slots[[0, 2]].tolist())
    assert flows.untracked == 2


def test_sides():
    assert by_side(np.array([3, 0])).tolist() == [6, 7, 0, 1]
    assert other(np.array([1, 2, 3, 4])).tolist() == [2, 1, 4, 3]
