"""Who listens where: the owner of an accepted socket that no poll has seen is its listener's.

One rule gives every socket its owner: of several processes that hold it, the present owner while it is one of them;
else the first that was seen.
"""

from __future__ import annotations

import numpy as np

from intake.addresses import ADDRESS_BYTES, V4_PREFIX
from kernel_collector.columns.fingerprint import fingerprints
from kernel_collector.columns.sorted_keys import begins_group, find

_ANY_V4, _ANY_V6 = np.frombuffer(V4_PREFIX + bytes(4), "V16"), np.frombuffer(bytes(ADDRESS_BYTES), "V16")
_V4_WORDS = np.frombuffer(V4_PREFIX, "<u4")


class Listeners:
    """Listening addresses and their owners, at most *most*; those not seen for long are forgotten by `forget`."""

    def __init__(self, most: int) -> None:
        self.untracked = 0
        self._most = most
        self._keys = np.empty(0, np.uint64)  # sorted
        self._processes = np.empty(0, np.uint32)
        self._seen_ns = np.empty(0, np.uint64)

    def update(self, records: np.ndarray, processes: np.ndarray) -> None:
        """Take listening sockets: `tcp_record`s of events and polls, and the ids of the processes that hold them."""
        keys = _keys(records["network_namespace"], records["local_address"], records["local_port"])
        order = np.argsort(keys, kind="stable")
        keys, holders, times = keys[order], processes[order], records["time_ns"][order]
        heads = np.flatnonzero(begins_group(keys))
        found, at = find(self._keys, keys[heads])
        present = np.where(found, self._processes[at] if len(self._keys) else 0, 0).astype(np.uint32)
        owners = choose_owners(present, holders, heads)
        seen = np.maximum.reduceat(times, heads) if len(heads) else times
        self._processes[at[found]] = owners[found]
        self._seen_ns[at[found]] = seen[found]
        new = np.flatnonzero(~found)
        self.untracked += max(0, len(new) - (self._most - len(self._keys)))
        new = new[: self._most - len(self._keys)]
        where = np.searchsorted(self._keys, keys[heads][new])
        self._keys = np.insert(self._keys, where, keys[heads][new])
        self._processes = np.insert(self._processes, where, owners[new])
        self._seen_ns = np.insert(self._seen_ns, where, seen[new])

    def owners(self, namespaces: np.ndarray, addresses: np.ndarray, ports: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether something listens where sockets with these local ends were accepted, and its owner's id."""
        known = np.zeros(len(ports), bool)
        processes = np.zeros(len(ports), np.uint32)
        if not len(self._keys):
            return known, processes
        sought = np.arange(len(ports))
        for among in (_themselves, _any_of_version, _any):  # a listener on :: takes IPv4 as well
            found, at = find(self._keys, _keys(namespaces[sought], among(addresses[sought]), ports[sought]))
            known[sought[found]] = True
            processes[sought[found]] = self._processes[at[found]]
            sought = sought[~found]
            if not len(sought):
                break
        return known, processes

    def processes(self) -> np.ndarray:
        """Return the ids of the owners, as often as they own."""
        return self._processes

    def forget(self, before_ns: int) -> None:
        """Forget the listeners that were last seen before *before_ns*."""
        kept = self._seen_ns >= before_ns
        self._keys, self._processes, self._seen_ns = self._keys[kept], self._processes[kept], self._seen_ns[kept]


def choose_owners(present: np.ndarray, holders: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Return the owner of each group of rows: *present*, if it still holds or nothing does, else the first holder.

    Args:
        present: a process id a group; 0 where unknown.
        holders: a process id a row; 0 where the row tells of no holder.
        heads: index of each group's first row.

    """
    if len(heads) == len(holders):  # a row a group
        return np.where(holders == 0, present, holders)
    count = len(holders)
    first_at = np.minimum.reduceat(np.where(holders == 0, count, np.arange(count)), heads)
    first = np.append(holders, holders.dtype.type(0))[first_at]
    if not present.any():
        return first
    lengths = np.diff(heads, append=count)
    still_held = np.logical_or.reduceat(holders == np.repeat(present, lengths), heads) & (present != 0)
    return np.where(still_held | (first == 0), present, first)


def _keys(namespaces: np.ndarray, addresses: np.ndarray, ports: np.ndarray) -> np.ndarray:
    return fingerprints(namespaces, ports, addresses)


def _themselves(addresses: np.ndarray) -> np.ndarray:
    return addresses


def _any_of_version(addresses: np.ndarray) -> np.ndarray:
    """Return 0.0.0.0 for those of *addresses* that are ::ffff:a.b.c.d, :: for the others."""
    words = np.ascontiguousarray(addresses).view("<u4").reshape(len(addresses), 4)
    is_v4 = (words[:, : len(_V4_WORDS)] == _V4_WORDS).all(axis=1)
    return np.where(is_v4, _ANY_V4, _ANY_V6)


def _any(addresses: np.ndarray) -> np.ndarray:
    return np.broadcast_to(_ANY_V6, len(addresses))
