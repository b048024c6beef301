"""Gives the ends of flows the indexes of their labels: the work is done once a party and once an address of it.

What the labels are is said in labels.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl

from reducer.columns.hash_index import HashIndex
from reducer.columns.series import EndTable
from reducer.matching.flows import other
from reducer.matching.match import Special
from reducer.naming.labels import identity_labels, node_labels

if TYPE_CHECKING:
    from reducer.naming.parties import Party

# An end with its labels takes about 800 bytes. Beyond this the nodes of a window are not told apart.
MOST_ENDS = 1 << 18
_UNSET = np.iinfo(np.uint32).max


class Known(Protocol):
    """What numbers of parties mean; 0 is a party of which nothing is known."""

    @property
    def generation(self) -> int:
        """A number that rises when numbers were given again."""

    def __len__(self) -> int:
        """How many parties there are."""

    def revisions(self) -> np.ndarray:
        """Return by party a number, uint32, that rises when more is known of it."""

    def describe(self, number: int) -> Party:
        """Return what is known of a party."""


class Names:
    """Finds the indexes in an `EndTable` of parties and addresses.

    Attributes:
        ends: the table.
        ends_rolled_up: nodes that were given their identity's labels alone, since there were too many.

    Args:
        most_ends: beyond these, nodes are not told apart.
        node_ip: whether nodes have their addresses.
        system_ip: whether those of which only the autonomous system is known have theirs.

    """

    def __init__(self, most_ends: int = MOST_ENDS, *, node_ip: bool = True, system_ip: bool = False) -> None:
        self.ends = EndTable()
        self.ends_rolled_up = 0
        self._most_ends = most_ends
        self._node_ip = node_ip
        self._system_ip = system_ip
        self._generation = 0
        # By party * len(Special) + special: the end, and the revision of the party that it was named by.
        self._identity = np.empty(0, np.uint32)
        self._revision = np.empty(0, np.uint32)
        # Nodes by what tells them apart, and their ends.
        self._nodes = HashIndex()
        self._node = np.empty(0, np.uint32)

    def begin_window(self, known: Known) -> None:
        """Make room, and forget what numbers of parties meant if they were given again."""
        full = len(self.ends.labels) >= self._most_ends
        if full:
            self.ends.clear()
        if full or known.generation != self._generation:
            self._identity = self._revision = np.empty(0, np.uint32)
            self._nodes, self._node = HashIndex(), np.empty(0, np.uint32)
            self._generation = known.generation

    def identities(self, party: np.ndarray, special: np.ndarray, known: Known) -> np.ndarray:
        """Return the end, uint32, of the identity of each end of flows.

        Args:
            party: uint32, two elements a flow.
            special: uint8, `Special`.
            known: what the parties mean.

        """
        return self._identities(_naming(party, special), special, known)

    def _identities(self, party: np.ndarray, special: np.ndarray, known: Known) -> np.ndarray:
        lacking = len(known) * len(Special) - len(self._identity)
        if lacking > 0:
            self._identity = np.concatenate((self._identity, np.full(lacking, _UNSET, np.uint32)))
            self._revision = np.concatenate((self._revision, np.zeros(lacking, np.uint32)))
        revisions = known.revisions()
        place = party * np.int64(len(Special)) + special
        unnamed = (self._identity[place] == _UNSET) | (self._revision[place] != revisions[party])
        for number in np.unique(place[unnamed]).tolist():
            of, special_end = divmod(number, len(Special))
            self._identity[number] = self.ends.intern(identity_labels(known.describe(of), Special(special_end)))
            self._revision[number] = revisions[of]
        named: np.ndarray = self._identity[place]
        return named

    def nodes(self, party: np.ndarray, special: np.ndarray, address: np.ndarray, known: Known, seed: int) -> np.ndarray:
        """Return the end, uint32, of the node of each end of flows, with their addresses, (n, 2) uint64."""
        party = _naming(party, special)
        identity = self._identities(party, special, known)
        columns = {"identity": identity, "party": party, "0": address[:, 0], "1": address[:, 1]}
        hashes = pl.DataFrame(columns).hash_rows(seed=seed).to_numpy()
        number, new = self._nodes.find_or_add(hashes, self._nodes.next)
        nodes = self._new_nodes(party[new], identity[new], address[new], known)
        self._node = np.concatenate((self._node, nodes))
        named: np.ndarray = self._node[number]
        return named

    def _new_nodes(self, party: np.ndarray, identity: np.ndarray, address: np.ndarray, known: Known) -> np.ndarray:
        text = np.ascontiguousarray(address).tobytes()
        nodes = []
        for index, (number, within) in enumerate(zip(party.tolist(), identity.tolist(), strict=True)):
            if len(self.ends.labels) >= self._most_ends:
                self.ends_rolled_up += 1
                nodes.append(within)
                continue
            labels = node_labels(
                self.ends.labels[within],
                known.describe(number),
                text[16 * index : 16 * index + 16],
                with_ip=self._node_ip,
                with_system_ip=self._system_ip,
            )
            nodes.append(self.ends.intern(labels))
        return np.array(nodes, np.uint32)


def _naming(party: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Return the parties that name ends: the instance metadata service is told apart by who asks it."""
    asked = special == Special.INSTANCE_METADATA
    return np.where(asked, other(party), party) if asked.any() else party
