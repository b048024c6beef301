"""Ports that are used again within a window: gives each owner of an endpoint what its own sockets did.

A flow has one name an end, its last owner's. Where other owners had sockets on it before, what those did is taken out
of the flow's values and becomes a flow of its own. Sockets of the two ends are paired in order of time if both ends
have equally many; else the peer is the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.columns.value_columns import CONNECT_FAILURES
from reducer.matching.flows import COUNTERS
from reducer.matching.match import OF_CONNECTOR, OF_SENDER, Ends, failure_reason, forward_directions

if TYPE_CHECKING:
    from reducer.knowledge.owners import OwnersView
    from reducer.matching.grouping import Grouped

_SUMMED = sorted(
    {*OF_SENDER, *OF_CONNECTOR, *(name for counter in COUNTERS for name in (counter.sender, counter.receiver))}
)
_FAILED = [f"failed_{reason}" for reason in CONNECT_FAILURES]


@dataclass(frozen=True)
class OwnFlows:
    """What owners other than the last did.

    Attributes:
        flow: of each, the flow that it was a part of.
        owner: by end, uint32, two elements each.
        values: by direction, int64, two elements each: the columns of the flows.
        rows: whose socket is of one of these, as the sender.
        direction: of each of *rows*.
        moment_ns: of each flow, int64, when it was, where that is not told by the flow that it was a part of; else 0.

    """

    flow: np.ndarray
    owner: np.ndarray
    values: dict[str, np.ndarray]
    rows: np.ndarray
    direction: np.ndarray
    moment_ns: np.ndarray

    def joined(self, others: OwnFlows) -> OwnFlows:
        """Return these and *others*, which have the same columns, after them."""
        return OwnFlows(
            np.concatenate((self.flow, others.flow)),
            np.concatenate((self.owner, others.owner)),
            {name: np.concatenate((column, others.values[name])) for name, column in self.values.items()},
            np.concatenate((self.rows, others.rows)),
            np.concatenate((self.direction, others.direction + len(self.owner))),
            np.concatenate((self.moment_ns, others.moment_ns)),
        )


def split_by_owner(
    grouped: Grouped, ends: Ends, connector: np.ndarray, values: dict[str, np.ndarray], owners: OwnersView
) -> OwnFlows:
    """Take what others than the last owners did out of *values*, in place, and return it."""
    owner = grouped.rows["process"]
    strange = grouped.end[owner != ends.owner[grouped.end]] >> 1
    if not len(strange):
        values = {name: np.empty(0, np.int64) for name in values}
        return OwnFlows(strange, np.empty(0, np.uint32), values, strange, strange, strange)
    mixed = np.zeros(len(connector), bool)
    mixed[strange] = True
    these = np.flatnonzero(mixed[grouped.end >> 1])
    sockets = sockets_of(grouped, these, owners)
    end = sockets["end"].to_numpy()
    own = sockets["owner"].to_numpy()
    peer = np.where(sockets["peer"].is_null(), ends.owner[end ^ 1], sockets["peer"].fill_null(0).to_numpy())
    moving = (own != ends.owner[end]) | (peer != ends.owner[end ^ 1])
    # The receiver's word counts where the sender has none.
    receiving = moving & (ends.sockets[end ^ 1] == 0)
    return take_out(sockets, peer, connector, values, moving=moving, receiving=receiving)


def take_out(
    sockets: pl.DataFrame,
    peer: np.ndarray,
    connector: np.ndarray,
    values: dict[str, np.ndarray],
    *,
    moving: np.ndarray,
    receiving: np.ndarray,
) -> OwnFlows:
    """Take what sockets did out of *values*, in place, and return it.

    Args:
        sockets: as `sockets_of` returns them.
        peer: of each, the owner of the other end, uint32.
        connector: by flow, the side that connected.
        values: by direction.
        moving: which of them sent what is taken out.
        receiving: of which of them what they received is taken out as well.

    """
    end, own = sockets["end"].to_numpy(), sockets["owner"].to_numpy()
    of_socket = np.concatenate((np.flatnonzero(moving), np.flatnonzero(receiving)))
    direction = np.concatenate((end[moving], end[receiving] ^ 1))
    sends = np.arange(len(of_socket)) < np.count_nonzero(moving)
    order = np.argsort(direction, kind="stable")
    of_socket, direction, sends = of_socket[order], direction[order], sends[order]
    forward = forward_directions(connector)[direction]
    owner_by_end = np.empty(2 * len(direction), np.uint32)
    at = 2 * np.arange(len(direction)) + (direction & 1)
    owner_by_end[at] = np.where(sends, own[of_socket], peer[of_socket])
    owner_by_end[at ^ 1] = np.where(sends, peer[of_socket], own[of_socket])
    taken = {}
    for name, said in _said(sockets[of_socket], sends, forward).items():
        if name == "min_rtt_us":
            taken[name] = said
        elif name in values:
            taken[name] = _taken(values[name], direction, said)
    nothing = np.zeros(len(direction), np.int64)
    own_values = {name: _scattered(taken.get(name, nothing), at) for name in values}
    own_direction = np.full(len(sockets), -1)
    own_direction[of_socket[sends]] = at[sends]
    lengths = sockets["rows"].list.len().to_numpy()
    rows, of_row = sockets["rows"].explode().to_numpy(), np.repeat(own_direction, lengths)
    moment_ns = sockets["moment_ns"].to_numpy()[of_socket]
    return OwnFlows(direction >> 1, owner_by_end, own_values, rows[of_row >= 0], of_row[of_row >= 0], moment_ns)


def sockets_of(
    grouped: Grouped, these: np.ndarray, owners: OwnersView, apart: dict[str, np.ndarray] | None = None
) -> pl.DataFrame:
    """Return the sockets of *these* rows with their sums, owner, peer and rows, those of an end in order of time.

    By *apart* a socket's rows may be told apart: `pod` is a number for each, `moment_ns` a time.
    """
    rows = {name: column[these] for name, column in grouped.rows.items() if not name.endswith("_address")}
    reason = failure_reason(rows["failure"])
    columns = {name: rows[name].astype(np.int64) for name in _SUMMED}
    columns |= {name: rows["failed"] * (reason == number) for number, name in enumerate(_FAILED, 1)}
    columns |= {"end": grouped.end[these], "session": owners.session[rows["process"]]}
    columns |= {"socket": rows["socket"], "owner": rows["process"], "named": owners.named[rows["process"]]}
    columns |= {"min_rtt_us": rows["min_rtt_us"].astype(np.int64)}
    nothing = np.zeros(len(these), np.int64)
    columns |= {"rows": these, **(apart or {"pod": nothing, "moment_ns": nothing})}
    least = pl.col("min_rtt_us")
    sockets = (
        pl.DataFrame(columns)
        .group_by("end", "session", "socket", "pod", maintain_order=True)
        .agg(
            pl.coalesce(pl.col("owner").filter("named").last(), pl.col("owner").last()),
            pl.col("moment_ns").min(),
            pl.col("rows"),
            pl.col(*_SUMMED, *_FAILED).sum().cast(pl.Int64),
            least.filter(least != 0).min().fill_null(0),
        )
        .with_columns(rank=pl.int_range(pl.len()).over("end"), count=pl.len().over("end"))
    )
    peers = sockets.select("end", "rank", "count", peer="owner").with_columns(end=pl.col("end").xor(1))
    return sockets.join(peers, on=["end", "rank", "count"], how="left", maintain_order="left")


def _said(sockets: pl.DataFrame, sends: np.ndarray, forward: np.ndarray) -> dict[str, np.ndarray]:
    """Return the value columns of sockets, each as the sender or the receiver of a direction."""
    said = {}
    for counter in COUNTERS:
        amounts = np.where(sends, sockets[counter.sender].to_numpy(), sockets[counter.receiver].to_numpy())
        said[counter.name] = amounts * forward if counter.of_connection else amounts
    said["active"] = forward.astype(np.int64)
    said |= {name: sockets[name].to_numpy() * sends for name in (*OF_SENDER, "min_rtt_us")}
    said |= {name: sockets[name].to_numpy() * (sends & forward) for name in (*OF_CONNECTOR, *_FAILED)}
    return said


def _taken(values: np.ndarray, direction: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Take what was *said*, sorted by *direction*, out of *values*, in place, as far as there is enough; return it."""
    before = np.cumsum(said) - said
    first = np.ones(len(direction), bool)
    first[1:] = direction[1:] != direction[:-1]
    before -= np.repeat(before[first], np.diff(np.append(np.flatnonzero(first), len(direction))))
    taken: np.ndarray = np.clip(values[direction] - before, 0, said)
    np.subtract.at(values, direction, taken)
    return taken


def _scattered(amounts: np.ndarray, at: np.ndarray) -> np.ndarray:
    by_direction = np.zeros(2 * len(amounts), np.int64)
    by_direction[at] = amounts
    return by_direction
