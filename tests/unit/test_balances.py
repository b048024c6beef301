import numpy as np
import pytest

from reducer.balances import BalancesError, dump, load
from reducer.flows import BASELINE, COUNTERS, FlowTable, by_side
from reducer.match import hashed

SEED, WINDOW = 5, 30


def table(flows=4):
    made = FlowTable()
    keys = np.arange(6 * flows, dtype=np.uint64).reshape(6, flows)
    hashes = hashed(keys, SEED)
    order = np.argsort(hashes)
    slots = np.empty(flows, np.int64)
    slots[order] = made.find_or_add(hashes[order], keys, order)
    return made, keys, slots


def test_flows_that_are_apart_are_stored_and_no_others():
    flows, keys, slots = table(flows=12)
    for index, counter in enumerate(COUNTERS):
        flows.sender[counter.name][2 * slots[index]] = -7 - index
        flows.receiver[counter.name][2 * slots[index + 5] + 1] = 8 + index
    flows.knows[2 * slots[10] + 1] = BASELINE
    flows.connector[slots[1]] = 1
    flows.pending[slots[2]] = True
    data = dump(flows, 1230)
    again = FlowTable()
    assert load(data, again, WINDOW, seed=SEED + 1) == 1230
    assert len(again) == 11
    hashes = hashed(keys[:, :11], SEED + 1)
    order = np.argsort(hashes)
    found = np.empty(11, np.int64)
    found[order] = again.find_or_add(hashes[order], keys, order)
    assert len(again) == 11
    assert (again.key[:, found] == keys[:, :11]).all()
    for counter in COUNTERS:
        for before, after in ((flows.sender, again.sender), (flows.receiver, again.receiver)):
            assert (before[counter.name][by_side(slots[:11])] == after[counter.name][by_side(found)]).all()
    assert again.knows[2 * found[10] + 1] == BASELINE
    assert again.connector[found].tolist()[:2] == [-1, 1]
    assert again.pending[found].tolist() == [index == 2 for index in range(11)]
    assert (again.last_seen[found] == 1230 // WINDOW).all()


def test_an_empty_memory():
    flows, _, _ = table()
    assert load(dump(flows, 30), FlowTable(), WINDOW, SEED) == 30


@pytest.mark.parametrize("damage", [0, 17, 20, 25, 40, -1])
def test_damaged_bytes_are_refused(damage):
    flows, _, slots = table()
    flows.sender["bytes"][slots] = 1
    data = bytearray(dump(flows, 30))
    data[damage] ^= 0x40
    with pytest.raises(BalancesError):
        load(bytes(data), FlowTable(), WINDOW, SEED)


@pytest.mark.parametrize("length", [0, 5, 29, 100])
def test_cut_bytes_are_refused(length):
    flows, _, _ = table()
    with pytest.raises(BalancesError):
        load(dump(flows, 30)[:length], FlowTable(), WINDOW, SEED)


def test_another_version_says_so():
    flows, _, _ = table()
    data = bytearray(dump(flows, 30))
    data[17] += 1
    with pytest.raises(BalancesError, match="version 2"):
        load(bytes(data), FlowTable(), WINDOW, SEED)
