"""Rows by flow: the two ends of one have the same key, whichever of them tells.

A window's rows are taken in parts by the hash of their flow's key, so that what is made of them takes as much memory as
a part needs, however large the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from intake.columns import is_constant, words
from reducer.columns.hash_index import HashIndex
from reducer.columns.key_columns import KEY_WORDS
from reducer.windows.rows import ROW_COLUMNS
from reducer.windows.window import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from intake.columns import Columns
    from reducer.knowledge.owners import OwnersView

PORTS, SCOPE = 4, 5
"""Which words of a key hold the protocol and the ports (low << 16 | high), and the scope."""

# What is made of a row takes about 600 bytes while its part is matched and named.
MOST_ROWS_OF_PART = 1 << 17
_KEY_COLUMNS = (
    *("protocol", "local_address", "remote_address", "local_port", "remote_port"),
    *("process", "network_namespace"),
)
_ROW_COLUMNS = tuple(column.name for column in ROW_COLUMNS)
_V4_MAPPED_LOOPBACK, _V4_LOOPBACK_BITS = np.uint64(0x7F_FFFF_0000), np.uint64(0xFF_FFFF_FFFF)
_V6_LOOPBACK = np.uint64(1 << 56)
# So many rows are given their hashes at a time: what is in between stays in the processor's cache.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Hashed:
    """Rows with the hashes of their flows.

    Attributes:
        rows: the columns; addresses as pairs of uint64, `process` as owners.
        hashes: of each row's flow, uint64.
        side: of each row, int64: of the flow's low or high endpoint.
        owners: what the owners mean.

    """

    rows: Columns
    hashes: np.ndarray
    side: np.ndarray
    owners: OwnersView

    def keys(self, these: np.ndarray) -> np.ndarray:
        """Return the keys, (KEY_WORDS, n) uint64, of the flows of some rows."""
        keys, _ = keys_of({name: _taken(name, self.rows[name], these) for name in _KEY_COLUMNS}, self.owners)
        return keys


@dataclass(frozen=True)
class Grouped:
    """Rows by flow.

    Attributes:
        rows: the columns; addresses as pairs of uint64, `process` as owners.
        numbers: of the flows by their hashes, in the order of their first rows.
        keys: (KEY_WORDS, flows) uint64.
        hashes: of the flows.
        end: of each row: 2 * flow + side.

    """

    rows: Columns
    numbers: HashIndex
    keys: np.ndarray
    hashes: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)


class Parts:
    """The rows of some tables, of one kind, in as many parts by the hashes of their flows; *count* is a power of 2.

    Keys are told apart by a 64-bit hash; *seed* must be secret, since who sends rows may choose their addresses.
    """

    def __init__(
        self, tables: Sequence[Columns], owners: OwnersView, seed: int, names: tuple[str, ...], count: int = 1
    ) -> None:
        self._owners = owners
        self._names = names
        self._tables = [_PartedTable(table, owners, seed, count) for table in tables]

    def part(self, number: int) -> Hashed:
        """Return the rows of a part, in the order of the tables."""
        parts = [table.part(number, self._names) for table in self._tables]
        hashes = np.concatenate([hashes for _, hashes, _ in parts])
        side = np.concatenate([side for *_, side in parts])
        return Hashed(joined([rows for rows, _, _ in parts], self._names), hashes, side, self._owners)


class _PartedTable:
    def __init__(self, table: Columns, owners: OwnersView, seed: int, count: int) -> None:
        self._columns = table
        keys = {name: words(table[name]) for name in _KEY_COLUMNS}
        rows = len(table["process"])
        self._hashes, self._side = np.empty(rows, np.uint64), np.empty(rows, bool)
        for begin in range(0, rows, _BLOCK):
            block = slice(begin, min(begin + _BLOCK, rows))
            of_rows, self._side[block] = keys_of(_some_keys(keys, block), owners)
            self._hashes[block] = hashed(of_rows, seed)
        self._order: np.ndarray | None = None
        if count > 1:
            part = part_of(self._hashes, count)
            self._order = np.argsort(part, kind="stable")
            self._bounds = np.concatenate(([0], np.cumsum(np.bincount(part, minlength=count))))

    def part(self, number: int, names: tuple[str, ...]) -> tuple[Columns, np.ndarray, np.ndarray]:
        """Return the rows of a part, the hashes of their flows, and their sides."""
        columns = {name: words(self._columns[name]) for name in names}
        if self._order is None:
            return columns, self._hashes, self._side.astype(np.int64)
        these = self._order[self._bounds[number] : self._bounds[number + 1]]
        rows = {name: _taken(name, column, these) for name, column in columns.items()}
        return rows, self._hashes[these], self._side[these].astype(np.int64)


def parts_for(rows: int) -> int:
    """Return into how many parts to take so many rows: a power of 2."""
    return 1 << max(0, -(-rows // MOST_ROWS_OF_PART) - 1).bit_length()


def part_of(hashes: np.ndarray, count: int) -> np.ndarray:
    """Return of which part flows with these hashes are, uint16; `HashIndex` goes by the upper bits, so by the lower."""
    return (hashes & np.uint64(count - 1)).astype(np.uint16)


def split(these: np.ndarray, hashes: np.ndarray, count: int) -> list[np.ndarray]:
    """Return *these*, whose flows have these hashes, by part, in their order."""
    part = part_of(hashes, count)
    order = np.argsort(part, kind="stable")
    return np.split(these[order], np.cumsum(np.bincount(part, minlength=count))[:-1])


def group(hashed_rows: Hashed) -> Grouped:
    """Return rows by flow."""
    hashes = hashed_rows.hashes
    numbers = HashIndex(len(hashes))
    flow, first = numbers.find_or_add(hashes, numbers.next)
    return Grouped(hashed_rows.rows, numbers, hashed_rows.keys(first), hashes[first], 2 * flow + hashed_rows.side)


def grouped(tables: list[Columns], owners: OwnersView, seed: int) -> Grouped:
    """Return the rows of sockets in *tables* by flow, in one part."""
    return group(Parts(tables, owners, seed, _ROW_COLUMNS).part(0))


def hashed(keys: np.ndarray, seed: int) -> np.ndarray:
    """Return a uint64, not 0, for each of (KEY_WORDS, n) *keys*."""
    hashes = pl.DataFrame({str(word): keys[word] for word in range(KEY_WORDS)}).hash_rows(seed=seed).to_numpy()
    told: np.ndarray = np.maximum(hashes, 1)
    return told


def keys_of(rows: Columns, owners: OwnersView) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and which rows are of the high endpoint; the order of endpoints means nothing but is the same."""
    local, remote = rows["local_address"], rows["remote_address"]
    local_0, local_1, remote_0, remote_1 = local[0::2], local[1::2], remote[0::2], remote[1::2]
    local_port, remote_port = rows["local_port"].astype(np.uint64), rows["remote_port"].astype(np.uint64)
    high_by_port = (local_0 > remote_0) | ((local_0 == remote_0) & (local_port > remote_port))
    high = (local_1 > remote_1) | ((local_1 == remote_1) & high_by_port)
    keys = np.empty((KEY_WORDS, len(high)), np.uint64)
    keys[0], keys[1] = np.where(high, remote_0, local_0), np.where(high, remote_1, local_1)
    keys[2], keys[3] = np.where(high, local_0, remote_0), np.where(high, local_1, remote_1)
    shift = np.uint64(16)
    keys[PORTS] = np.where(high, remote_port << shift | local_port, local_port << shift | remote_port)
    keys[PORTS] |= rows["protocol"].astype(np.uint64) << np.uint64(32)
    keys[SCOPE] = 0
    loopback = np.flatnonzero(in_loopback(rows))
    if len(loopback):
        scope = owners.scope[owners.session[rows["process"][loopback]]]
        keys[SCOPE, loopback] = scope ^ rows["network_namespace"][loopback]
    if owners.realms is not None:
        session = owners.session[rows["process"]]
        realm = owners.realms.of(local.reshape(-1, 2), remote.reshape(-1, 2), session)
        if realm is not None:
            keys[SCOPE] ^= realm
    return keys, high


