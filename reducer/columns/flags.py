"""Columns of a few bits each, several of which share a byte."""

from __future__ import annotations

import numpy as np


class Flags:
    """A byte an element, whose bits are given out to columns one after the other."""

    def __init__(self) -> None:
        self.packed = np.zeros(0, np.uint8)
        self._taken = 0

    def column(self, bits: int, dtype: type[np.generic], least: int = 0) -> Flag:
        """Return a column of the values from *least* on that fit into so many bits of those that are left."""
        self._taken += bits
        if self._taken > self.packed.itemsize * 8:
            raise ValueError(f"{self._taken} bits do not fit into a byte")
        return Flag(self, self._taken - bits, (1 << bits) - 1, dtype, least)

    def grow(self, by: int) -> None:
        """Add as many elements, all bits of which are 0."""
        self.packed = np.concatenate((self.packed, np.zeros(by, np.uint8)))


class Flag:
    """A column that `Flags` made."""

    def __init__(self, flags: Flags, shift: int, mask: int, dtype: type[np.generic], least: int) -> None:
        self._flags = flags
        self._shift, self._mask = np.uint8(shift), np.uint8(mask)
        self._others = np.uint8(~(mask << shift) & 0xFF)
        self._dtype, self._least = dtype, least

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        """Return the elements at these places."""
        found: np.ndarray = (self._flags.packed[at] >> self._shift & self._mask).astype(self._dtype)
        if self._least:
            found += self._least
        return found

    def __setitem__(self, at: np.ndarray | slice, values: np.ndarray | int) -> None:
        """Set the elements at these places; one that is told several times must be told the same."""
        packed = self._flags.packed
        told = (np.asarray(values, np.int8) - np.int8(self._least)).astype(np.uint8)
        packed[at] = (packed[at] & self._others) | (told << self._shift)
