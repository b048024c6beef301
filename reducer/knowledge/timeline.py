"""Who had an address, and when: claims to keys, each from one time to another, found for many keys and times at once.

A key is a uint64 made of an address, of the scope within which the address is unique (a cluster, a network, a
session), and of a port where one is part of what is claimed.
"""

from __future__ import annotations

import hashlib
import secrets
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

import numpy as np

FOREVER: Final = np.iinfo(np.int64).max
NOT_KNOWN: Final = 0
"""A time that nobody told."""

_ALWAYS = np.iinfo(np.int64).min
# Drawn anew each time, so that nobody can choose addresses whose keys are equal.
_MULTIPLIERS = [np.uint64(secrets.randbits(64) | 1) for _ in range(4)]
_LEAST_BITS = 12
_SPARE_BITS = 4


def scope_of(name: str) -> int:
    """Return the number of a scope; it is the same wherever it is made."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") if name else 0


def place_of(address: np.ndarray, port: np.ndarray | None = None) -> np.ndarray:
    """Return uint64 numbers of addresses, (n, 2) uint64, and ports: equal ones for equal addresses and ports."""
    place: np.ndarray = (address[:, 0] ^ _MULTIPLIERS[2]) * _MULTIPLIERS[0] ^ address[:, 1] * _MULTIPLIERS[1]
    if port is not None:
        place ^= port.astype(np.uint64) * _MULTIPLIERS[2]
    return place * _MULTIPLIERS[1]


def keys_of(place: np.ndarray, scope: np.ndarray | int) -> np.ndarray:
    """Return the keys of places within scopes, uint64."""
    keys: np.ndarray = place ^ np.asarray(scope, np.uint64) * _MULTIPLIERS[3]
    return keys


def last_before(
    keys: np.ndarray, since: np.ndarray, key: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the last row of a key that began at or before a time, else its first.

    Args:
        keys: of the rows, ascending.
        since: of the rows, ascending within a key.
        key: to find.
        time: by key.

    Returns:
        By key the row (0 where there is none), and whether the key has rows.

    """
    low, high = np.searchsorted(keys, key, "left"), np.searchsorted(keys, key, "right")
    known = high > low
    low, high = np.where(known, low, 0), np.where(known, high, 1)
    while (undecided := high - low > 1).any():  # by halves, since one key may have many
        middle = np.where(undecided, (low + high) >> 1, 0)
        later = undecided & (since[middle] > time)
        high = np.where(later, middle, high)
        low = np.where(undecided & ~later, middle, low)
    return low, known


class PlaceFilter:
    """Tells at the cost of one look which places may be among some, and which are certainly not."""

    def __init__(self, places: np.ndarray) -> None:
        bits = max(_LEAST_BITS, len(places).bit_length() + _SPARE_BITS)
        self._shift = np.uint64(64 - bits)
        self._present = np.zeros(1 << bits, bool)
        self._present[places >> self._shift] = True
        self.empty = not len(places)

    def may_have(self, places: np.ndarray) -> np.ndarray:
        """Return by place whether it may be one of them."""
        present: np.ndarray = self._present[places >> self._shift]
        return present


