"""How far the two ends of flows agree on what was sent: a measure of the truth of all that only one end tells.

Only directions count of which both ends know the whole. While a flow lives, one end is behind the other; so what they
differ by is taken when the flow is forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.matching.flows import WHOLE, by_side, other

if TYPE_CHECKING:
    from reducer.matching.flows import FlowTable

_HALF = 32  # bits


class Agreement:
    """Payload bytes since the start.

    Attributes:
        bytes_of_both: emitted of directions that both ends tell of.
        bytes_apart: what sender and receiver differ by on these, over flows that are forgotten.

    """

    def __init__(self) -> None:
        self.bytes_of_both = 0
        self.bytes_apart = 0

    def emitted(self, flows: FlowTable, at: np.ndarray, amount: np.ndarray) -> None:
        """Note the bytes emitted in a window by direction, *at* as the index in the table."""
        self.bytes_of_both += int(amount[_told_by_both(flows, at)].sum())

    def forgotten(self, flows: FlowTable, slots: np.ndarray) -> None:
        """Note the flows that the table has just forgotten."""
        at = by_side(slots)
        at = at[_told_by_both(flows, at)]
        apart = flows.sender["bytes"][at] - flows.receiver["bytes"][at]
        self.bytes_apart += _sum(np.abs(apart))


def _sum(values: np.ndarray) -> int:
    """Return the sum of int64 values that are not negative, which may be beyond int64."""
    return (int((values >> _HALF).sum()) << _HALF) + int((values & ((1 << _HALF) - 1)).sum())


def _told_by_both(flows: FlowTable, at: np.ndarray) -> np.ndarray:
    whole = flows.knows[at] == WHOLE
    both: np.ndarray = whole & other(whole)
    return both
