import numpy as np

from reducer.matching.flows import CONNECTOR_UNKNOWN, IDLE_WINDOWS, FlowTable, by_side, other

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
    assert (flows.keys(first) == keys(3)).all()


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
    for column in columns:
        column[by_side(slots)] = 1
    flows.connector[:] = flows.pending[:] = 1
    flows.forget(0, slots, NONE)
    assert len(flows) == 0
    again = add(flows, *range(1, 1025))
    assert sorted(again.tolist()) == sorted(slots.tolist())
    assert not any(column[by_side(again)].any() for column in columns)
    assert (flows.connector[again] == CONNECTOR_UNKNOWN).all()
    assert not flows.pending[again].any()


def test_words_of_keys_that_are_zero_take_no_memory_until_one_is_not():
    flows = FlowTable()
    narrow, wide = np.zeros((6, 1), np.uint64), np.arange(6, dtype=np.uint64).reshape(6, 1)
    narrow[1] = 7
    first = flows.find_or_add(np.array([10], np.uint64), narrow)
    few_bytes = flows.bytes_per_flow()
    second = flows.find_or_add(np.array([11], np.uint64), wide)
    assert flows.bytes_per_flow() > few_bytes / 2
    assert (flows.keys(np.concatenate((first, second))) == np.concatenate((narrow, wide), axis=1)).all()


def test_a_flow_takes_little_memory():
    flows = FlowTable()
    ipv4 = np.zeros((6, 1_000_000), np.uint64)
    ipv4[[1, 3, 4]] = 1
    flows.find_or_add(np.arange(1, 1_000_001).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15), ipv4)
    assert flows.bytes_per_flow() < 100


def test_owners_are_not_kept_for_flows_that_are_forgotten():
    flows = FlowTable()
    slots = add(flows, 1, 2)
    flows.owner[by_side(slots)] = [3, 4, 5, 6]
    flows.forget(0, slots[:1], NONE)
    assert np.unique(flows.owner).tolist() == [0, 5, 6]


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