def in_loopback(rows: Columns) -> np.ndarray:
    """Return which rows have a loopback address: at one end alone where a machine redirects to a port of its own."""
    local, remote = (is_loopback(words(rows[name])) for name in ("local_address", "remote_address"))
    either: np.ndarray = local | remote
    return either


def is_loopback(address: np.ndarray) -> np.ndarray:
    """Return which of these addresses, pairs of uint64, are 127.0.0.0/8 or ::1."""
    first, second = address[0::2], address[1::2]
    v4 = (second & _V4_LOOPBACK_BITS) == _V4_MAPPED_LOOPBACK
    loopback: np.ndarray = (first == 0) & (v4 | (second == _V6_LOOPBACK))
    return loopback


def _some_keys(keys: Columns, rows: slice) -> Columns:
    """Return what `keys_of` needs of some rows."""
    pairs = slice(2 * rows.start, 2 * rows.stop)
    return {name: column[pairs if name.endswith("_address") else rows] for name, column in keys.items()}


def _taken(name: str, column: np.ndarray, these: np.ndarray) -> np.ndarray:
    """Return *these* rows of a column."""
    elements = 2 if name.endswith("_address") else 1
    if is_constant(column):
        return np.broadcast_to(column[:1], elements * len(these))
    taken: np.ndarray = column[these] if elements == 1 else column.reshape(-1, elements)[these].ravel()
    return taken
