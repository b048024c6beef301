"""Sorted keys: what is found among them, and where a group of equal ones begins."""

from __future__ import annotations

import numpy as np


def find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of *wanted* are in the sorted *keys*, and where; where not, the index means nothing."""
    if not len(keys):
        return np.zeros(len(wanted), bool), np.zeros(len(wanted), np.intp)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[at] == wanted, at


def begins_group(keys: np.ndarray) -> np.ndarray:
    """Return which of the sorted *keys* differ from the one before."""
    begins = np.ones(len(keys), bool)
    begins[1:] = keys[1:] != keys[:-1]
    return begins