@dataclass(frozen=True)
class TimelineView:
    """The claims at one time, sorted by key and then by time; does not change.

    Attributes:
        places: a filter of the places that are claimed, whatever the scope.
        key: uint64.
        since: int64, inclusive.
        until: int64, exclusive.
        entity: uint32.
        claimed: the place of each claim.
        place: of `scope`, ascending, each once.
        scope: by `place`: the scope of the claims to it, where all have the same one.
        shared: by `place`: whether claims of several scopes are to it.

    """

    places: PlaceFilter
    key: np.ndarray
    since: np.ndarray
    until: np.ndarray
    entity: np.ndarray
    claimed: np.ndarray
    place: np.ndarray
    scope: np.ndarray
    shared: np.ndarray

    def find(self, key: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return by key the entity that had it at a time (0: none), and whether any had it ever."""
        row, known = last_before(self.key, self.since, key, time)
        if not known.any():
            return np.zeros(len(key), np.uint32), known
        holds = known & (self.since[row] <= time) & (time < self.until[row])
        return np.where(holds, self.entity[row], 0).astype(np.uint32), known

    def changed_since(self, time_ns: int) -> PlaceFilter:
        """Return a filter of the places where a claim began or ended after *time_ns*."""
        recent = (self.since > time_ns) | ((self.until > time_ns) & (self.until < FOREVER))
        return PlaceFilter(self.claimed[recent])

    def claims(self, key: np.ndarray) -> np.ndarray:
        """Return by key whether anybody claimed it, ever."""
        if not len(self.key):
            return np.zeros(len(key), bool)
        found: np.ndarray = self.key[np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)] == key
        return found

    def find_around(
        self, place: np.ndarray, scope: np.ndarray, time: np.ndarray, strict: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find by place who had it within a scope, else within the only other scope that has it.

        Args:
            place: uint64.
            scope: by place.
            time: by place.
            strict: by place, whether that other scope must be the one without a name, or in place of it.

        Returns:
            The entity (0: none), whether any had it ever, and whether several scopes have it but not that one.

        """
        entity, known = self.find(keys_of(place, scope), time)
        rest = np.flatnonzero(~known)
        shared = np.zeros(len(place), bool)
        if len(rest):
            only, known[rest], shared[rest] = self.only_scope(place[rest])
            found, _ = self.find(keys_of(place[rest], only), time[rest])
            allowed = ~shared[rest] & (~strict[rest] | (scope[rest] == 0) | (only == 0))
            entity[rest] = np.where(allowed, found, 0)
        return entity, known, shared

    def only_scope(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return by place the scope of its claims, whether it has any, and whether these have different scopes."""
        if not len(self.place):
            nowhere = np.zeros(len(place), bool)
            return np.zeros(len(place), np.uint64), nowhere, nowhere
        at = np.minimum(np.searchsorted(self.place, place), len(self.place) - 1)
        known = self.place[at] == place
        return self.scope[at], known, known & self.shared[at]


def _as_before(key: np.ndarray) -> np.ndarray:
    """Return by row whether its key is that of the row before."""
    same = np.zeros(len(key), bool)
    same[1:] = key[1:] == key[:-1]
    return same


def _following(since: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Return by row when the next one of its key begins."""
    following = np.full(len(since), FOREVER)
    following[:-1][same[1:]] = since[1:][same[1:]]
    return following


def _resumed(
    same: np.ndarray, until: np.ndarray, following: np.ndarray, unbegun: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find what holds again where a later claim has ended: several services may have one address at a time.

    It is the last claim before without a known beginning that lasts longer, and after that one such again.

    Args:
        same: by row, whether its key is that of the row before.
        until: by row.
        following: by row, when the next one of its key begins.
        unbegun: by row, whether it is a claim without a known beginning.

    Returns:
        Rows that have ended, ascending, when something holds again after each, and the row that does.

    """
    row = np.arange(len(until))
    first = np.maximum.accumulate(np.where(same, 0, row))
    before = np.full(len(until), -1)
    before[1:] = np.maximum.accumulate(np.where(unbegun, row, -1))[:-1]
    found: list[tuple[int, int, int]] = []
    lasting: list[int] = []  # rows without a known beginning, of which each ends before those before it
    for each in np.flatnonzero(np.isin(first, first[(until < following) & (before >= first)])).tolist():
        if not same[each]:
            lasting = []
        time = int(until[each])
        longer = held = bisect_left(lasting, -time, key=lambda other: -int(until[other]))
        while held and time < following[each]:
            held -= 1
            found.append((each, time, lasting[held]))
            time = int(until[lasting[held]])
        if unbegun[each]:
            lasting[longer:] = [each]
    ended, again_ns, again = np.array(found, np.int64).reshape(-1, 3).T
    return ended, again_ns, again


class Timeline:
    """Collects claims.

    Args:
        slack_ns: how long after its end a claim still holds, unless another one begins: what is told of late.

    """

    def __init__(self, slack_ns: int = 0) -> None:
        self._slack_ns = slack_ns
        self._columns: dict[str, np.ndarray] = {
            "place": np.zeros(1024, np.uint64),
            "scope": np.zeros(1024, np.uint64),
            "since": np.zeros(1024, np.int64),
            "until": np.zeros(1024, np.int64),
            "told": np.zeros(1024, np.int64),
            "entity": np.zeros(1024, np.uint32),  # 0: no claim
        }
        self._free: list[int] = list(range(1023, -1, -1))
        self._view: TimelineView | None = None

    def __len__(self) -> int:
        return len(self._columns["entity"]) - len(self._free)

    def add(self, place: int, scope: int, entity: int, told_ns: int) -> int:
        """Add a claim that was told at a time; return its number, for `hold` and `remove`."""
        if not self._free:
            size = len(self._columns["entity"])
            self._columns = {
                name: np.concatenate((column, np.zeros_like(column))) for name, column in self._columns.items()
            }
            self._free = list(range(2 * size - 1, size - 1, -1))
        number = self._free.pop()
        values = (place, scope, NOT_KNOWN, FOREVER, told_ns, entity)
        for column, value in zip(self._columns.values(), values, strict=True):
            column[number] = value
        self._view = None
        return number

    def hold(self, number: int, since_ns: int, until_ns: int) -> None:
        """Let a claim hold from one time (`NOT_KNOWN`: once the one before has ended) to another."""
        self._columns["since"][number] = since_ns
        self._columns["until"][number] = until_ns
        self._view = None

    def remove(self, number: int) -> None:
        """Forget a claim."""
        self._columns["entity"][number] = 0
        self._free.append(number)
        self._view = None

    def view(self) -> TimelineView:
        """Return the claims as they are."""
        if self._view is None:
            self._view = self._sorted()
        return self._view

    def _sorted(self) -> TimelineView:
        used = np.flatnonzero(self._columns["entity"])
        claims = {name: column[used] for name, column in self._columns.items()}
        key = keys_of(claims["place"], claims["scope"])
        order = np.lexsort(
            (claims["told"], np.where(claims["since"] == NOT_KNOWN, claims["told"], claims["since"]), key)
        )
        key = key[order]
        claims = {name: column[order] for name, column in claims.items()}
        since, until, told = claims["since"], claims["until"], claims["told"]
        same = _as_before(key)
        previous_end = np.empty_like(until)
        previous_end[1:] = until[:-1]
        # When a claim began is not always told: no earlier than the one before ended, if that has ended.
        guess = np.where(same, np.minimum(previous_end, told), _ALWAYS)
        unbegun = since == NOT_KNOWN
        since = np.where(unbegun, guess, since)
        following = _following(since, same)
        ended, again_ns, again = _resumed(same, until, following, unbegun)
        if len(ended):
            rows = np.insert(np.arange(len(key)), ended + 1, again)
            since = np.insert(since, ended + 1, again_ns)
            key, until = key[rows], until[rows]
            claims = {name: column[rows] for name, column in claims.items()}
            following = _following(since, _as_before(key))
        extended = np.where(until > FOREVER - self._slack_ns, FOREVER, until + self._slack_ns)
        by_place = np.argsort(claims["place"], kind="stable")
        ordered, of = claims["place"][by_place], claims["scope"][by_place]
        first = np.ones(len(ordered), bool)
        first[1:] = ordered[1:] != ordered[:-1]
        differs = np.zeros(len(ordered), bool)
        differs[1:] = (ordered[1:] == ordered[:-1]) & (of[1:] != of[:-1])
        shared = np.logical_or.reduceat(differs, np.flatnonzero(first)) if len(ordered) else differs
        return TimelineView(
            places=PlaceFilter(claims["place"]),
            key=key,
            since=since,
            until=np.minimum(extended, following),
            entity=claims["entity"],
            claimed=claims["place"],
            place=ordered[first],
            scope=of[first],
            shared=shared,
        )
