"""Columns of numbers as bytes of protobuf's wire format, and bytes as lists of pieces to be joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_VARINT_BITS = 7


def varints(numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return uint64 *numbers* one after the other as varints, and where each ends."""
    low = (numbers & np.uint64(0x7F)).astype(np.uint8)
    # Most have one byte, and little is done for these.
    large = np.flatnonzero(numbers >> np.uint64(_VARINT_BITS))
    if not len(large):
        return low.tobytes(), np.arange(1, len(numbers) + 1)
    large_size = np.ones(len(large), np.int64)
    rest = numbers[large] >> np.uint64(_VARINT_BITS)
    while rest.any():
        large_size += rest > 0
        rest >>= np.uint64(_VARINT_BITS)
    size = np.ones(len(numbers), np.int64)
    size[large] = large_size
    ends = np.cumsum(size)
    encoded = np.empty(int(ends[-1]), np.uint8)
    encoded[ends - size] = low
    begins = ends[large] - large_size
    encoded[begins] |= 0x80
    for byte in range(1, int(large_size.max())):
        these = np.flatnonzero(large_size > byte)
        bits = numbers[large[these]] >> np.uint64(_VARINT_BITS * byte) & np.uint64(0x7F)
        more = large_size[these] > byte + 1
        encoded[begins[these] + byte] = bits.astype(np.uint8) | more.astype(np.uint8) << _VARINT_BITS
    return encoded.tobytes(), ends


def padded_varints(numbers: np.ndarray, size: int) -> np.ndarray:
    """Return int64, none negative, as varints that all have *size* bytes, (n, size) uint8."""
    encoded = np.empty((len(numbers), size), np.uint8)
    rest = numbers.astype(np.uint64)
    for place in range(size):
        encoded[:, place] = rest & np.uint64(0x7F) | np.uint64(0x80)
        rest = rest >> np.uint64(_VARINT_BITS)
    encoded[:, -1] &= 0x7F
    return encoded


def cut(data: bytes, ends: np.ndarray) -> list[bytes]:
    """Return the parts of *data* that end there."""
    until = ends.tolist()
    return list(map(data.__getitem__, map(slice, [0, *until[:-1]], until)))


def lengths_of(pieces: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """Return the length of each of *pieces*, int64."""
    return np.fromiter(map(len, pieces), np.int64, len(pieces))
