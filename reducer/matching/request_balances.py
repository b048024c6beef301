"""Decides between the two witnesses of each count of requests while its flow lives, so that each is emitted once.

The rule is that of memory.py, with who asks in the sender's place and who answers in the receiver's. Most
balances are 0 at a window's end, and only the others are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.columns.cells import NO_CELLS, Cells, cells_of
from reducer.matching.grouping import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reducer.matching.balance_limit import BalanceLimit
    from reducer.matching.flows import FlowTable
    from reducer.matching.requests import Told

# 28 bytes each. Beyond it those of the flows that were idle the longest are forgotten.
MOST_BALANCES = 2_000_000


class RequestBalances:
    """What each witness told beyond what was emitted, where that is not 0.

    Attributes:
        at: int64: index by direction in the `FlowTable`.
        code: uint32: of the cell.
        client: int64: what the client told, less what was emitted.
        server: the same of the server.
        forgotten: balances that were forgotten early since there were too many.

    """

    def __init__(self, limit: BalanceLimit, most_balances: int = MOST_BALANCES) -> None:
        self._limit = limit
        self.at, self.code = np.empty(0, np.int64), np.empty(0, np.uint32)
        self.client, self.server = np.empty(0, np.int64), np.empty(0, np.int64)
        self.forgotten = 0
        self._most_balances = most_balances

    def __len__(self) -> int:
        return len(self.at)

    def settle(
        self, told: Told, at: np.ndarray, complete: np.ndarray, client_alone: np.ndarray, server_alone: np.ndarray
    ) -> Cells:
        """Return what is emitted, by direction of the window, and keep the balances.

        Args:
            told: by direction of the window.
            at: by direction of the window, its index in the `FlowTable`.
            complete: by direction, whether the client has told all until the window's end.
            client_alone: by direction, whether the client has, and the server will tell nothing more.
            server_alone: the same with the two exchanged.

        """
        if not len(told.by_client) and not len(told.by_server) and not len(self):
            return NO_CELLS
        order = np.argsort(at)
        place = np.minimum(np.searchsorted(at[order], self.at), len(at) - 1)
        direction = order[place] if len(at) else place
        here = at[direction] == self.at if len(at) else np.zeros(len(self), bool)
        frame = _sums(
            _frame(told.by_client.place, told.by_client.code, said=told.by_client.amount),
            _frame(told.by_server.place, told.by_server.code, witnessed=told.by_server.amount),
            _frame(direction[here], self.code[here], client=self.client[here], server=self.server[here]),
        )
        direction, code = frame["direction"].to_numpy(), frame["code"].to_numpy()
        client, server = frame["client"].to_numpy(), frame["server"].to_numpy()
        said, witnessed = frame["said"].to_numpy() + client, frame["witnessed"].to_numpy() + server
        total = np.where(complete[direction] & (client >= 0), said, np.maximum(said, witnessed))
        amount = np.maximum(total, 0)
        client, server = self._limit.keep(said - amount), self._limit.keep(witnessed - amount)
        # What the one that is left has not told by now it will not tell.
        client = np.where(client_alone[direction], np.maximum(client, 0), client)
        server = np.where(server_alone[direction], np.maximum(server, 0), server)
        apart = (client != 0) | (server != 0)
        self.at = np.concatenate((self.at[~here], at[direction[apart]]))
        self.code = np.concatenate((self.code[~here], code[apart]))
        self.client = np.concatenate((self.client[~here], client[apart]))
        self.server = np.concatenate((self.server[~here], server[apart]))
        return cells_of(direction, code, amount)

    def parts(self, hashes: np.ndarray, count: int) -> list[RequestBalances]:
        """Return them in as many parts by the *hashes* of their flows."""
        found = []
        for these in split(np.arange(len(self)), hashes, count):
            part = RequestBalances(self._limit)
            part.at, part.code = self.at[these], self.code[these]
            part.client, part.server = self.client[these], self.server[these]
            found.append(part)
        return found

    def join(self, parts: Sequence[RequestBalances]) -> None:
        """Take what has become of all parts."""
        self.at, self.code = (np.concatenate([getattr(part, name) for part in parts]) for name in ("at", "code"))
        self.client = np.concatenate([part.client for part in parts])
        self.server = np.concatenate([part.server for part in parts])

    def pending(self) -> np.ndarray:
        """Return the slots of flows of which the server told more than was emitted."""
        return np.unique(self.at[self.server > 0] >> 1)

    def forget(self, flows: FlowTable) -> None:
        """Forget those of flows that are forgotten, and beyond the bound those of flows that were idle the longest."""
        if not len(self):
            return
        remembered = np.zeros(len(flows.last_seen), bool)
        remembered[flows.slots] = True
        kept = remembered[self.at >> 1]
        excess = int(np.count_nonzero(kept)) - self._most_balances
        if excess > 0:
            remaining = np.flatnonzero(kept)
            oldest = np.argpartition(flows.last_seen[self.at[remaining] >> 1], excess - 1)[:excess]
            kept[remaining[oldest]] = False
            self.forgotten += excess
        if not kept.all():
            self.at, self.code = self.at[kept], self.code[kept]
            self.client, self.server = self.client[kept], self.server[kept]


_AMOUNTS = ("said", "witnessed", "client", "server")


def _frame(direction: np.ndarray, code: np.ndarray, **amounts: np.ndarray) -> pl.DataFrame:
    nothing = np.zeros(len(direction), np.int64)
    columns = {name: amounts.get(name, nothing) for name in _AMOUNTS}
    return pl.DataFrame({"direction": direction, "code": code, **columns})


def _sums(*parts: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(parts).group_by("direction", "code").agg(pl.col(*_AMOUNTS).sum())
