"""Rows of sockets to directed flows: pairs the two ends, and takes each byte of each direction once.

Here is what needs no memory; memory.py decides between the witnesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from ebpf_net.v1 import intake_pb2

from intake.addresses import packed
from intake.columns import is_constant
from reducer.columns.hash_index import HashIndex
from reducer.columns.value_columns import CONNECT_FAILURES, VALUE_COLUMNS
from reducer.knowledge.owners import UNKNOWN_OWNER
from reducer.matching.flows import CONNECTOR_UNKNOWN, COUNTERS, ConnectorSide, by_side, other
from reducer.matching.grouping import PORTS
from reducer.windows.rows import IPPROTO_UDP, ROW_COLUMNS

if TYPE_CHECKING:
    from intake.columns import Columns
    from reducer.knowledge.owners import OwnersView
    from reducer.matching.grouping import Grouped, Hashed

_ROLE = intake_pb2.Role
TELLING_COLUMNS = ("process", "role")
"""Those columns of rows that tell the owners of ends, and who connected."""

_SUMMED = tuple(column.name for column in ROW_COLUMNS if column.merge == "sum" and column.name != "failed")
# What only the end that the column belongs to can tell: in its own direction, and there only while connecting.
OF_SENDER = ("retransmits", "srtt_sum_us", "srtt_count")
OF_CONNECTOR = ("syn_timeouts", "connect_sum_us", "connect_count")
_INSTANCE_METADATA = np.frombuffer(packed("169.254.169.254"), np.uint64)
_DNS_PORT = 53


class Special(IntEnum):
    """Ends whose workload is known by their address or port alone."""

    NONE = 0
    DNS = 1
    INSTANCE_METADATA = 2


@dataclass(frozen=True)
class Ends:
    """What the rows of a window say, added up by end of flow; arrays have 2 * flow + side as index.

    Attributes:
        owner: uint32, as `last_owners` returns it.
        sockets: int64, how many different ones have rows.
        baseline: bool, one of them was open before its collector saw it.
        connector: by flow, int8: the side that connected, or `CONNECTOR_UNKNOWN`.
        sums: int64, by column; those without any value are left out.

    """

    owner: np.ndarray
    sockets: np.ndarray
    baseline: np.ndarray
    connector: np.ndarray
    sums: dict[str, np.ndarray]

    def sum(self, name: str) -> np.ndarray:
        """Return a column, zeros where it is left out."""
        found = self.sums.get(name)
        return np.zeros(len(self.owner), np.int64) if found is None else found


def add_up(grouped: Grouped, owners: OwnersView, more: int = 0) -> Ends:
    """Return the sums by end, with room for *more* flows that have no rows."""
    rows, end, flows = grouped.rows, grouped.end, len(grouped) + more
    owner = last_owners(end, rows["process"], 2 * flows, owners)
    baseline = np.zeros(2 * flows, bool)
    baseline[end[rows["baseline"] != 0]] = True
    sums = {name: _added(rows[name], end, 2 * flows) for name in _SUMMED if _has_values(rows[name])}
    echo = _echo(grouped)
    owner[2 * echo + 1] = owner[2 * echo]  # all rows are of the low side
    _drop_own_echo(echo, sums)
    failed = np.flatnonzero(rows["failed"])
    for reason, name in enumerate(CONNECT_FAILURES, 1):
        these = failed[failure_reason(rows["failure"][failed]) == reason]
        if len(these):
            sums[f"failed_{name}"] = _added(rows["failed"][these], end[these], 2 * flows)
    if _has_values(rows["min_rtt_us"]):
        sums["min_rtt_us"] = _least(rows["min_rtt_us"], end, 2 * flows)
    return Ends(owner, _sockets(rows, end, 2 * flows, owners), baseline, connector_sides(rows, end, flows), sums)


def last_owners(end: np.ndarray, process: np.ndarray, size: int, owners: OwnersView) -> np.ndarray:
    """Return by end the owner in its last row, uint32; `UNKNOWN_OWNER` where there is none.

    Where that names no more than a host, the last that the same session named stands for it.
    """
    owner = np.full(size, UNKNOWN_OWNER, np.uint32)
    owner[end] = process  # of several the last stays
    nameless = ~owners.named[owner] & (owner != UNKNOWN_OWNER)
    if nameless.any():
        at = np.flatnonzero(nameless[end] & owners.named[process])
        at = at[owners.session[process[at]] == owners.session[owner[end[at]]]]
        owner[end[at]] = process[at]
    return owner


def connector_sides(rows: Columns, end: np.ndarray, flows: int) -> np.ndarray:
    """Return which side connected, by what rows of these ends say; only a connector can have failed to."""
    role = rows["role"]
    connector = np.full(flows, CONNECTOR_UNKNOWN, ConnectorSide)
    accepted = role == _ROLE.ROLE_ACCEPTOR
    connected = role == _ROLE.ROLE_CONNECTOR
    if "failed" in rows:
        connected |= (role == _ROLE.ROLE_UNKNOWN) & (rows["failed"] > 0)
    connector[end[accepted] >> 1] = (end[accepted] & 1) ^ 1
    connector[end[connected] >> 1] = end[connected] & 1
    return connector


def guess_connector(connector: np.ndarray, ports: np.ndarray) -> np.ndarray:
    """Return *connector* with the lower port taken for the acceptor's where nothing is known."""
    low_port, high_port = ports >> np.uint64(16) & np.uint64(0xFFFF), ports & np.uint64(0xFFFF)
    guessed = np.where(low_port < high_port, 1, 0).astype(ConnectorSide)
    return np.where(connector == CONNECTOR_UNKNOWN, guessed, connector)


