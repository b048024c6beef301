"""A window's flows for those who want each: a row for each direction between two nodes and a port that accepts.

Connections between the same nodes to the same port are one flow, with the ports of both ends where there is but one
connection. Beyond the limit the nodes are rolled up as those of a level's series are, and of what is left the ports are
told that are the most active.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.columns.hash_index import HashIndex
from reducer.columns.series import FLOWS, FlowLevel, Level, pairs_of
from reducer.matching.flows import other
from reducer.matching.grouping import PORTS
from reducer.matching.match import forward_directions, guess_connector
from reducer.rolling_up.budget import MOST_SERIES, Budget
from reducer.rolling_up.roll_up import LEAST_JOINED, LevelSum, roll_up, rolled_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reducer.columns.series import EndTable
    from reducer.matching.matched import Matched

_PORT = np.uint64(0xFFFF)
_PROTOCOL_AND_PORT = np.uint64(0xFFFFFF)
_NODE_SHIFT = np.uint64(24)
# Ends from here on are services: nodes with the protocol and the port at which they accept.
_FIRST_SERVICE = 1 << 31


class FlowRoller:
    """Makes the flows of windows, at most *most_flows* in each.

    Attributes:
        without_ports: flows of windows that were told without ports, since there were too many.
        budget: of the nodes.

    """

    def __init__(self, most_flows: int = MOST_SERIES) -> None:
        self.without_ports = 0
        self.budget = Budget(most_flows)
        self._most = most_flows
        self._seed = secrets.randbits(64)
        self._flows = _Flows(self._seed)

    def add(self, matched: Matched, node: np.ndarray) -> None:
        """Add flows of a window; *node* has the index of each end's labels."""
        self._flows.add(matched, node)

    def take(self, ends: EndTable) -> FlowLevel:
        """Return the flows of a window that were added, and begin the next one; *ends* are the nodes' labels."""
        flows, self._flows = self._flows, _Flows(self._seed)
        level = flows.level()
        by_node = rolled_up(level, flows.node(level.source), flows.node(level.dest))
        stand_in = self.budget.fit(by_node, ends)
        if stand_in is not None:
            by_node = rolled_up(by_node, stand_in[by_node.source], stand_in[by_node.dest])
            level = flows.stand_in(level, stand_in)
        if len(level.source) > self._most:
            left_out, without_ports = flows.left_out(level, self._most - len(by_node.source), self.budget)
            self.without_ports += without_ports
            level = flows.without_ports(level, left_out, len(ends.labels))
        return flows.told(level)


