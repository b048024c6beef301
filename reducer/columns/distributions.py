"""Latencies by bin: which bin a time is in, and what the bins of a series tell: quantiles, least, greatest.

Bins are those of BinKind in intake.proto, eight to a doubling. A time is taken to be the geometric middle of its bin,
which is off by 2^(1/16) - 1 = 4.4% at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from reducer.columns.cells import Bins

BINS_A_DOUBLING = 8
# Bin 0 begins at 2^-30 s.
FIRST_DOUBLING = -30
# 2^34 s: what claims to be longer is garbage.
HIGHEST_BIN = 511
MICROSECOND = 1e-6


def bin_of_us(us: np.ndarray) -> np.ndarray:
    """Return the bins, int64, of times in microseconds."""
    seconds = np.maximum(us * MICROSECOND, 2.0**FIRST_DOUBLING)
    bins = np.floor(BINS_A_DOUBLING * (np.log2(seconds) - FIRST_DOUBLING)).astype(np.int64)
    capped: np.ndarray = np.minimum(bins, HIGHEST_BIN)
    return capped


def middle(bins: np.ndarray) -> np.ndarray:
    """Return the geometric middle of each bin, seconds."""
    seconds: np.ndarray = np.exp2((bins + 0.5) / BINS_A_DOUBLING + FIRST_DOUBLING)
    return seconds


class Distributions(NamedTuple):
    """Bins by place: the slice of a place's bins begins at `first`, and has `size` elements.

    Attributes:
        place: ascending, each once.
        first: int64.
        size: int64.
        readings: how many there are, int64.

    """

    place: np.ndarray
    first: np.ndarray
    size: np.ndarray
    readings: np.ndarray


def distributions(bins: Bins) -> Distributions:
    """Return where the bins of each place are."""
    new = np.ones(len(bins), bool)
    new[1:] = bins.place[1:] != bins.place[:-1]
    first = np.flatnonzero(new)
    size = np.diff(np.append(first, len(bins)))
    readings = np.add.reduceat(bins.amount, first) if len(first) else np.empty(0, np.int64)
    return Distributions(bins.place[first], first, size, readings)


def quantiles(bins: Bins, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the places, and of each the time, seconds, that *share* of its readings are below.

    Between the two readings next to it the time is interpolated, as numpy.quantile does by default.
    """
    by_place = distributions(bins)
    until = np.cumsum(bins.amount)
    before = (until - bins.amount)[by_place.first]
    rank = (by_place.readings - 1) * share
    lower = np.floor(rank).astype(np.int64)
    upper = np.minimum(lower + 1, by_place.readings - 1)
    low, high = (middle(bins.bin[np.searchsorted(until, before + each, "right")]) for each in (lower, upper))
    return by_place.place, low + (high - low) * (rank - lower)
