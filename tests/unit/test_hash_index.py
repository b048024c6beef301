import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reducer.columns import hash_index as module
from reducer.columns.hash_index import HashIndex

# Near each other and far apart, so that many want the same place.
HASHES = st.lists(st.one_of(st.integers(1, 40), st.integers(2**64 - 3, 2**64 - 1), st.integers(1, 2**64 - 1)))


@pytest.fixture(autouse=True)
def blocks_are_small(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 16)


class Numbers:
    """What the index should say, as a dictionary."""

    def __init__(self):
        self.index = HashIndex()
        self.known = {}
        self.free = []
        self.given = 0

    def allocate(self, count):
        numbers = [self.free.pop() if self.free else self.next() for _ in range(count)]
        return np.array(numbers, np.int64)

    def next(self):
        self.given += 1
        return self.given - 1

    def add(self, hashes):
        numbers, first = self.index.find_or_add(np.array(hashes, np.uint64), self.allocate)
        new = [row for row, each in enumerate(hashes) if each not in self.known and each not in hashes[:row]]
        assert first.tolist() == new
        for each, number in zip(hashes, numbers.tolist(), strict=True):
            assert self.known.setdefault(each, number) == number
        assert len(set(self.known.values())) == len(self.known) == len(self.index)

    def forget(self, hashes):
        gone = [self.known.pop(each) for each in set(hashes) if each in self.known]
        self.index.forget(np.array(gone, np.int64))
        self.free += gone

    def check(self, hashes):
        found = self.index.find(np.array(hashes, np.uint64))
        assert found.tolist() == [self.known.get(each, -1) for each in hashes]
        assert self.index.numbers().tolist() == sorted(self.known.values())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(HASHES, HASHES)))
def test_it_is_a_dictionary(steps):
    numbers = Numbers()
    for added, forgotten in steps:
        numbers.add(added)
        numbers.check(added + forgotten)
        numbers.forget(forgotten)
        numbers.check(added + forgotten)


def test_numbers_are_asked_for_in_the_order_of_first_elements():
    index, hashes = HashIndex(), np.arange(1000, 0, -1).astype(np.uint64)
    numbers, first = index.find_or_add(np.repeat(hashes, 2), lambda count: np.arange(len(index), len(index) + count))
    assert numbers.tolist() == np.repeat(np.arange(1000), 2).tolist()
    assert first.tolist() == list(range(0, 2000, 2))


def test_forgotten_hashes_do_not_fill_the_table():
    index = HashIndex()
    hashes = np.random.default_rng(0).integers(1, 1 << 63, (50, 100)).astype(np.uint64)
    for some in hashes:
        numbers, _ = index.find_or_add(some, np.arange)
        index.forget(numbers)
    assert len(index) == 0
    assert len(index._table) <= 1024 < hashes.size


def test_the_hash_of_what_is_forgotten_is_taken_for_another_one():
    index = HashIndex()
    numbers, _ = index.find_or_add(np.array([0, 1, 0], np.uint64), np.arange)
    assert numbers.tolist() == [0, 0, 0]
