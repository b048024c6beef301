"""Address translation (NAT): gives both ends of a translated flow one pair of endpoints, as columns of rows.

A translated connection has two pairs: the *original*, as the end that began it sees itself and the other, and the
*translated*, as the other end sees the two; both are right, each on its side of this machine. Where the first end is a
socket of this machine, the packets that leave it are translated, so its rows get the translated pair. Where it is on
another machine, the packets that reach this one are not translated yet, so the rows of the other end, which is here,
get the original pair. What the collectors of both ends tell is then one flow.

A connection may be translated several times, in the network namespaces that it passes: from a pod to a service (by the
machine), and to the port of a proxy (in the other pod). A row goes from its own pair, by what its namespace translates,
to the pair that its packets have outside, and from there by what the machine translates; so do the rows of the other
end, from theirs. Namespaces that are named translate for each other as the machine does. What any other namespace
translates changes no row: anybody may have one, with any addresses.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from intake.clock import SECOND_NS
from kernel_collector.columns.endpoints import ENDPOINTS, EndpointKeys, in_loopback, other_end, same
from kernel_collector.columns.socket_index import SocketIndex, with_room
from kernel_collector.columns.structured import opaque
from kernel_collector.nat.chosen_endpoints import ChosenEndpoints
from kernel_collector.nat.conntrack_messages import CONNECTION

if TYPE_CHECKING:
    from collections.abc import Collection

    from intake.columns import Columns, Tables

MOST_TRANSLATIONS = 1 << 20
# The kernel forgets a connection some seconds after its sockets are closed, at the earliest; their last rows come with
# the next poll.
KEPT_NS = 60 * SECOND_NS
# Where several namespaces translate for all, a connection may pass some of them, and be translated in each.
MOST_IN_A_ROW = 4
_COMMON = 0  # in place of an inode number
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "http": socket.IPPROTO_TCP}
_TABLES = ("tcp", "udp", "dns", "http", "bins", "drops")
_NAMES = ENDPOINTS.names or ()

_TRANSLATION = np.dtype(
    [
        ("original", ENDPOINTS),
        ("translated", ENDPOINTS),
        ("ended_ns", "u8"),  # 0 while it lives
        ("protocol", "u1"),
        ("first_end_here", "?"),  # rows of its socket were seen
        ("network_namespace", "u4"),
        ("dump", "u4"),  # the number of the last dump before it was shown
    ]
)


class Translations:
    """The translated connections of the last time, at most *most*: about 150 bytes each.

    Args:
        common: inode numbers of the network namespaces whose translations change the rows of all: the machine's, and
            those that are named. Those of any other change its own rows alone.
        most: half of them at most are of other namespaces than the common ones.

    """

    def __init__(self, common: Collection[int], most: int = MOST_TRANSLATIONS) -> None:
        self._common = np.array(sorted(common), np.uint32)
        self._own: set[int] = set()  # other namespaces with translations
        self._most_in_a_row = min(len(self._common), MOST_IN_A_ROW)
        self._most_of_others = most // 2  # so that nobody else takes all the room
        self._of_others = 0
        self._untracked = 0
        self._chosen = ChosenEndpoints()
        self._keys = EndpointKeys()
        self._table = np.zeros(1024, _TRANSLATION)
        self._by_original = SocketIndex(most)  # its slots are those of the table
        self._by_answer = SocketIndex(most)  # by the pair of the other end
        self._of_answer = np.zeros(1024, np.intp)
        self._dumps: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_original)

    @property
    def untracked(self) -> int:
        """How often a connection, or a socket that keeps its endpoints, found no room."""
        return self._untracked + self._chosen.untracked

    def update(self, connections: np.ndarray, network_namespace: np.ndarray | int, now_ns: int) -> None:
        """Take events in their order.

        Args:
            connections: an array of `CONNECTION`.
            network_namespace: inode number of that in which they are translated; uint32 where they are several.
            now_ns: by any clock that does not go back.

        """
        if not len(connections):
            return
        namespaces = np.broadcast_to(np.asarray(network_namespace, np.uint32), len(connections))
        keys = self._keys_of(connections["original"], connections["protocol"], namespaces)
        keys, last = np.unique(keys[::-1], return_index=True)  # of several events the last one counts
        connections, namespaces = connections[::-1].take(last), namespaces[::-1].take(last)
        slots = self._by_original.find(keys)
        self._forget_answers(slots[slots >= 0])
        new = slots < 0
        new_of_others = new & ~np.isin(namespaces, self._common)
        new[np.flatnonzero(new_of_others)[self._most_of_others - self._of_others :]] = False
        slots[new] = self._by_original.insert(keys[new])
        self._of_others += int(np.count_nonzero(new_of_others & (slots >= 0)))
        kept = np.flatnonzero(slots >= 0)
        self._untracked += len(slots) - len(kept)
        slots, connections, namespaces = slots[kept], connections.take(kept), namespaces.take(kept)
        entries = np.zeros(len(kept), _TRANSLATION)
        for name in ("original", "translated", "protocol"):
            entries[name] = connections[name]
        entries["network_namespace"] = namespaces
        entries["ended_ns"][connections["ended"]] = now_ns
        distinct, which = np.unique(namespaces, return_inverse=True)
        self._own.update(np.setdiff1d(distinct, self._common).tolist())
        entries["dump"] = np.array([self._dumps.get(inode, 0) for inode in distinct.tolist()], np.uint32)[which]
        self._table = with_room(self._table, slots)
        opaque(self._table)[slots] = opaque(entries)
        self._remember_answers(slots)

    def replace(self, connections: np.ndarray, network_namespace: int, now_ns: int) -> None:
        """Take a dump: others of this namespace have ended. Events from before it must have been taken, none after."""
        self._dumps[network_namespace] = number = self._dumps.get(network_namespace, 0) + 1
        self.update(connections, network_namespace, now_ns)
        slots = self._by_original.slots
        gone = self._table["network_namespace"][slots] == network_namespace
        gone &= (self._table["dump"][slots] < number) & (self._table["ended_ns"][slots] == 0)
        self._table["ended_ns"][slots[gone]] = now_ns

    def end(self, network_namespace: int, now_ns: int) -> None:
        """Take it that a namespace is gone, and all of its translations."""
        self.replace(np.empty(0, CONNECTION), network_namespace, now_ns)
        del self._dumps[network_namespace]

    def forget(self, now_ns: int) -> None:
        """Forget those that ended `KEPT_NS` ago."""
        slots = self._by_original.slots
        ended_ns = self._table["ended_ns"][slots].astype(np.int64)
        slots = slots[(ended_ns > 0) & (ended_ns <= now_ns - KEPT_NS)]
        if len(slots):
            self._forget_answers(slots)
            entries = self._table.take(slots)
            self._by_original.remove(
                np.sort(self._keys_of(entries["original"], entries["protocol"], entries["network_namespace"]))
            )
            self._of_others -= int(np.count_nonzero(~np.isin(entries["network_namespace"], self._common)))
            if self._own.intersection(entries["network_namespace"].tolist()):
                self._own &= set(np.unique(self._table["network_namespace"][self._by_original.slots]).tolist())

    def translate(self, tables: Tables) -> Tables:
        """Return the tables, those with translated rows with other endpoints in these; the rows keep their places."""
        names = [name for name in _TABLES if len(tables.get(name, {}).get("socket", ()))]
        if not names or not (len(self) or len(self._chosen)):
            return tables
        rows = _rows_of(tables, names)
        endpoints, changed = self._translated(rows)
        lasting = np.flatnonzero(changed & rows.lasting)
        self._chosen.remember(*(column[lasting] for column in (rows.sockets, rows.endpoints, endpoints)))
        self._chosen.forget(rows.sockets[rows.ending])
        bounds = np.cumsum([len(tables[name]["socket"]) for name in names])[:-1]
        parts = zip(names, np.split(endpoints, bounds), np.split(changed, bounds), strict=True)
        return tables | {name: tables[name] | _columns(part) for name, part, some in parts if some.any()}

    def _translated(self, rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
        """Return the endpoints that rows get, and which of them are others than their own."""
        known, chosen = self._chosen.find(rows.sockets, rows.endpoints)
        known &= rows.protocols == socket.IPPROTO_TCP  # a UDP socket has many peers, and their translations come and go
        endpoints = rows.endpoints.copy()
        changed = np.zeros(len(endpoints), bool)
        inside = np.flatnonzero(np.isin(rows.network_namespaces, list(self._own)))
        if len(inside):
            endpoints[inside], changed[inside] = self._moved(rows.at(inside), 1)
        common = np.where(np.isin(rows.network_namespaces, self._common), rows.network_namespaces, _COMMON)
        rows = rows._replace(endpoints=endpoints, network_namespaces=common)
        endpoints, moved = self._moved(rows, self._most_in_a_row)
        return np.where(known, chosen, endpoints), known | changed | moved

    def _matches(self, rows: _Rows) -> _Matches:
        turned = other_end(rows.endpoints)
        keys, turned_keys = (
            self._keys_of(each, rows.protocols, rows.network_namespaces) for each in (rows.endpoints, turned)
        )
        return _Matches(
            first=self._held(self._by_original.find(keys), "original", rows.endpoints),
            other=self._held(self._slots_of_answers(keys), "translated", turned),
            first_done=self._held(
                np.where(rows.of_packets, self._slots_of_answers(turned_keys), -1), "translated", rows.endpoints
            ),
            other_undone=self._held(
                np.where(rows.of_packets, self._by_original.find(turned_keys), -1), "original", turned
            ),
        )

    def _moved(self, rows: _Rows, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the endpoints of rows after *most* translations, or before them, and which of them these change."""
        matches = self._matches(rows)
        self._note_first_ends(rows, matches, most)
        endpoints, changed = self._moved_once(rows, matches)
        left = np.flatnonzero(changed)
        for _ in range(1, most):
            if not len(left):
                break
            between = rows._replace(endpoints=endpoints).at(left)
            endpoints[left], further = self._moved_once(between, self._matches(between))
            left = left.compress(further)
        return endpoints, changed

    def _moved_once(self, rows: _Rows, matches: _Matches) -> tuple[np.ndarray, np.ndarray]:
        here = self._table["first_end_here"]
        endpoints = rows.endpoints.copy()
        changed = np.zeros(len(endpoints), bool)
        for slots, onward, name, turn in (
            (matches.first, True, "translated", False),
            (matches.other, False, "original", True),
            (matches.first_done, False, "original", False),
            (matches.other_undone, True, "translated", True),
        ):
            these = np.flatnonzero((slots >= 0) & (here[slots] == onward) & ~changed)
            given = self._table[name][slots[these]]
            endpoints[these] = other_end(given) if turn else given
            changed[these] = True
        return endpoints, changed

    def _note_first_ends(self, rows: _Rows, matches: _Matches, most: int) -> None:
        """Note of which translations the first ends are here: of those that rows of sockets match, and of the next.

        A pair with a loopback address means nothing to a first end in another namespace, such as a pod that dials a
        service which a program of the node answers on 127.0.0.1: it is as if that end was on another machine.
        """
        for step in range(most):
            if step:
                here = self._table["first_end_here"][matches.first]
                onward = np.flatnonzero((matches.first >= 0) & rows.of_sockets & here)
                if not len(onward):
                    return
                endpoints = self._table["translated"][matches.first[onward]]
                rows = rows.at(onward)._replace(endpoints=endpoints)
                matches = self._matches(rows)
            for slots in (matches.first, matches.first_done):
                these = np.flatnonzero((slots >= 0) & rows.of_sockets)
                slots_here = slots[these]
                beyond_reach = in_loopback(self._table["translated"][slots_here])
                beyond_reach &= self._table["network_namespace"][slots_here] != rows.network_namespaces[these]
                self._table["first_end_here"][slots_here[~beyond_reach]] = True

    def _keys_of(self, endpoints: np.ndarray, protocols: np.ndarray, namespaces: np.ndarray) -> np.ndarray:
        """Return keys of endpoints in network namespaces; outside of loopback the common ones are as one."""
        as_one = np.isin(namespaces, self._common) & ~in_loopback(endpoints)
        return self._keys(endpoints, protocols, np.where(as_one, _COMMON, namespaces))

    def _held(self, slots: np.ndarray, name: str, endpoints: np.ndarray) -> np.ndarray:
        """Return *slots*, -1 for those that hold no translation with these *endpoints* by *name*."""
        return np.where(same(self._table[name][slots], endpoints), slots, -1)

    def _slots_of_answers(self, keys: np.ndarray) -> np.ndarray:
        answers = self._by_answer.find(keys)
        return np.where(answers >= 0, self._of_answer[answers], -1)

    def _answer_keys(self, slots: np.ndarray) -> np.ndarray:
        entries = self._table.take(slots)
        return self._keys_of(other_end(entries["translated"]), entries["protocol"], entries["network_namespace"])

    def _remember_answers(self, slots: np.ndarray) -> None:
        keys, first = np.unique(self._answer_keys(slots), return_index=True)
        answers = self._by_answer.find(keys)
        new = answers < 0
        answers[new] = self._by_answer.insert(keys[new])
        found = answers >= 0
        self._of_answer = with_room(self._of_answer, answers)
        self._of_answer[answers[found]] = slots[first[found]]

    def _forget_answers(self, slots: np.ndarray) -> None:
        keys, first = np.unique(self._answer_keys(slots), return_index=True)
        answers = self._by_answer.find(keys)
        own = (answers >= 0) & (self._of_answer[answers] == slots[first])
        self._by_answer.remove(keys[own])


