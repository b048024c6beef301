"""Decides between a flow's two witnesses while it lives, so that each byte is emitted once.

For each counter of each direction S is what the sender's rows said in all, R what the receiver's said, and E what was
emitted; kept are S - E and R - E. A window's rows are added, a total is chosen, and max(0, total - E) is emitted.

No end can have seen more than there was, so the greater of S and R never counts anything twice, and is complete where
one of the two is. The sender's word alone is taken while it is complete by itself, since it is the more exact one: its
rows tell the flow from its beginning (`WHOLE`; a row marked `baseline` does not), its collector has told all until the
window's end, and nothing was emitted before that it had not told.

Where a flow is silent, and its receiver told more than was emitted, the same decides whether the rest is emitted: when
the sender's collector is not heard any more.

An end that knows only a part (`BASELINE`) is behind E by the rest. Once the other end's collector is gone for good,
that would keep it from ever being heard: so its balance is then raised to 0.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reducer.agreement import Agreement
from reducer.cells import Cells, joined_cells
from reducer.drops import dropped
from reducer.flows import (
    BASELINE,
    CONNECTOR_UNKNOWN,
    COUNTERS,
    MOST_FLOWS,
    UNSEEN,
    WHOLE,
    ConnectorSide,
    Counter,
    FlowTable,
    by_side,
    other,
)
from reducer.match import (
    PORTS,
    Ends,
    Grouped,
    add_up,
    by_protocol,
    directed_values,
    forward_directions,
    group,
    guess_connector,
    latencies,
    look_ahead,
    special_ends,
    witnesses,
)
from reducer.owners import UNKNOWN_OWNER
from reducer.ports import split_by_owner
from reducer.receivers import SharedReceivers
from reducer.request_balances import RequestBalances
from reducer.requests import Requests
from reducer.rows import SOCKETS, no_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from intake.columns import Columns
    from reducer.handover import Handover
    from reducer.narrow import Narrow
    from reducer.owners import OwnersView
    from reducer.requests import Told

# Tables whose rows tell the owners of ends.
_TELLING = (SOCKETS, "dns", "http")


@dataclass(frozen=True)
class Matched:
    """The flows of a window; arrays by end or direction have two elements a flow, as in `FlowTable`.

    A flow whose ports several owners used is there once for each pair of them.

    Attributes:
        owner: by end, uint32.
        special: by end, uint8: `Special`.
        key: (KEY_WORDS, flows) uint64.
        connector: by flow, int8: the side that connected, as far as that is known.
        began_ns: by flow, int64: when it began; 0 where that is not known.
        told_ns: by flow, int64: when its last row of the window came, of those that tell of a connection's beginning
            that; 0 where it has none.
        values: by direction, int64; value columns without any value are left out.
        cells: by direction, what few of them have.

    """

    owner: np.ndarray
    special: np.ndarray
    key: np.ndarray
    connector: np.ndarray
    began_ns: np.ndarray
    told_ns: np.ndarray
    values: dict[str, np.ndarray]
    cells: Cells


class Matcher:
    """Matches window after window.

    Attributes:
        flows: the memory.
        requests: the balances of requests.
        agreement: of the two ends of flows.
        receivers: of flows to many, those whose word counts.

    """

    def __init__(self, most_flows: int = MOST_FLOWS) -> None:
        self.flows = FlowTable(most_flows)
        self.requests = RequestBalances()
        self.agreement = Agreement()
        self.receivers = SharedReceivers()
        self.seed = secrets.randbits(64)

    @property
    def pending(self) -> bool:
        """Whether a silent window would emit something."""
        return bool(self.flows.pending[self.flows.slots].any())

    def match(
        self,
        window: int,
        tables: Mapping[str, list[Columns]],
        later: Mapping[str, list[Columns]],
        owners: OwnersView,
        *,
        heard: np.ndarray,
        gone: np.ndarray,
        handover: Handover | None = None,
    ) -> Matched:
        """Return the flows of a window, and remember them.

        Args:
            window: its index, rising.
            tables: its rows by table, with owners as `process`.
            later: the rows of windows that are still open.
            owners: what the owners mean.
            heard: by owner, whether its collector has told all until the window's end.
            gone: by owner, whether its collector has been silent for so long that it will not come back.
            handover: of addresses between pods; None: there was none.

        """
        flows = self.flows
        grouped = group(tables.get(SOCKETS) or [no_rows()], owners, self.seed)
        grouped = self.receivers.hear_one(window, grouped, owners)
        requests = Requests(tables, grouped.numbers, owners, self.seed)
        slots = np.concatenate(
            (
                flows.find_or_add(grouped.hashes, grouped.keys),
                flows.find_or_add(requests.hashes, requests.keys),
            )
        )
        flows.last_seen[slots] = window
        self._note_beginnings(grouped, slots)
        silent = self._silent(slots)
        ends = add_up(grouped, owners, len(requests.hashes) + len(silent))
        requests.fill(ends)
        slots = np.concatenate((slots, silent))
        self._recall(ends, slots)
        hashes = np.concatenate((grouped.hashes, requests.hashes))
        look_ahead(hashes, ends, [rows for name in _TELLING for rows in later.get(name, ())], owners, self.seed)
        at = by_side(slots)
        flows.owner[at] = ends.owner
        flows.connector[slots] = ends.connector
        self._mark(ends, at)
        keys = flows.keys(slots)
        connector = guess_connector(ends.connector, keys[PORTS])
        forward = forward_directions(connector)
        emitted = self._emit(ends, forward, slots, heard, gone)
        self.agreement.emitted(flows, at, emitted.get("bytes", np.zeros(len(at), np.int64)))
        cells = self._settle(requests.told(connector), at, heard[ends.owner], gone[ends.owner])
        values = directed_values(ends, connector, emitted)
        own = split_by_owner(grouped, ends, connector, values, owners)
        began, told = flows.began[slots], np.zeros(len(slots), np.int64)
        np.maximum.at(told, grouped.end >> 1, grouped.rows["time"])
        if handover is not None:
            own = own.joined(handover.split(grouped, ends, connector, values, owners, began_ns=began, told_ns=told))
        drops = dropped(tables.get("drops", []), owners, self.seed, flows, slots)
        of_flow = np.concatenate((np.arange(len(slots)), own.flow))
        keys = np.concatenate((keys[:, of_flow], drops.keys), axis=1)
        strange = np.zeros(drops.keys.shape[1], np.int64)
        moment = np.concatenate((np.zeros(len(slots), np.int64), own.moment_ns))
        began, told = (np.concatenate((np.where(moment, moment, each[of_flow]), strange)) for each in (began, told))
        connector = np.concatenate((connector[of_flow], strange.astype(ConnectorSide)))
        awaited = self._awaited(flows.idle(window), (owners.session != 0) & ~heard)
        self.agreement.forgotten(flows, flows.forget(window, self._finished(slots), awaited))
        self.requests.forget(flows)
        nothing = np.zeros(len(drops.owner), np.int64)
        if len(own.flow) or len(nothing):
            values = {name: np.concatenate((column, own.values[name], nothing)) for name, column in values.items()}
        values = by_protocol(values, keys[PORTS])
        cells = joined_cells((cells, latencies(grouped, forward, own), drops.after(len(own.owner), len(at))))
        owner = np.concatenate((ends.owner, own.owner, drops.owner))
        return Matched(owner, special_ends(keys), keys, connector, began, told, values, cells)

    def _note_beginnings(self, grouped: Grouped, slots: np.ndarray) -> None:
        """Note when flows began: what their addresses meant then is what they mean for them."""
        began, flow, time = self.flows.began, grouped.end >> 1, grouped.rows["time"]
        first = np.full(len(grouped), np.iinfo(np.int64).max)
        np.minimum.at(first, flow, time)
        known = slots[: len(grouped)]
        began[known] = np.where(began[known] == 0, first, began[known])
        opened = np.flatnonzero(grouped.rows["opened"])
        np.maximum.at(began, known[flow[opened]], time[opened])

    def _silent(self, slots: np.ndarray) -> np.ndarray:
        """Return the slots of pending flows that have no rows in this window."""
        pending = self.flows.pending.copy()
        pending[slots] = False
        known: np.ndarray = self.flows.slots[pending[self.flows.slots]]
        return known

    def _recall(self, ends: Ends, slots: np.ndarray) -> None:
        """Fill in what is known from before of ends that have no rows, in place."""
        known = self.flows.owner[by_side(slots)]
        np.copyto(ends.owner, known, where=ends.owner == UNKNOWN_OWNER)
        np.copyto(ends.connector, self.flows.connector[slots], where=ends.connector == CONNECTOR_UNKNOWN)

    def _mark(self, ends: Ends, at: np.ndarray) -> None:
        """Note what the ends know, and which have closed all their sockets."""
        flows = self.flows
        spoke = ends.sockets > 0
        flows.knows[at[spoke & (flows.knows[at] == UNSEEN)]] = WHOLE
        flows.knows[at[ends.baseline]] = BASELINE
        flows.done[at[spoke]] = ends.sum("closed")[spoke] >= ends.sockets[spoke]
        failed = [column for name, column in ends.sums.items() if name.startswith("failed_")]
        if failed:
            # Of a connect that failed the other end has nothing to tell.
            in_vain = np.flatnonzero(spoke & (np.sum(failed, axis=0) >= ends.sockets))
            flows.done[at[in_vain]] = True
            flows.done[at[in_vain ^ 1]] |= flows.knows[at[in_vain ^ 1]] == UNSEEN

    def _settle(self, told: Told, at: np.ndarray, end_heard: np.ndarray, end_gone: np.ndarray) -> Cells:
        """Return the requests by direction, each taken from one of its ends."""
        flows = self.flows
        flows.asks[at[told.by_client.place]] = True
        emitted = self.requests.settle(
            told,
            at,
            complete=flows.asks[at] & (flows.knows[at] != BASELINE) & end_heard,
            client_alone=end_heard & other(end_gone),
            server_alone=other(end_heard) & end_gone,
        )
        flows.pending[self.requests.pending()] = True
        return joined_cells((emitted, told.alone))

    def _emit(
        self, ends: Ends, forward: np.ndarray, slots: np.ndarray, heard: np.ndarray, gone: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return what is emitted of each counter by direction, and keep the balances."""
        flows = self.flows
        at = by_side(slots)
        end_heard = heard[ends.owner]
        sender_complete = (flows.knows[at] == WHOLE) & end_heard
        left_alone = (flows.knows[at] == BASELINE) & end_heard & other(gone[ends.owner])
        for counter in COUNTERS if left_alone.any() else ():
            _raise_to_zero(flows.sender[counter.name], at[left_alone])
            _raise_to_zero(flows.receiver[counter.name], at[other(left_alone)])
        was_pending = np.repeat(flows.pending[slots], 2)
        flows.pending[slots] = False
        told = witnesses(ends, forward)
        emitted = {}
        nothing = np.zeros(len(at), np.int64)
        for counter in COUNTERS:
            if counter.name not in told and not was_pending.any():
                continue
            sender, receiver = told.get(counter.name, (nothing, nothing))
            touched = np.flatnonzero((sender != 0) | (receiver != 0) | was_pending)
            amount, owed = self._balance(
                counter, at[touched], sender[touched], receiver[touched], sender_complete[touched]
            )
            if counter.flushed:
                flows.pending[slots[touched[owed] >> 1]] = True
            emitted[counter.name] = np.zeros(len(at), np.int64)
            emitted[counter.name][touched] = amount
        return emitted

    def _balance(
        self, counter: Counter, at: np.ndarray, sender: np.ndarray, receiver: np.ndarray, sender_complete: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what is emitted, and where the receiver told more than that."""
        sender_balance, receiver_balance = self.flows.sender[counter.name], self.flows.receiver[counter.name]
        before = sender_balance[at]
        said = sender + before
        witnessed = receiver + receiver_balance[at]
        total = np.where(sender_complete & (before >= 0), said, np.maximum(said, witnessed))
        amount = np.maximum(total, 0)
        sender_balance[at] = said - amount
        receiver_balance[at] = witnessed - amount
        return amount, witnessed > amount

    def _awaited(self, idle: np.ndarray, away: np.ndarray) -> np.ndarray:
        """Return those of *idle* slots of which an end has told less than was emitted, and may tell the rest later.

        If they were forgotten, that would be emitted again. *away* tells by owner whether its collector is.
        """
        at = by_side(idle)
        at_away = away[self.flows.owner[at]]
        if not at_away.any():
            return idle[:0]
        behind = np.isin(at, self.requests.at)
        for counter in COUNTERS:
            behind |= self.flows.sender[counter.name][at] < 0
            behind |= other(self.flows.receiver[counter.name][at]) < 0
        awaited: np.ndarray = idle[(behind & at_away).reshape(-1, 2).any(axis=1)]
        return awaited

    def _finished(self, slots: np.ndarray) -> np.ndarray:
        """Return the slots of flows of which nothing more is to come: closed, and told in full by both ends."""
        at = by_side(slots[self.flows.done[by_side(slots)].reshape(-1, 2).all(axis=1)])
        balanced = np.ones(len(at), bool)
        for counter in COUNTERS:
            if counter.flushed:
                for balance in (self.flows.sender[counter.name], self.flows.receiver[counter.name]):
                    balanced &= balance[at] == 0
        finished: np.ndarray = at[0::2][balanced.reshape(-1, 2).all(axis=1)] >> 1
        return finished[~np.isin(finished, self.requests.at >> 1)] if len(self.requests) else finished


def _raise_to_zero(balance: Narrow, at: np.ndarray) -> None:
    balance[at] = np.maximum(balance[at], 0)
