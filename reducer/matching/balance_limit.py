"""How far what the two ends of a flow tell may be apart: so far that no sum of what is emitted leaves int64.

What an end is behind is what was emitted without it, and grows while it is silent. What an end told that was not
emitted is what the other has not told yet, of a moment; once it is beyond belief the rest will never be emitted.
"""

from __future__ import annotations

from typing import Final

import numpy as np

MOST_BEHIND: Final = 1 << 60
MOST_AHEAD: Final = 1 << 40
"""Of 2^21 flows, both directions, and of the rows of a window (`row_store.MOST_SUM`) that makes less than 2^63."""


class BalanceLimit:
    """Keeps balances within the limits.

    Attributes:
        cut: how many were not.

    """

    def __init__(self) -> None:
        self.cut = 0

    def keep(self, balance: np.ndarray) -> np.ndarray:
        """Return balances, int64, none of which is beyond the limits."""
        kept: np.ndarray = np.clip(balance, -MOST_BEHIND, MOST_AHEAD)
        self.cut += int(np.count_nonzero(kept != balance))
        return kept