class _Flows:
    """The flows of a window, where the ends that accept are services."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sum = LevelSum()
        self._services = HashIndex()
        self._what = np.empty(0, np.uint64)  # by service: node, protocol, port
        self._client_ports = [_client_ports(*(np.empty(0, np.uint64) for _ in range(3)))]

    def add(self, matched: Matched, node: np.ndarray) -> None:
        ports = matched.key[PORTS]
        port = np.stack((ports >> np.uint64(16) & _PORT, ports & _PORT), axis=1).ravel()
        connects = forward_directions(guess_connector(matched.connector, ports))
        accepting = np.flatnonzero(~connects)
        protocol = (ports >> np.uint64(32))[accepting >> 1] << np.uint64(16)
        what = node[accepting].astype(np.uint64) << _NODE_SHIFT | protocol | port[accepting]
        number, new = self._services.find_or_add(pl.Series(what).hash(self._seed).to_numpy(), self._services.next)
        self._what = np.concatenate((self._what, what[new]))
        end = node.copy()
        end[accepting] = _FIRST_SERVICE + number
        self._sum.add(roll_up(FLOWS, end, other(end), matched.values, matched.cells))
        client_port = np.repeat(port[connects], 2)
        self._client_ports.append(_client_ports(_pairs(end, other(end)), client_port, client_port))
        first, *others = self._client_ports
        if sum(map(len, others)) > max(len(first), LEAST_JOINED):
            self._client_ports = [_least_and_greatest(self._client_ports)]

    def level(self) -> Level:
        return self._sum.take()

    def node(self, end: np.ndarray) -> np.ndarray:
        """Return the nodes of ends."""
        what = np.append(self._what, np.uint64(0))
        service = np.maximum(end.astype(np.int64) - _FIRST_SERVICE, -1)
        return np.where(service >= 0, what[service] >> _NODE_SHIFT, end).astype(np.uint32)

    def stand_in(self, level: Level, stand_in: np.ndarray) -> Level:
        """Let others stand for nodes, by their index."""
        what = stand_in[self._what >> _NODE_SHIFT].astype(np.uint64) << _NODE_SHIFT | self._what & _PROTOCOL_AND_PORT
        self._what, number = np.unique(what, return_inverse=True)
        service = (_FIRST_SERVICE + number).astype(np.uint32)
        return self._with_ends(level, stand_in, service)

    def left_out(self, level: Level, room: int, budget: Budget) -> tuple[np.ndarray, int]:
        """Return which services are not to be told apart for want of *room*, the least active, and of how many flows.

        The *budget* decides between nodes that are equally active.
        """
        activity = level.values["packets"] + level.values["udp_packets"] + level.values["active"]
        service = np.maximum(level.source, level.dest).astype(np.int64) - _FIRST_SERVICE
        flows = np.bincount(service, minlength=len(self._what))
        active = np.bincount(service, activity, len(self._what))
        order = np.lexsort((self._what & _PROTOCOL_AND_PORT, budget.ties(self._what >> _NODE_SHIFT), -active))
        left_out = np.zeros(len(self._what), bool)
        left_out[order[np.cumsum(flows[order]) > room]] = True
        return left_out, int(flows[left_out].sum())

    def without_ports(self, level: Level, left_out: np.ndarray, nodes: int) -> Level:
        """Let nodes, of which there are so many, be in the place of services that are left out."""
        service = np.arange(_FIRST_SERVICE, _FIRST_SERVICE + len(self._what)).astype(np.uint32)
        node = (self._what >> _NODE_SHIFT).astype(np.uint32)
        return self._with_ends(level, np.arange(nodes, dtype=np.uint32), np.where(left_out, node, service))

    def _with_ends(self, level: Level, nodes: np.ndarray, services: np.ndarray) -> Level:
        """Let ends be others: *nodes* by node, *services* by service."""

        def changed(end: np.ndarray) -> np.ndarray:
            is_service = end >= _FIRST_SERVICE
            found = np.empty(len(end), np.uint32)
            found[is_service] = services[end[is_service].astype(np.int64) - _FIRST_SERVICE]
            found[~is_service] = nodes[end[~is_service]]
            return found

        ports = _least_and_greatest(self._client_ports)
        pair = ports["pair"].to_numpy()
        source, dest = (pair >> np.uint64(32)).astype(np.uint32), pair.astype(np.uint32)
        least, greatest = ports["least"].to_numpy(), ports["greatest"].to_numpy()
        self._client_ports = [_client_ports(_pairs(changed(source), changed(dest)), least, greatest)]
        return rolled_up(level, changed(level.source), changed(level.dest))

    def told(self, level: Level) -> FlowLevel:
        """Return a level with nodes as ends, and what is known of their ports."""
        ports = _least_and_greatest(self._client_ports).sort("pair")
        row = np.searchsorted(ports["pair"].to_numpy(), pairs_of(level))
        least, greatest = (ports[name].to_numpy()[row] for name in ("least", "greatest"))
        client_port = np.where(least == greatest, least, 0)
        source, dest = (np.maximum(ends.astype(np.int64) - _FIRST_SERVICE, -1) for ends in (level.source, level.dest))
        what = np.append(self._what, np.uint64(0))  # for -1, the end that connects or whose port is not told
        is_told = (source >= 0) | (dest >= 0)

        def port(service: np.ndarray) -> np.ndarray:
            told: np.ndarray = np.where(service >= 0, what[service] & _PORT, client_port * is_told)
            return told.astype(np.int64)

        protocol = (what[np.maximum(source, dest)] & _PROTOCOL_AND_PORT) >> np.uint64(16)
        return FlowLevel(
            *(FLOWS, self.node(level.source), self.node(level.dest), level.values, level.bins),
            *(protocol.astype(np.int64), port(source), port(dest)),
        )


def _pairs(source: np.ndarray, dest: np.ndarray) -> np.ndarray:
    pairs: np.ndarray = source.astype(np.uint64) << np.uint64(32) | dest
    return pairs


def _client_ports(pair: np.ndarray, least: np.ndarray, greatest: np.ndarray) -> pl.DataFrame:
    """Return the least and the greatest port, at the end that connects, of each pair of ends."""
    return _least_and_greatest([pl.DataFrame({"pair": pair, "least": least, "greatest": greatest})])


def _least_and_greatest(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts).group_by("pair").agg(pl.col("least").min(), pl.col("greatest").max())
