import numpy as np
import pytest

from reducer.matching.balances import BalancesError, dump, load
from reducer.matching.flows import BASELINE, COUNTERS, by_side
from reducer.matching.grouping import hashed
from reducer.matching.memory import Matcher

WINDOW = 30


def memory(flows=4):
    """Return a matcher that remembers flows, their keys and their slots."""
    made = Matcher()
    keys = np.arange(6 * flows, dtype=np.uint64).reshape(6, flows)
    hashes = hashed(keys, made.seed)
    order = np.argsort(hashes)
    slots = np.empty(flows, np.int64)
    slots[order] = made.flows.find_or_add(hashes[order], keys[:, order])
    return made, keys, slots


def test_flows_that_are_apart_are_stored_and_no_others():
    matcher, keys, slots = memory(flows=12)
    flows = matcher.flows
    for index, counter in enumerate(COUNTERS):
        flows.sender[counter.name][2 * slots[[index]]] = -7 - index
        flows.receiver[counter.name][2 * slots[[index + 5]] + 1] = 8 + index
    flows.knows[2 * slots[10] + 1] = BASELINE
    flows.connector[slots[1]] = 1
    flows.pending[slots[2]] = True
    data = dump(matcher, 1230)
    loaded = Matcher()
    again = loaded.flows
    assert load(data, loaded, WINDOW) == 1230
    assert len(again) == 11
    hashes = hashed(keys[:, :11], loaded.seed)
    order = np.argsort(hashes)
    found = np.empty(11, np.int64)
    found[order] = again.find_or_add(hashes[order], keys[:, order])
    assert len(again) == 11
    assert (again.keys(found) == keys[:, :11]).all()
    for counter in COUNTERS:
        for before, after in ((flows.sender, again.sender), (flows.receiver, again.receiver)):
            assert (before[counter.name][by_side(slots[:11])] == after[counter.name][by_side(found)]).all()
    assert again.knows[2 * found[10] + 1] == BASELINE
    assert again.connector[found].tolist()[:2] == [-1, 1]
    assert again.pending[found].tolist() == [index == 2 for index in range(11)]
    assert (again.last_seen[found] == 1230 // WINDOW).all()


def test_balances_of_requests_find_their_flow_again():
    matcher, keys, slots = memory(flows=5)
    requests = matcher.requests
    requests.at = 2 * slots[[3, 1, 3]] + np.array([1, 0, 0])
    requests.code, requests.client = np.array([7, 8, 9], np.uint32), np.array([-1, 0, 5])
    requests.server = np.array([0, 3, -4])
    matcher.flows.asks[2 * slots[1]] = True
    loaded = Matcher()
    load(dump(matcher, 30), loaded, WINDOW)
    assert len(loaded.flows) == 2
    again = loaded.requests
    flow = [keys[0].tolist().index(word) for word in loaded.flows.keys(again.at >> 1)[0].tolist()]
    told = zip(flow, again.at & 1, again.code, again.client, again.server, strict=True)
    assert sorted(tuple(int(value) for value in each) for each in told) == [
        (1, 0, 8, 0, 3),
        (3, 0, 9, 5, -4),
        (3, 1, 7, -1, 0),
    ]
    assert loaded.flows.asks[again.at].tolist() == [False, True, False]


def test_an_empty_memory():
    matcher, _, _ = memory()
    assert load(dump(matcher, 30), Matcher(), WINDOW) == 30


@pytest.mark.parametrize("damage", [0, 17, 20, 25, 40, -1])
def test_damaged_bytes_are_refused(damage):
    matcher, _, slots = memory()
    matcher.flows.sender["bytes"][slots] = 1
    data = bytearray(dump(matcher, 30))
    data[damage] ^= 0x40
    with pytest.raises(BalancesError):
        load(bytes(data), Matcher(), WINDOW)


@pytest.mark.parametrize("length", [0, 5, 29, 100])
def test_cut_bytes_are_refused(length):
    matcher, _, _ = memory()
    with pytest.raises(BalancesError):
        load(dump(matcher, 30)[:length], Matcher(), WINDOW)


def test_another_version_says_so():
    matcher, _, _ = memory()
    data = bytearray(dump(matcher, 30))
    data[17] += 1
    with pytest.raises(BalancesError, match="version 3"):
        load(bytes(data), Matcher(), WINDOW)
