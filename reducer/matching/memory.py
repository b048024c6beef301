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

from reducer.columns.cells import joined_cells
from reducer.knowledge.owners import UNKNOWN_OWNER
from reducer.knowledge.timeline import place_of
from reducer.matching.agreement import Agreement
from reducer.matching.balance_limit import BalanceLimit
from reducer.matching.drops import dropped
from reducer.matching.flows import (
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
from reducer.matching.grouping import PORTS, Parts, group, parts_for, split
from reducer.matching.latencies import latencies
from reducer.matching.match import (
    TELLING_COLUMNS,
    Ends,
    add_up,
    addresses,
    by_protocol,
    directed_values,
    forward_directions,
    guess_connector,
    look_ahead,
    special_ends,
    witnesses,
)
from reducer.matching.matched import Matched
from reducer.matching.ports import split_by_owner
from reducer.matching.receivers import SharedReceivers
from reducer.matching.request_balances import RequestBalances
from reducer.matching.requests import Requests
from reducer.windows.rows import SOCKETS, TABLES, no_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from intake.columns import Columns
    from reducer.columns.cells import Cells
    from reducer.columns.narrow import Narrow
    from reducer.knowledge.owners import OwnersView
    from reducer.matching.grouping import Grouped, Hashed
    from reducer.matching.handover import Handover
    from reducer.matching.requests import Told

# Tables whose rows tell the owners of ends.
_TELLING = (SOCKETS, "dns", "http")
_NAMES = {table: tuple(column.name for column in columns) for table, columns in TABLES.items()}


@dataclass(frozen=True)
class _Heard:
    """What is known while a window is matched: see `Matcher.match`."""

    window: int
    owners: OwnersView
    heard: np.ndarray
    gone: np.ndarray
    handover: Handover | None


class _Rows:
    """The rows of a window, and those of later ones that may tell who its flows' ends are, in parts."""

    def __init__(
        self,
        tables: Mapping[str, list[Columns]],
        later: Mapping[str, list[Columns]],
        owners: OwnersView,
        seed: int,
        count: int,
    ) -> None:
        tables = {SOCKETS: [no_rows()], **{name: told for name, told in tables.items() if told}}
        self._tables = {name: Parts(told, owners, seed, _NAMES[name], count) for name, told in tables.items()}
        self._telling = [rows for name in _TELLING for rows in later.get(name, ())]
        self._later: Parts | None = None
        self._owners, self._seed, self._count = owners, seed, count

    def part(self, number: int) -> dict[str, Hashed]:
        """Return the rows of a part by table."""
        return {name: parts.part(number) for name, parts in self._tables.items()}

    def later(self, number: int) -> Hashed | None:
        """Return the rows of later windows of a part; None: there are none."""
        if self._later is None and self._telling:
            self._later = Parts(self._telling, self._owners, self._seed, TELLING_COLUMNS, self._count)
        return self._later.part(number) if self._later else None


class Matcher:
    """Matches window after window.

    Attributes:
        flows: the memory.
        limit: of the balances of both.
        requests: the balances of requests.
        agreement: of the two ends of flows.
        receivers: of flows to many, those whose word counts.
        addresses_unwatched: addresses of machines whose collectors were away that were left out of a window: too many.

    """

    def __init__(self, most_flows: int = MOST_FLOWS) -> None:
        self.flows = FlowTable(most_flows)
        self.limit = BalanceLimit()
        self.requests = RequestBalances(self.limit)
        self.agreement = Agreement()
        self.receivers = SharedReceivers()
        self.addresses_unwatched = 0
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
        away: np.ndarray,
        handover: Handover | None = None,
    ) -> Iterator[Matched]:
        """Yield the flows of a window, part by part, and remember them.

        What a part is has no meaning but that both ends of a flow are in the same one.

        Args:
            window: its index, rising.
            tables: its rows by table, with owners as `process`.
            later: the rows of windows that are still open.
            owners: what the owners mean.
            heard: by owner, whether its collector has told all until the window's end.
            gone: by owner, whether its collector has been silent for so long that others' word is taken for its.
            away: by owner, whether its collector has not told all, and may come back and do so.
            handover: of addresses between pods; None: there was none.

        """
        flows = self.flows
        slots = flows.slots
        pending = slots[flows.pending[slots]]
        rows = sum(len(each["socket"]) for told in tables.values() for each in told)
        count = parts_for(rows + 2 * len(pending))
        in_parts = _Rows(tables, later, owners, self.seed, count)
        balances = self.requests.parts(flows.hashes(self.requests.at >> 1), count)
        finished = [np.empty(0, np.int64)]
        known = _Heard(window, owners, heard, gone, handover)
        for number, silent in enumerate(split(pending, flows.hashes(pending), count)):
            matched, slots = self._match_part(known, in_parts, number, silent, balances[number])
            finished.append(self._finished(slots, balances[number]))
            yield matched
        self.requests.join(balances)
        awaited = self._awaited(flows.idle(window), owners, away)
        self.agreement.forgotten(flows, flows.forget(window, np.concatenate(finished), awaited))
        self.requests.forget(flows)

    def _match_part(
        self, known: _Heard, rows: _Rows, number: int, pending: np.ndarray, balances: RequestBalances
    ) -> tuple[Matched, np.ndarray]:
        """Return the flows of a part, and the slots of those that have rows or were pending.

        Args:
            known: of the window.
            rows: of the window.
            number: of the part.
            pending: the slots of its flows that are.
            balances: of its requests.

        """
        flows, owners, heard, gone = self.flows, known.owners, known.heard, known.gone
        tables = rows.part(number)
        grouped = self.receivers.hear_one(known.window, group(tables[SOCKETS]), owners)
        requests = Requests(tables, grouped.numbers, owners)
        slots = np.concatenate(
            (
                flows.find_or_add(grouped.hashes, grouped.keys),
                flows.find_or_add(requests.hashes, requests.keys),
            )
        )
        flows.last_seen[slots] = known.window
        self._note_beginnings(grouped, slots)
        silent = pending[~np.isin(pending, slots)]
        ends = add_up(grouped, owners, len(requests.hashes) + len(silent))
        requests.fill(ends)
        slots = np.concatenate((slots, silent))
        self._recall(ends, slots)
        if (ends.owner == UNKNOWN_OWNER).any() and (later := rows.later(number)):
            look_ahead(np.concatenate((grouped.hashes, requests.hashes)), ends, later, owners)
        at = by_side(slots)
        flows.owner[at] = ends.owner
        flows.connector[slots] = ends.connector
        self._mark(ends, at)
        keys = flows.keys(slots)
        connector = guess_connector(ends.connector, keys[PORTS])
        forward = forward_directions(connector)
        emitted = self._emit(ends, forward, slots, heard, gone)
        self.agreement.emitted(flows, at, emitted.get("bytes", np.zeros(len(at), np.int64)))
        cells = self._settle(balances, requests.told(connector), at, heard[ends.owner], gone[ends.owner])
        values = directed_values(ends, connector, emitted)
        own = split_by_owner(grouped, ends, connector, values, owners)
        began, told = flows.began[slots], np.zeros(len(slots), np.int64)
        np.maximum.at(told, grouped.end >> 1, grouped.rows["time"])
        if known.handover is not None:
            others = known.handover.split(grouped, ends, connector, values, owners, began_ns=began, told_ns=told)
            own = own.joined(others)
        drops = dropped(tables.get("drops"), flows, slots)
        of_flow = np.concatenate((np.arange(len(slots)), own.flow))
        keys = np.concatenate((keys[:, of_flow], drops.keys), axis=1)
        strange = np.zeros(drops.keys.shape[1], np.int64)
        moment = np.concatenate((np.zeros(len(slots), np.int64), own.moment_ns))
        began, told = (np.concatenate((np.where(moment, moment, each[of_flow]), strange)) for each in (began, told))
        connector = np.concatenate((connector[of_flow], strange.astype(ConnectorSide)))
        nothing = np.zeros(len(drops.owner), np.int64)
        if len(own.flow) or len(nothing):
            values = {name: np.concatenate((column, own.values[name], nothing)) for name, column in values.items()}
        values = by_protocol(values, keys[PORTS])
        cells = joined_cells((cells, latencies(grouped, forward, own), drops.after(len(own.owner), len(at))))
        owner = np.concatenate((ends.owner, own.owner, drops.owner))
        return Matched(owner, special_ends(keys), keys, connector, began, told, values, cells), slots

    def _note_beginnings(self, grouped: Grouped, slots: np.ndarray) -> None:
        """Note when flows began: what their addresses meant then is what they mean for them."""
        began, flow, time = self.flows.began, grouped.end >> 1, grouped.rows["time"]
        first = np.full(len(grouped), np.iinfo(np.int64).max)
        np.minimum.at(first, flow, time)
        known = slots[: len(grouped)]
        began[known] = np.where(began[known] == 0, first, began[known])
        opened = np.flatnonzero(grouped.rows["opened"])
        np.maximum.at(began, known[flow[opened]], time[opened])

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

    def _settle(
        self, balances: RequestBalances, told: Told, at: np.ndarray, end_heard: np.ndarray, end_gone: np.ndarray
    ) -> Cells:
        """Return the requests by direction, each taken from one of its ends."""
        flows = self.flows
        flows.asks[at[told.by_client.place]] = True
        emitted = balances.settle(
            told,
            at,
            complete=flows.asks[at] & (flows.knows[at] != BASELINE) & end_heard,
            client_alone=end_heard & other(end_gone),
            server_alone=other(end_heard) & end_gone,
        )
        flows.pending[balances.pending()] = True
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
        sender_balance[at] = self.limit.keep(said - amount)
        receiver_balance[at] = self.limit.keep(witnessed - amount)
        return amount, witnessed > amount

    def _awaited(self, idle: np.ndarray, owners: OwnersView, away: np.ndarray) -> np.ndarray:
        """Return those of *idle* slots of which an end has told less than was emitted, and may tell the rest later.

        If they were forgotten, that would be emitted again. *away* tells by owner whether its collector is. Of flows
        that began meanwhile it has told nothing: those are its machine's by their addresses.
        """
        if not away.any():
            return idle[:0]
        at = by_side(idle)
        at_away = away[self.flows.owner[at]]
        unseen = np.flatnonzero(self.flows.owner[at] == UNKNOWN_OWNER)
        of_machines, left_out = owners.addresses(np.flatnonzero(away))
        self.addresses_unwatched += left_out
        at_away[unseen] = np.isin(place_of(addresses(self.flows.keys(idle))[unseen]), place_of(of_machines))
        if not at_away.any():
            return idle[:0]
        behind = np.isin(at, self.requests.at)
        for counter in COUNTERS:
            behind |= self.flows.sender[counter.name][at] < 0
            behind |= other(self.flows.receiver[counter.name][at]) < 0
        awaited: np.ndarray = idle[(behind & at_away).reshape(-1, 2).any(axis=1)]
        return awaited

    def _finished(self, slots: np.ndarray, requests: RequestBalances) -> np.ndarray:
        """Return the slots of flows of which nothing more is to come: closed, and told in full by both ends."""
        at = by_side(slots[self.flows.done[by_side(slots)].reshape(-1, 2).all(axis=1)])
        balanced = np.ones(len(at), bool)
        for counter in COUNTERS:
            if counter.flushed:
                for balance in (self.flows.sender[counter.name], self.flows.receiver[counter.name]):
                    balanced &= balance[at] == 0
        finished: np.ndarray = at[0::2][balanced.reshape(-1, 2).all(axis=1)] >> 1
        return finished[~np.isin(finished, requests.at >> 1)] if len(requests) else finished


def _raise_to_zero(balance: Narrow, at: np.ndarray) -> None:
    balance[at] = np.maximum(balance[at], 0)