class _Matches(NamedTuple):
    """The slots of the translations of rows, -1 where there is none.

    A row can be of the first end or of the other one, and have the original pair or the translated one.
    """

    first: np.ndarray
    other: np.ndarray
    first_done: np.ndarray
    other_undone: np.ndarray


class _Rows(NamedTuple):
    """What is asked of rows: of several tables, one after the other."""

    endpoints: np.ndarray
    sockets: np.ndarray
    network_namespaces: np.ndarray
    protocols: np.ndarray
    of_sockets: np.ndarray  # the local end is a socket of this machine
    of_packets: np.ndarray  # addresses and ports were read from packets, before or after their translation
    lasting: np.ndarray  # more rows of the socket follow
    ending: np.ndarray  # the last row of the socket

    def at(self, which: np.ndarray) -> _Rows:
        """Return some of the rows, by their numbers."""
        return _Rows(*(column.take(which) for column in self))


def _rows_of(tables: Tables, names: list[str]) -> _Rows:
    lengths = [len(tables[name]["socket"]) for name in names]
    table = np.repeat(names, lengths)
    column = {
        name: np.concatenate([tables[each][name] for each in names])
        for name in (*_NAMES, "socket", "network_namespace")
    }
    endpoints = np.empty(len(table), ENDPOINTS)
    for name in _NAMES:
        endpoints[name] = column[name]
    protocols = np.concatenate(
        [
            np.full(rows, _PROTOCOLS[name], np.uint8) if name in _PROTOCOLS else tables[name]["transport"]
            for name, rows in zip(names, lengths, strict=True)
        ]
    )
    of_tcp = table == "tcp"
    ending = np.zeros(len(table), bool)
    if "tcp" in names:
        ending[of_tcp] = (tables["tcp"]["closed"] | tables["tcp"]["failed"]) != 0
    of_drops = table == "drops"
    return _Rows(
        endpoints,
        column["socket"],
        column["network_namespace"],
        protocols,
        of_sockets=~of_drops,
        of_packets=of_drops | (protocols == socket.IPPROTO_UDP),
        lasting=of_tcp & ~ending,
        ending=ending,
    )


def _columns(endpoints: np.ndarray) -> Columns:
    return {name: np.ascontiguousarray(endpoints[name]) for name in _NAMES}