def directed_values(ends: Ends, connector: np.ndarray, emitted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the value columns by direction; those without any value are left out.

    Args:
        ends: of the flows.
        connector: by flow, the side that connected.
        emitted: the counters that have two witnesses.

    """
    forward = forward_directions(connector)
    values = dict(emitted)
    values.update({name: ends.sums[name] for name in (*OF_SENDER, "min_rtt_us") if name in ends.sums})
    sockets = np.where(ends.sockets > 0, ends.sockets, other(ends.sockets))
    values["active"] = sockets * forward
    for name in (*OF_CONNECTOR, *(f"failed_{reason}" for reason in CONNECT_FAILURES)):
        if name in ends.sums:
            values[name] = ends.sums[name] * forward
    if "drops" in ends.sums:
        values["udp_drops"] = other(ends.sums["drops"])
    return {name: values[name] for name in VALUE_COLUMNS if name in values}


def by_protocol(values: dict[str, np.ndarray], ports: np.ndarray) -> dict[str, np.ndarray]:
    """Return value columns by direction with those of UDP flows in columns of their own; *ports* are a word a flow."""
    udp = np.repeat(ports >> np.uint64(32) == IPPROTO_UDP, 2)
    if not udp.any():
        return values
    told = dict(values)
    told["active"] = values["active"] * ~udp
    for name in ("bytes", "packets"):
        if name in values:
            told[f"udp_{name}"] = values[name] * udp
            told[name] = values[name] * ~udp
    if "udp_packets" in told:
        told["udp_active"] = (told["udp_packets"] > 0).astype(np.int64)
    return told


def forward_directions(connector: np.ndarray) -> np.ndarray:
    """Return by direction whether it is the one from connector to acceptor."""
    forward = np.zeros(2 * len(connector), bool)
    forward[2 * np.arange(len(connector)) + connector] = True
    return forward


def witnesses(ends: Ends, forward: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each counter, by direction, what the sender and what the receiver said in this window."""
    told = {}
    for counter in COUNTERS:
        if counter.sender in ends.sums or counter.receiver in ends.sums:
            sender, receiver = ends.sum(counter.sender), other(ends.sum(counter.receiver))
            told[counter.name] = (sender * forward, receiver * forward) if counter.of_connection else (sender, receiver)
    return told


def addresses(keys: np.ndarray) -> np.ndarray:
    """Return the addresses of (KEY_WORDS, flows) *keys* by end, as (2 * flows, 2) uint64."""
    return np.ascontiguousarray(keys[:4].T).reshape(-1, 2)


def special_ends(keys: np.ndarray) -> np.ndarray:
    """Return the `Special` of (KEY_WORDS, flows) *keys* by end, uint8."""
    special = np.zeros(2 * keys.shape[1], np.uint8)
    for side, shift in ((0, 16), (1, 0)):
        first, second = keys[2 * side], keys[2 * side + 1]
        metadata = (second == _INSTANCE_METADATA[1]) & (first == _INSTANCE_METADATA[0])
        special[side::2][metadata] = Special.INSTANCE_METADATA
        special[side::2][keys[PORTS] >> np.uint64(shift) & np.uint64(0xFFFF) == _DNS_PORT] = Special.DNS
    return special


def look_ahead(hashes: np.ndarray, ends: Ends, rows: Hashed, owners: OwnersView) -> None:
    """Fill in the owners and connectors that are not known, in place, from *rows* of later windows, the nearest first.

    Args:
        hashes: of the flows that have rows.
        ends: of the flows.
        rows: with `TELLING_COLUMNS`.
        owners: what the owners mean.

    """
    wanted = np.flatnonzero((ends.owner.reshape(-1, 2) == UNKNOWN_OWNER).any(axis=1)[: len(hashes)])
    numbers = HashIndex(len(wanted))
    numbers.find_or_add(hashes[wanted], numbers.next)
    flow = numbers.find(rows.hashes)
    these = np.flatnonzero(flow >= 0)
    end, told = 2 * flow[these] + rows.side[these], {name: rows.rows[name][these] for name in TELLING_COLUMNS}
    # The first is the nearest: later ones may be of sockets that used the port again.
    owner = last_owners(end[::-1], told["process"][::-1], 2 * len(wanted), owners)
    mine = by_side(wanted)
    ends.owner[mine] = np.where(ends.owner[mine] == UNKNOWN_OWNER, owner, ends.owner[mine])
    connector = connector_sides(told, end, len(wanted))
    ends.connector[wanted] = np.where(ends.connector[wanted] == CONNECTOR_UNKNOWN, connector, ends.connector[wanted])


def _has_values(column: np.ndarray) -> bool:
    return bool((column[:1] if is_constant(column) else column).any())


def _added(column: np.ndarray, end: np.ndarray, size: int) -> np.ndarray:
    total = np.zeros(size, np.int64)
    some = np.flatnonzero(column)
    if len(some) == len(column):
        np.add.at(total, end, column.view(np.int64) if column.itemsize == total.itemsize else column.astype(np.int64))
    else:
        np.add.at(total, end[some], column[some].astype(np.int64))
    return total


def _least(column: np.ndarray, end: np.ndarray, size: int) -> np.ndarray:
    unknown = np.iinfo(np.int64).max
    least = np.full(size, unknown)
    some = np.flatnonzero(column)
    np.minimum.at(least, end[some], column[some].astype(np.int64))
    least[least == unknown] = 0
    return least


def failure_reason(failure: np.ndarray) -> np.ndarray:
    """Return the reasons, from 1, with those that are not known as the last."""
    last = len(CONNECT_FAILURES)
    return np.where((failure == 0) | (failure > last), last, failure)


def _echo(grouped: Grouped) -> np.ndarray:
    """Return the flows of sockets that are connected to themselves, or send to themselves: both endpoints are one."""
    keys = grouped.keys
    ports = keys[PORTS] & np.uint64(0xFFFFFFFF)
    same_port = ports >> np.uint64(16) == ports & np.uint64(0xFFFF)
    return np.flatnonzero((keys[0] == keys[2]) & (keys[1] == keys[3]) & same_port)


def _drop_own_echo(echo: np.ndarray, sums: dict[str, np.ndarray]) -> None:
    """Let the sockets of the flows *echo* not tell what they received from themselves."""
    for counter in COUNTERS:
        if not counter.of_connection and counter.receiver in sums:
            sums[counter.receiver][2 * echo] = 0  # both sides are the low one


def _sockets(rows: Columns, end: np.ndarray, size: int, owners: OwnersView) -> np.ndarray:
    """Return how many different sockets have rows, by end."""
    socket = rows["socket"]
    last = np.zeros(size, np.uint64)
    last[end] = socket
    count = np.zeros(size, np.int64)
    count[end] = 1
    session = owners.session[rows["process"]]
    last_session = np.zeros(size, np.uint32)
    last_session[end] = session
    several = np.zeros(size, bool)
    several[end[(last[end] != socket) | (last_session[end] != session)]] = True
    these = np.flatnonzero(several[end])
    if len(these):
        columns = {"end": end[these], "session": session[these], "socket": socket[these]}
        different = pl.DataFrame(columns).unique().get_column("end").to_numpy()
        count[several] = 0
        np.add.at(count, different, 1)
    return count
