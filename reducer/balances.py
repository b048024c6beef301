"""What of the flows' memory must outlive the process, as bytes: the flows whose balances are not all zero.

The bytes are a header, then an Arrow IPC file of columns.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import polars as pl

from reducer.flows import BASELINE, COUNTERS, KEY_WORDS, FlowTable, by_side
from reducer.match import hashed

_MAGIC = b"ebpf-net balances"
_VERSION = 1
_HEADER = struct.Struct(f"<{len(_MAGIC)}sBIQ")  # version, CRC-32 of what follows the CRC, end of the last sealed window
_CHECKED_FROM = len(_MAGIC) + 5


class BalancesError(ValueError):
    """Bytes that are no balances of this version; the message says why."""


def dump(flows: FlowTable, sealed_until_ns: int) -> bytes:
    """Return the balances of *flows* after the window that ends at *sealed_until_ns*."""
    slots = _unbalanced(flows)
    at = by_side(slots)
    columns = {f"key_{word}": flows.key[word, slots] for word in range(KEY_WORDS)}
    columns |= {"connector": flows.connector[slots], "pending": flows.pending[slots]}
    for name, by_end in _by_end(flows).items():
        columns[f"{name}_0"], columns[f"{name}_1"] = by_end[at[0::2]], by_end[at[1::2]]
    file = io.BytesIO()
    pl.DataFrame(columns).write_ipc(file, compression="zstd")
    checked = struct.pack("<Q", sealed_until_ns) + file.getvalue()
    return _MAGIC + struct.pack("<BI", _VERSION, zlib.crc32(checked)) + checked


def load(data: bytes, flows: FlowTable, window_ns: int, seed: int) -> int:
    """Put balances into the empty memory *flows*, and return the end of the last sealed window.

    Raises:
        BalancesError: *data* is damaged, or of another version.

    """
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise BalancesError("these are no balances of flows")
    _, version, checksum, sealed_until_ns = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise BalancesError(f"the balances are of version {version}: this reducer reads version {_VERSION}")
    if zlib.crc32(data[_CHECKED_FROM:]) != checksum:
        raise BalancesError("the balances are damaged: their checksum is wrong")
    frame = pl.read_ipc(data[_HEADER.size :])
    keys = np.stack([frame[f"key_{word}"].to_numpy() for word in range(KEY_WORDS)])
    hashes = hashed(keys, seed)
    order = np.argsort(hashes)
    slots = flows.find_or_add(hashes[order], keys, order)
    at = by_side(slots)
    flows.last_seen[slots] = int(sealed_until_ns) // window_ns
    flows.connector[slots] = frame["connector"].to_numpy()[order]
    flows.pending[slots] = frame["pending"].to_numpy()[order]
    for name, by_end in _by_end(flows).items():
        by_end[at[0::2]] = frame[f"{name}_0"].to_numpy()[order]
        by_end[at[1::2]] = frame[f"{name}_1"].to_numpy()[order]
    return int(sealed_until_ns)


def _by_end(flows: FlowTable) -> dict[str, np.ndarray]:
    """Return the columns that have two elements a flow."""
    columns = {"knows": flows.knows}
    columns |= {f"sender_{counter.name}": flows.sender[counter.name] for counter in COUNTERS}
    columns |= {f"receiver_{counter.name}": flows.receiver[counter.name] for counter in COUNTERS}
    return columns


def _unbalanced(flows: FlowTable) -> np.ndarray:
    """Return the slots of flows that a new process could not go on with as if it had never seen them."""
    apart = flows.knows == BASELINE
    for balances in (flows.sender, flows.receiver):
        for balance in balances.values():
            apart |= balance != 0
    slots: np.ndarray = flows.slots[apart.reshape(-1, 2).any(axis=1)[flows.slots]]
    return slots
