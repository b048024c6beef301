"""Columns of int64 in less memory: most values are small, and the few that are not stand apart."""

from __future__ import annotations

import numpy as np


class Narrow:
    """A column of int64, each element of which takes as much as one of *dtype*, a signed type, if its value fits."""

    def __init__(self, dtype: type[np.signedinteger]) -> None:
        limits = np.iinfo(dtype)
        self._least, self._greatest = limits.min + 1, limits.max
        self._mark = limits.min  # of what stands apart
        self._small = np.zeros(0, dtype)
        self._at, self._large = np.empty(0, np.int64), np.empty(0, np.int64)  # by ascending place

    def __getitem__(self, at: np.ndarray) -> np.ndarray:
        """Return the elements at these places, int64."""
        values: np.ndarray = self._small[at].astype(np.int64)
        if len(self._at):
            apart = np.flatnonzero(values == self._mark)
            values[apart] = self._large[np.searchsorted(self._at, at[apart])]
        return values

    def __setitem__(self, at: np.ndarray, values: np.ndarray | int) -> None:
        """Set the elements at these places, each of which is told once."""
        values = np.broadcast_to(np.asarray(values, np.int64), len(at))
        if len(self._at):
            before = np.searchsorted(self._at, at[self._small[at] == self._mark])
            if len(before):
                self._at, self._large = np.delete(self._at, before), np.delete(self._large, before)
        apart = np.flatnonzero((values < self._least) | (values > self._greatest))
        if not len(apart):
            self._small[at] = values
            return
        apart = apart[np.argsort(at[apart])]
        self._small[at] = values
        self._small[at[apart]] = self._mark
        after = np.searchsorted(self._at, at[apart])
        self._at, self._large = np.insert(self._at, after, at[apart]), np.insert(self._large, after, values[apart])

    def is_set(self) -> np.ndarray:
        """Return which elements are not 0."""
        some: np.ndarray = self._small != 0
        return some

    def grow(self, by: int) -> None:
        """Add as many elements of 0."""
        self._small = np.concatenate((self._small, np.zeros(by, self._small.dtype)))

    @property
    def nbytes(self) -> int:
        """Return how many bytes it takes."""
        return self._small.nbytes + self._at.nbytes + self._large.nbytes
