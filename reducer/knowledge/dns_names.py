"""The names that the DNS gave addresses for, as each machine's programs were told them, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reducer.knowledge.entities import DnsName
from reducer.knowledge.timeline import keys_of, last_before, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ebpf_net.v1 import intake_pb2

NO_NAME = 0
MOST_OF_SESSION = 100_000
# A row takes 32 bytes, a name about 200.
MOST_ROWS = 1_000_000
# What an address was called before, so that flows that began then keep their names.
MOST_OF_ADDRESS = 8
_KEPT = 0.9


@dataclass(slots=True)
class Answers:
    """What a batch told: the addresses of all names one after the other, and how many each has."""

    scope: int
    time_ns: int
    names: list[str]
    counts: list[int]
    addresses: bytes


class DnsNames:
    """The names by session, address and time; those that were used last stay.

    `learn` may be called while all else goes on in another thread; `take` hands over.

    Attributes:
        generation: rises when numbers of names were given again.
        names: by number; None at `NO_NAME` and where a number is free.
        refused: addresses that were not named since too many came at once.

    """

    def __init__(self) -> None:
        self.generation = 0
        self.names: list[DnsName | None] = [None]
        self.refused = 0
        self._pending: list[Answers] = []
        self._pending_rows = 0
        self._number: dict[str, int] = {}
        # Rows, sorted by key and time.
        self._key = np.empty(0, np.uint64)
        self._since = np.empty(0, np.int64)
        self._name = np.empty(0, np.uint32)
        self._scope = np.empty(0, np.uint64)
        self._used = np.empty(0, np.int32)
        self._window = 0

    def __len__(self) -> int:
        return len(self._key)

    def learn(self, scope: int, told: Iterable[intake_pb2.DnsName], time_ns: int) -> None:
        """Take the answers in a batch of the session with this scope."""
        answers = [each for each in told if each.name and each.addresses]
        if not answers:
            return
        counts = [len(each.addresses) for each in answers]
        if self._pending_rows + sum(counts) > MOST_ROWS:
            self.refused += sum(counts)
            return
        self._pending_rows += sum(counts)
        addresses = b"".join(address for each in answers for address in each.addresses)
        self._pending.append(Answers(scope, time_ns, [each.name for each in answers], counts, addresses))

    def take(self) -> list[Answers]:
        """Return what was learnt since, for `begin_window`."""
        pending, self._pending, self._pending_rows = self._pending, [], 0
        return pending

    def begin_window(self, learnt: list[Answers]) -> None:
        """Know what was learnt."""
        self._window += 1
        if learnt:
            self._add(learnt)
            self._forget_least_used()

    def find(self, place: np.ndarray, scope: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return by place the number of the name that the session had for it at a time, uint32."""
        if not len(self._key):
            return np.zeros(len(place), np.uint32)
        row, known = last_before(self._key, self._since, keys_of(place, scope), time)
        self._used[row[known]] = self._window
        return np.where(known, self._name[row], NO_NAME).astype(np.uint32)

    def _add(self, learnt: list[Answers]) -> None:
        words = np.frombuffer(b"".join(each.addresses for each in learnt), np.uint64).reshape(-1, 2)
        rows = [sum(each.counts) for each in learnt]
        counts = [count for each in learnt for count in each.counts]
        numbers = np.array([self._numbered(name) for each in learnt for name in each.names], np.uint32)
        scope = np.repeat(np.array([each.scope for each in learnt], np.uint64), rows)
        key = np.concatenate((self._key, keys_of(place_of(words), scope)))
        since = np.concatenate((self._since, np.repeat(np.array([each.time_ns for each in learnt], np.int64), rows)))
        columns = (
            key,
            since,
            np.concatenate((self._name, np.repeat(numbers, counts))),
            np.concatenate((self._scope, scope)),
            np.concatenate((self._used, np.full(len(words), self._window, np.int32))),
        )
        order = np.lexsort((columns[2], since, key))
        self._keep(np.ones(len(order), bool), [column[order] for column in columns])
        # The same name again begins nothing, but the address is in use.
        again = np.zeros(len(order), bool)
        again[1:] = (self._key[1:] == self._key[:-1]) & (self._name[1:] == self._name[:-1])
        first = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
        np.maximum.at(self._used, first[again], self._used[again])
        self._keep(~again)
        self._keep(self._rank_from_last() < MOST_OF_ADDRESS)

    def _rank_from_last(self) -> np.ndarray:
        """Return of each row how many of its key come after it."""
        last = np.searchsorted(self._key, self._key, "right") - 1
        return last - np.arange(len(last))

    def _keep(self, kept: np.ndarray, columns: list[np.ndarray] | None = None) -> None:
        columns = columns or [self._key, self._since, self._name, self._scope, self._used]
        self._key, self._since, self._name, self._scope, self._used = (column[kept] for column in columns)

    def _forget_least_used(self) -> None:
        kept = np.ones(len(self), bool)
        scopes, of, counts = np.unique(self._scope, return_inverse=True, return_counts=True)
        for scope in np.flatnonzero(counts > MOST_OF_SESSION).tolist():
            rows = np.flatnonzero(of == scope)
            kept[rows[_least(self._used[rows], len(rows) - int(_KEPT * MOST_OF_SESSION))]] = False
        if len(scopes) and np.count_nonzero(kept) > MOST_ROWS:
            rows = np.flatnonzero(kept)
            kept[rows[_least(self._used[rows], len(rows) - int(_KEPT * MOST_ROWS))]] = False
        if not kept.all():
            self._keep(kept)
        if len(self._number) > 2 * len(self) + MOST_OF_ADDRESS or not kept.all():
            self._forget_unused_names()

    def _forget_unused_names(self) -> None:
        """Forget names that no row has, and number the others anew."""
        numbers, self._name = (each.astype(np.uint32) for each in np.unique(self._name, return_inverse=True))
        self._name += 1
        self.names = [None, *(self.names[number] for number in numbers.tolist())]
        self._number = {name.name: number for number, name in enumerate(self.names) if name is not None}
        self.generation += 1

    def _numbered(self, name: str) -> int:
        number = self._number.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(DnsName(name))
        return number


def _least(used: np.ndarray, count: int) -> np.ndarray:
    """Return which *count* rows were used the longest ago."""
    return np.argpartition(used, count - 1)[:count]
