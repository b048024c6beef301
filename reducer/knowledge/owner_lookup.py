"""The owners of processes in cgroups, found for all rows of a batch at once."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST_BITS = 8
# Drawn anew each time, so that nobody can choose ids that are taken for one another.
_MULTIPLIERS = [np.uint64(secrets.randbits(64) | 1) for _ in range(2)]


class OwnerLookup:
    """The owners of processes in cgroups that rows asked for last: a pair has one place, where the last one stays."""

    def __init__(self, size: int) -> None:
        bits = max(_LEAST_BITS, (4 * size).bit_length())
        self._shift = np.uint64(64 - bits)
        self._process = np.zeros(1 << bits, np.uint32)
        self._cgroup = np.zeros(1 << bits, np.uint64)
        self._owner = np.zeros(1 << bits, np.uint32)  # 0, which no owner is: the place is free

    def find(self, process: np.ndarray, cgroup: np.ndarray, resolve: Callable[[int, int], int]) -> np.ndarray:
        """Return the owners of rows; *resolve* tells that of a process and cgroup where it is not at its place."""
        marks = process * _MULTIPLIERS[0] ^ cgroup * _MULTIPLIERS[1]
        at = marks >> self._shift
        owner: np.ndarray = self._owner[at]
        missing = (self._process[at] != process) | (self._cgroup[at] != cgroup) | (owner == 0)
        rows = np.flatnonzero(missing)
        if len(rows):
            _, first, which = np.unique(marks[rows], return_index=True, return_inverse=True)
            pairs = rows[first]
            found = [resolve(*ids) for ids in zip(process[pairs].tolist(), cgroup[pairs].tolist(), strict=True)]
            resolved = np.array(found, np.uint32)
            self._process[at[pairs]], self._cgroup[at[pairs]] = process[pairs], cgroup[pairs]
            self._owner[at[pairs]] = resolved
            owner[rows] = resolved[which]
        return owner
