"""What rows say of DNS and HTTP: whose requests, how many, and how long they took, by flow and direction.

A request belongs to the direction from who asks to who answers, whichever of them told. A count has both ends as
witnesses, so request_balances.py takes each request once; a latency is its own end's, and is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from ebpf_net.v1 import intake_pb2

from intake.columns import DNS_RESULTS, HTTP_STATUSES
from reducer.columns.cells import NO_CELLS, CellKind, Cells, cells_of, code_of, column_code, joined_cells
from reducer.columns.distributions import HIGHEST_BIN
from reducer.columns.key_columns import KEY_WORDS
from reducer.knowledge.owners import UNKNOWN_OWNER
from reducer.matching.flows import CONNECTOR_UNKNOWN
from reducer.matching.match import last_owners

if TYPE_CHECKING:
    from collections.abc import Mapping

    from intake.columns import Columns
    from reducer.columns.hash_index import HashIndex
    from reducer.knowledge.owners import OwnersView
    from reducer.matching.grouping import Hashed
    from reducer.matching.match import Ends

_COUNTS = {
    "dns": ("queries", "retransmits", "timeouts", *DNS_RESULTS),
    "http": ("requests", *HTTP_STATUSES),
}
# Kinds of latencies by who tells, the one who asks or the one who answers; and on the wire.
_LATENCIES = {
    "dns": (CellKind.DNS_CLIENT, CellKind.DNS_SERVER),
    "http": (CellKind.HTTP_CLIENT, CellKind.HTTP_SERVER),
}
_LATENCY_KINDS = {"dns": intake_pb2.BIN_KIND_DNS_LATENCY, "http": intake_pb2.BIN_KIND_HTTP_LATENCY}
_STATUS_CODES = (100, 999)
REQUEST_TABLES = (*_COUNTS, "bins")


@dataclass(frozen=True)
class Told:
    """Cells by direction of the flows of a window.

    Attributes:
        by_client: counts as the end that asks told them.
        by_server: the same of the end that answers.
        alone: what has one witness: latencies, and how many sockets were active.

    """

    by_client: Cells
    by_server: Cells
    alone: Cells


class Requests:
    """The rows of DNS, HTTP and bins of a window by flow.

    Attributes:
        hashes: of those flows that have no other rows: the first of them comes after the last *known* one.
        keys: of these flows, (KEY_WORDS, flows) uint64.

    """

    def __init__(self, tables: Mapping[str, Hashed], known: HashIndex, owners: OwnersView) -> None:
        """Make it.

        Args:
            tables: rows by table.
            known: the flows that have rows of sockets by their hashes; flows that have none are added.
            owners: what the owners mean.

        """
        told = {name: tables[name] for name in REQUEST_TABLES if name in tables}
        self._rows = {name: each.rows for name, each in told.items()}
        self._owners = owners
        flow, keys, hashes = [np.empty(0, np.int64)], [np.empty((KEY_WORDS, 0), np.uint64)], [np.empty(0, np.uint64)]
        for each in told.values():
            of_rows, first = known.find_or_add(each.hashes, known.next)
            flow.append(of_rows)
            keys.append(each.keys(first))
            hashes.append(each.hashes[first])
        self._flow = np.concatenate(flow)
        self.keys, self.hashes = np.concatenate(keys, axis=1), np.concatenate(hashes)
        self._side = np.concatenate([each.side for each in told.values()] or [np.empty(0, np.int64)])

    def fill(self, ends: Ends) -> None:
        """Fill in the owners of ends that have no rows of sockets, and who connected where these do not tell."""
        if not self._rows:
            return
        owner = np.concatenate([rows["process"] for rows in self._rows.values()])
        at = 2 * self._flow + self._side
        told = last_owners(at, owner, len(ends.owner), self._owners)
        np.copyto(ends.owner, told, where=ends.owner == UNKNOWN_OWNER)
        role = self._role()
        told = np.flatnonzero((role != intake_pb2.ROLE_UNKNOWN) & (ends.connector[self._flow] == CONNECTOR_UNKNOWN))
        accepts = role[told] == intake_pb2.ROLE_ACCEPTOR
        ends.connector[self._flow[told]] = self._side[told] ^ accepts

    def told(self, connector: np.ndarray) -> Told:
        """Return what the rows say; *connector* is the side of each flow that asks where a row does not say it."""
        role, side, parts = self._role(), self._side, []
        says = role != intake_pb2.ROLE_UNKNOWN
        asks = np.where(says, role == intake_pb2.ROLE_CONNECTOR, connector[self._flow] == side)
        direction = 2 * self._flow + (side ^ ~asks)
        begin = 0
        for name, rows in self._rows.items():
            part = slice(begin, begin + len(rows["process"]))
            begin = part.stop
            if name == "bins":
                parts.append(_told_by_bins(rows, direction[part], asks[part]))
            else:
                parts.append(_told_by_counts(name, rows, direction[part], asks[part], self._owners.session))
        if not parts:
            return Told(NO_CELLS, NO_CELLS, NO_CELLS)
        return Told(*(joined_cells([getattr(part, name) for part in parts]) for name in Told.__dataclass_fields__))

    def _role(self) -> np.ndarray:
        return np.concatenate([rows["role"] for rows in self._rows.values()] or [np.empty(0, np.uint8)])


def _told_by_counts(table: str, rows: Columns, direction: np.ndarray, asks: np.ndarray, session_of: np.ndarray) -> Told:
    by_client, by_server = [], []
    for name in _COUNTS[table]:
        code = column_code(f"{table}_{name}")
        by_client.append(cells_of(direction[asks], code, rows[name][asks]))
        by_server.append(cells_of(direction[~asks], code, rows[name][~asks]))
    alone = [_active(table, rows, direction, asks, session_of)]
    for end, tells in (("client", asks), ("server", ~asks)):
        for what in ("sum_us", "count"):
            code = column_code(f"{table}_{end}_{what}")
            alone.append(cells_of(direction[tells], code, rows[f"latency_{what}"][tells]))
    in_one_bin = rows["latency_bin"] != 0
    latency_bin = np.minimum(rows["latency_bin"].astype(np.int64) - 1, HIGHEST_BIN)
    for kind, tells in zip(_LATENCIES[table], (asks, ~asks), strict=True):
        alone.append(_binned(kind, in_one_bin & tells, direction, latency_bin, rows["latency_count"]))
    if table == "http":
        responses = sum((rows[name].astype(np.int64) for name in HTTP_STATUSES), np.zeros(len(asks), np.int64))
        has_one, status = rows["status"] != 0, _status_codes(rows["status"])
        for told, tells in ((by_client, asks), (by_server, ~asks)):
            told.append(_binned(CellKind.HTTP_STATUS, has_one & tells, direction, status, responses))
    return Told(joined_cells(by_client), joined_cells(by_server), joined_cells(alone))


def _active(table: str, rows: Columns, direction: np.ndarray, asks: np.ndarray, session_of: np.ndarray) -> Cells:
    """Return how many different sockets asked in each direction, or answered where none that asked is told of."""
    columns = {"direction": direction, "asks": asks, "socket": rows["socket"], "session": session_of[rows["process"]]}
    sockets = (
        pl.DataFrame(columns)
        .unique()
        .filter(pl.col("asks") | ~pl.col("asks").any().over("direction"))
        .group_by("direction")
        .len("sockets")
    )
    return cells_of(sockets["direction"].to_numpy(), column_code(f"{table}_active"), sockets["sockets"].to_numpy())


def _told_by_bins(rows: Columns, direction: np.ndarray, asks: np.ndarray) -> Told:
    kind, count, latency_bin = rows["kind"], rows["count"], np.minimum(rows["bin"], HIGHEST_BIN)
    alone = [
        _binned(cell_kind, (kind == _LATENCY_KINDS[table]) & tells, direction, latency_bin, count)
        for table, cell_kinds in _LATENCIES.items()
        for cell_kind, tells in zip(cell_kinds, (asks, ~asks), strict=True)
    ]
    is_status, status = kind == intake_pb2.BIN_KIND_HTTP_STATUS, _status_codes(rows["bin"])
    by_client, by_server = (
        _binned(CellKind.HTTP_STATUS, is_status & tells, direction, status, count) for tells in (asks, ~asks)
    )
    return Told(by_client, by_server, joined_cells(alone))


def _binned(kind: CellKind, which: np.ndarray, direction: np.ndarray, bins: np.ndarray, count: np.ndarray) -> Cells:
    """Return the rows *which* as cells of a kind."""
    return cells_of(direction[which], code_of(kind, bins[which]), count[which])


def _status_codes(told: np.ndarray) -> np.ndarray:
    """Return statuses with those that are none made 0."""
    lowest, highest = _STATUS_CODES
    return np.where((told >= lowest) & (told <= highest), told, 0)
