"""Gives the ends of flows their labels: an identity (what runs, and where) and a node in it (host and address).

`RULES` is the order of precedence: the first rule that knows an end names it. The work is done once for each owner and
for each address of it; the ends of flows are only looked up.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.series import EndTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from reducer.owners import Owner, OwnersView
    from reducer.series import Labels

UNKNOWN = "(unknown)"
NO_COLLECTOR = "(no agent)"
# An end with its labels takes about 800 bytes. Beyond this the nodes of a window are not told apart.
MOST_ENDS = 1 << 18
_V4_PREFIX = bytes(10) + b"\xff\xff"
_UNSET = np.iinfo(np.uint32).max


def by_process(owner: Owner | None) -> dict[str, str] | None:
    """Name an end by its process."""
    if owner is None or not owner.process:
        return None
    return {"workload.name": owner.process, "process.name": owner.process, "resolution_type": "PROCESS"}


def by_host(owner: Owner | None) -> dict[str, str] | None:
    """Name an end that a collector sees, but whose process it does not know, as its operator labelled the host."""
    if owner is None:
        return None
    return {"workload.name": owner.host.service or UNKNOWN, "resolution_type": "PROCESS"}


def by_address(owner: Owner | None) -> dict[str, str] | None:  # noqa: ARG001 - a rule
    """Name an end that no collector sees: there is its address, which is the node's."""
    return {"workload.name": UNKNOWN, "resolution_type": "IP"}


RULES: tuple[Callable[[Owner | None], dict[str, str] | None], ...] = (by_process, by_host, by_address)


def identity_labels(owner: Owner | None) -> Labels:
    """Return the labels of an identity."""
    labels = next(labels for rule in RULES if (labels := rule(owner)) is not None)
    if owner is None:
        labels |= {"availability_zone": UNKNOWN, "environment": NO_COLLECTOR}
    else:
        host = owner.host
        labels |= {"availability_zone": host.zone, "environment": host.environment, "namespace.name": host.namespace}
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def node_labels(identity: Labels, owner: Owner | None, address: bytes) -> Labels:
    """Return the labels of a node: those of its identity, and host and address."""
    ip = address_text(address)
    name = ip if owner is None else owner.host.name
    return tuple(sorted((*identity, *((("id", name),) if name else ()), ("ip", ip))))


def address_text(address: bytes) -> str:
    """Return 16 bytes of an address as text, IPv4 dotted."""
    if address.startswith(_V4_PREFIX):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


class Names:
    """Finds the indexes in an `EndTable` of owners and addresses.

    Attributes:
        ends: the table.
        ends_rolled_up: nodes that were given their identity's labels alone, since there were too many.

    """

    def __init__(self, most_ends: int = MOST_ENDS) -> None:
        self.ends = EndTable()
        self.ends_rolled_up = 0
        self._most_ends = most_ends
        self._generation = 0
        self._identity = np.empty(0, np.uint32)  # by owner
        self._node_hash = np.empty(0, np.uint64)  # sorted
        self._node = np.empty(0, np.uint32)

    def begin_window(self, owners: OwnersView) -> None:
        """Make room, and forget what numbers of owners meant if they were given again."""
        full = len(self.ends.labels) >= self._most_ends
        if full:
            self.ends.clear()
        if full or owners.generation != self._generation:
            self._identity = np.empty(0, np.uint32)
            self._node_hash, self._node = np.empty(0, np.uint64), np.empty(0, np.uint32)
            self._generation = owners.generation

    def identities(self, owner: np.ndarray, owners: OwnersView) -> np.ndarray:
        """Return the end, uint32, of the identity of each of these owners."""
        lacking = len(owners.owners) - len(self._identity)
        if lacking > 0:
            self._identity = np.concatenate((self._identity, np.full(lacking, _UNSET, np.uint32)))
        found = self._identity[owner]
        for number in np.unique(owner[found == _UNSET]).tolist():
            self._identity[number] = self.ends.intern(identity_labels(owners.owners[number]))
        named: np.ndarray = self._identity[owner]
        return named

    def nodes(self, owner: np.ndarray, address: np.ndarray, owners: OwnersView, seed: int) -> np.ndarray:
        """Return the end, uint32, of the node of each of these owners and addresses, (n, 2) uint64."""
        identity = self.identities(owner, owners)
        hashes = pl.DataFrame({"owner": owner, "0": address[:, 0], "1": address[:, 1]}).hash_rows(seed=seed).to_numpy()
        order = np.argsort(hashes)
        ordered = hashes[order]
        first = np.ones(len(order), bool)
        first[1:] = ordered[1:] != ordered[:-1]
        different, rows = ordered[first], order[first]
        at = np.searchsorted(self._node_hash, different)
        new = np.ones(len(different), bool)
        if len(self._node_hash):
            new = self._node_hash[np.minimum(at, len(self._node_hash) - 1)] != different
        node = np.empty(len(different), np.uint32)
        node[~new] = self._node[at[~new]]
        node[new] = self._new_nodes(owner[rows[new]], identity[rows[new]], address[rows[new]], owners)
        self._node_hash = np.insert(self._node_hash, at[new], different[new])
        self._node = np.insert(self._node, at[new], node[new])
        named = np.empty(len(order), np.uint32)
        named[order] = node[np.cumsum(first) - 1]
        return named

    def _new_nodes(
        self, owner: np.ndarray, identity: np.ndarray, address: np.ndarray, owners: OwnersView
    ) -> np.ndarray:
        text = np.ascontiguousarray(address).tobytes()
        nodes = []
        for index, (number, within) in enumerate(zip(owner.tolist(), identity.tolist(), strict=True)):
            if len(self.ends.labels) >= self._most_ends:
                self.ends_rolled_up += 1
                nodes.append(within)
                continue
            of_node = text[16 * index : 16 * index + 16]
            labels = node_labels(self.ends.labels[within], owners.owners[number], of_node)
            nodes.append(self.ends.intern(labels))
        return np.array(nodes, np.uint32)
