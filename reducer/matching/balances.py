"""What of the flows' memory must outlive the process, as bytes: the flows whose balances are not all zero.

The bytes are a header, then two Arrow IPC files of columns: flows, and balances of requests by their flow's row.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.columns.key_columns import KEY_WORDS
from reducer.matching.flows import BASELINE, COUNTERS, FlowTable, by_side
from reducer.matching.grouping import hashed

if TYPE_CHECKING:
    from reducer.columns.flags import Flag
    from reducer.columns.narrow import Narrow
    from reducer.matching.memory import Matcher

_MAGIC = b"ebpf-net balances"
_VERSION = 2
# Version, CRC-32 of what follows the CRC, end of the last sealed window, bytes of the first file.
_HEADER = struct.Struct(f"<{len(_MAGIC)}sBIQQ")
_CHECKED_FROM = len(_MAGIC) + 5


class BalancesError(ValueError):
    """Bytes that are no balances of this version; the message says why."""


def dump(matcher: Matcher, sealed_until_ns: int) -> bytes:
    """Return the balances of *matcher* after the window that ends at *sealed_until_ns*."""
    flows, requests = matcher.flows, matcher.requests
    slots = _unbalanced(matcher)
    at = by_side(slots)
    columns = {f"key_{number}": word for number, word in enumerate(flows.keys(slots))}
    columns |= {"connector": flows.connector[slots], "pending": flows.pending[slots]}
    for name, by_end in _by_end(flows).items():
        columns[f"{name}_0"], columns[f"{name}_1"] = by_end[at[0::2]], by_end[at[1::2]]
    row_of_slot = np.zeros(len(flows.last_seen), np.int64)
    row_of_slot[slots] = np.arange(len(slots))
    direction = 2 * row_of_slot[requests.at >> 1] + (requests.at & 1)
    of_requests = {"direction": direction, "code": requests.code, "client": requests.client, "server": requests.server}
    files = [_file(columns), _file(of_requests)]
    checked = struct.pack("<QQ", sealed_until_ns, len(files[0])) + b"".join(files)
    return _MAGIC + struct.pack("<BI", _VERSION, zlib.crc32(checked)) + checked


def load(data: bytes, matcher: Matcher, window_ns: int) -> int:
    """Put balances into the empty memory of *matcher*, and return the end of the last sealed window.

    Raises:
        BalancesError: *data* is damaged, or of another version.

    """
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise BalancesError("these are no balances of flows")
    _, version, checksum, sealed_until_ns, first_bytes = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise BalancesError(f"the balances are of version {version}: this reducer reads version {_VERSION}")
    if zlib.crc32(data[_CHECKED_FROM:]) != checksum:
        raise BalancesError("the balances are damaged: their checksum is wrong")
    flows, requests = matcher.flows, matcher.requests
    frame = pl.read_ipc(data[_HEADER.size : _HEADER.size + first_bytes])
    keys = np.stack([frame[f"key_{word}"].to_numpy() for word in range(KEY_WORDS)])
    slots = flows.find_or_add(hashed(keys, matcher.seed), keys)
    at = by_side(slots)
    flows.last_seen[slots] = int(sealed_until_ns) // window_ns
    flows.connector[slots] = frame["connector"].to_numpy()
    flows.pending[slots] = frame["pending"].to_numpy()
    for name, by_end in _by_end(flows).items():
        by_end[at[0::2]] = frame[f"{name}_0"].to_numpy()
        by_end[at[1::2]] = frame[f"{name}_1"].to_numpy()
    stored = pl.read_ipc(data[_HEADER.size + first_bytes :])
    requests.at = at[stored["direction"].to_numpy()]
    requests.code = stored["code"].to_numpy()
    requests.client, requests.server = stored["client"].to_numpy(), stored["server"].to_numpy()
    return int(sealed_until_ns)


def _file(columns: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(columns).write_ipc(file, compression="zstd")
    return file.getvalue()


def _by_end(flows: FlowTable) -> dict[str, Flag | Narrow]:
    """Return the columns that have two elements a flow."""
    columns: dict[str, Flag | Narrow] = {"knows": flows.knows, "asks": flows.asks}
    columns |= {f"sender_{counter.name}": flows.sender[counter.name] for counter in COUNTERS}
    columns |= {f"receiver_{counter.name}": flows.receiver[counter.name] for counter in COUNTERS}
    return columns


def _unbalanced(matcher: Matcher) -> np.ndarray:
    """Return the slots of flows that a new process could not go on with as if it had never seen them."""
    flows = matcher.flows
    apart = flows.knows[:] == BASELINE
    for balances in (flows.sender, flows.receiver):
        for balance in balances.values():
            apart |= balance.is_set()
    apart[matcher.requests.at] = True
    slots: np.ndarray = flows.slots[apart.reshape(-1, 2).any(axis=1)[flows.slots]]
    return slots
