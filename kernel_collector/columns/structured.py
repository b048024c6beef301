"""Structured rows copied whole: numpy else copies them field by field, ten times slower.

`take`, `compress` and `view` do so by themselves; these are for what they cannot do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def opaque(rows: np.ndarray) -> np.ndarray:
    """Return a view of *rows* as bytes, to be assigned to and from."""
    return rows.view(f"V{rows.dtype.itemsize}")


def concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays of one dtype as one."""
    return np.concatenate([opaque(part) for part in parts]).view(parts[0].dtype)
