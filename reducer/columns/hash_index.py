"""Finds small numbers by 64-bit hashes, many at once: an open-addressed table in numpy.

A sort of the hashes would cost several times as much, and leave what belongs together scattered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_EMPTY = -1
_LEAST_BITS = 8
# Of the table's places, at most so many are taken: beyond, what is looked for is seldom where it is looked for first.
_MOST_TAKEN = 0.6
# No number has it: a forgotten number's place stays taken until the table is made anew.
_FORGOTTEN = np.uint64(0)
# So many hashes are looked up at a time: what is in between stays in the processor's cache.
_BLOCK = 1 << 16


class HashIndex:
    """Numbers by hash. Hashes must be seeded by a secret where others choose what is hashed."""

    def __init__(self, room: int = 0) -> None:
        """Make one that takes *room* hashes before its table has to be made anew."""
        self._bits = _bits_for(room)
        self._table = np.full(1 << self._bits, _EMPTY, np.int32)
        self._hash = np.zeros(1, np.uint64)  # by number
        self._taken = 0
        self._known = 0

    def __len__(self) -> int:
        return self._known

    @property
    def nbytes(self) -> int:
        """Return how many bytes it takes."""
        return self._table.nbytes + self._hash.nbytes

    def next(self, count: int) -> np.ndarray:
        """Return the next *count* numbers, where none is ever forgotten."""
        return np.arange(self._known, self._known + count)

    def numbers(self) -> np.ndarray:
        """Return all numbers, ascending."""
        return np.flatnonzero(self._hash != _FORGOTTEN)

    def hashes(self, numbers: np.ndarray) -> np.ndarray:
        """Return the hashes of *numbers*, uint64."""
        found: np.ndarray = self._hash[numbers]
        return found

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the numbers of *hashes*, int64, -1 where there is none."""
        found = np.empty(len(hashes), np.int64)
        for begin in range(0, len(hashes), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            found[block] = self._find(_without_forgotten(hashes[block]))
        return found

    def find_or_add(self, hashes: np.ndarray, allocate: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of *hashes*, int64, and the elements that are the first with a new hash, ascending.

        Args:
            hashes: may repeat.
            allocate: given how many hashes are new, returns a number for each, in the order of their first elements;
                called several times.

        """
        found, firsts = np.empty(len(hashes), np.int64), [np.empty(0, np.int64)]
        for begin in range(0, len(hashes), _BLOCK):
            block = _without_forgotten(hashes[begin : begin + _BLOCK])
            numbers = self._find(block)
            missing = np.flatnonzero(numbers < 0)
            if len(missing):
                numbers[missing], first = self._add(block[missing], allocate)
                firsts.append(begin + missing[first])
            found[begin : begin + _BLOCK] = numbers
        return found, np.concatenate(firsts)

    def forget(self, numbers: np.ndarray) -> None:
        """Forget these *numbers*, which may be given again."""
        self._hash[numbers] = _FORGOTTEN
        self._known -= len(numbers)

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        place = self._place(hashes)
        there = self._table[place]
        found: np.ndarray = there.astype(np.int64)
        # What is not at its place is further on, up to the next place that is empty.
        rows = np.flatnonzero((self._hash[there] != hashes) & (there != _EMPTY))
        while len(rows):
            place[rows] = (place[rows] + 1) & (len(self._table) - 1)
            there = self._table[place[rows]]
            found[rows] = there
            rows = rows[(self._hash[there] != hashes[rows]) & (there != _EMPTY)]
        return found

    def _add(self, hashes: np.ndarray, allocate: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Add *hashes*, none of which is known; return their numbers, and which are the first of each."""
        self._make_room(len(hashes))
        claimed, place = self._claim(hashes)
        first = np.flatnonzero(claimed == np.arange(len(hashes)))
        numbers = allocate(len(first))
        number_of = np.empty(len(hashes), np.int64)
        number_of[first] = numbers
        self._table[place[first]] = numbers
        self._remember(numbers, hashes[first])
        self._taken += len(first)
        self._known += len(first)
        return number_of[claimed], first

    def _claim(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take a place for each different one of *hashes*, none of which is known.

        Returns:
            Of each element the first one with the same hash, and its place.

        """
        claimed, place = np.empty(len(hashes), np.int64), self._place(hashes)
        rows = np.arange(len(hashes))
        while len(rows):
            at = place[rows]
            free = np.flatnonzero(self._table[at] == _EMPTY)[::-1]
            # Of several elements the last that is written stays: the first one.
            self._table[at[free]] = _EMPTY - 1 - rows[free]
            there = _EMPTY - 1 - self._table[at]
            same = (there >= 0) & (hashes[np.maximum(there, 0)] == hashes[rows])
            claimed[rows[same]] = there[same]
            rows = rows[~same]
            place[rows] = (place[rows] + 1) & (len(self._table) - 1)
        return claimed, place

    def _place(self, hashes: np.ndarray) -> np.ndarray:
        place: np.ndarray = (hashes >> np.uint64(64 - self._bits)).astype(np.int64)
        return place

    def _remember(self, numbers: np.ndarray, hashes: np.ndarray) -> None:
        lacking = int(numbers.max()) + 1 - len(self._hash) if len(numbers) else 0
        if lacking > 0:
            more = np.zeros(max(lacking, len(self._hash) // 16), np.uint64)
            self._hash = np.concatenate((self._hash, more))
        self._hash[numbers] = hashes

    def _make_room(self, more: int) -> None:
        """Make the table anew, without those that are forgotten, where so many *more* do not fit."""
        if self._taken + more <= _MOST_TAKEN * len(self._table):
            return
        self._bits = _bits_for(self._known + more)
        self._table = np.full(1 << self._bits, _EMPTY, np.int32)
        numbers = self.numbers()
        for begin in range(0, len(numbers), _BLOCK):
            block = numbers[begin : begin + _BLOCK]
            self._table[self._claim(self._hash[block])[1]] = block
        self._taken = len(numbers)


def _bits_for(count: int) -> int:
    return max(_LEAST_BITS, int(count / _MOST_TAKEN).bit_length())


def _without_forgotten(hashes: np.ndarray) -> np.ndarray:
    """Return *hashes*, of which none is that of what is forgotten."""
    forgotten = hashes == _FORGOTTEN
    return np.where(forgotten, np.uint64(1), hashes) if forgotten.any() else hashes
