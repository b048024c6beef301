"""Fingerprints of rows: 64 bits that stand for several columns, so that wide keys are sorted and searched as numbers.

The multipliers are drawn anew in each process: whoever chooses the values (a process its name, a peer its address)
cannot choose two that share a fingerprint.
"""

from __future__ import annotations

import secrets

import numpy as np

_MULTIPLIERS = [np.uint64(secrets.randbits(64) | 1) for _ in range(8)]
_HALF = np.uint64(32)


def fingerprints(*columns: np.ndarray) -> np.ndarray:
    """Return a uint64 a row of *columns*: at most eight words a row, unsigned integers or 16 bytes (two words)."""
    result = np.zeros(len(columns[0]), np.uint64)
    words = (word for column in columns for word in _words(column))
    for word, multiplier in zip(words, _MULTIPLIERS, strict=False):
        result ^= word
        result *= multiplier
        result ^= result >> _HALF
    return result


def _words(column: np.ndarray) -> list[np.ndarray]:
    if column.dtype.kind == "u":
        return [column]
    halves = np.ascontiguousarray(column).view("<u8").reshape(len(column), 2)
    return [halves[:, 0], halves[:, 1]]
