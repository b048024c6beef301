"""A window's flows for those who want each: a row for each direction between two nodes and a port that accepts.

Connections between the same nodes to the same port are one flow, with the ports of both ends where there is but one
connection. Beyond the limit the nodes are rolled up as those of a level's series are, and of what is left the ports are
told that are the most active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reducer.budget import MOST_SERIES, Budget
from reducer.flows import other
from reducer.match import PORTS, forward_directions, guess_connector
from reducer.roll_up import roll_up
from reducer.series import FLOWS, FlowLevel, Level, pairs_of

if TYPE_CHECKING:
    from reducer.memory import Matched
    from reducer.series import EndTable

_PORT = np.uint64(0xFFFF)
_PROTOCOL_AND_PORT = np.uint64(0xFFFFFF)


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

    def flows(self, matched: Matched, node: np.ndarray, ends: EndTable) -> FlowLevel:
        """Return the flows of a window; *node* has the index of each end's labels in *ends*."""
        by_node = roll_up(FLOWS, node, other(node), matched.values, matched.cells)
        stand_in = self.budget.fit(by_node, ends)
        if stand_in is not None:
            node = stand_in[node]
            by_node = roll_up(FLOWS, node, other(node), matched.values, matched.cells)
        services = _Services(matched, node, len(ends.labels))
        level = services.roll_up(matched)
        room = self._most - len(by_node.source)
        if len(level.source) > self._most:
            self.without_ports += services.leave_out(level, room)
            level = services.roll_up(matched)
        return services.told(level)


class _Services:
    """The ends of flows, where those that accept have indexes of their own by node, protocol and port."""

    def __init__(self, matched: Matched, node: np.ndarray, first: int) -> None:
        ports = matched.key[PORTS]
        port = np.stack((ports >> np.uint64(16) & _PORT, ports & _PORT), axis=1).ravel()
        connects = forward_directions(guess_connector(matched.connector, ports))
        accepting = np.flatnonzero(~connects)
        protocol = (ports >> np.uint64(32))[accepting >> 1] << np.uint64(16)
        what = node[accepting].astype(np.uint64) << np.uint64(24) | protocol | port[accepting]
        self._what, number = np.unique(what, return_inverse=True)
        self._first = first
        self._node = node
        self._end = node.copy()
        self._end[accepting] = first + number
        self._client_port = np.repeat(port[connects], 2)

    def roll_up(self, matched: Matched) -> Level:
        return roll_up(FLOWS, self._end, other(self._end), matched.values, matched.cells)

    def leave_out(self, level: Level, room: int) -> int:
        """Tell only the most active services apart, those whose flows *room* is for; return how many flows are not."""
        activity = level.values["packets"] + level.values["udp_packets"] + level.values["active"]
        service = np.maximum(level.source, level.dest).astype(np.int64) - self._first
        flows = np.bincount(service, minlength=len(self._what))
        order = np.argsort(-np.bincount(service, activity, len(self._what)), kind="stable")
        left_out = np.zeros(len(self._what), bool)
        left_out[order[np.cumsum(flows[order]) > room]] = True
        accepting = np.flatnonzero(self._end >= self._first)
        nameless = accepting[left_out[self._end[accepting] - self._first]]
        self._end[nameless] = self._node[nameless]
        return int(flows[left_out].sum())

    def told(self, level: Level) -> FlowLevel:
        """Return a level with nodes as ends, and what is known of their ports."""
        count = len(level.source)
        pairs, wanted = pairs_of(level), self._end.astype(np.uint64) << np.uint64(32) | other(self._end)
        row = np.searchsorted(pairs, wanted)
        row[np.append(pairs, np.uint64(0))[row] != wanted] = count  # a direction without values is in no row
        least, greatest = np.full(count + 1, 0xFFFF, np.uint64), np.zeros(count + 1, np.uint64)
        np.minimum.at(least, row, self._client_port)
        np.maximum.at(greatest, row, self._client_port)
        client_port = np.where(least == greatest, least, 0)[:count]
        source, dest = (np.maximum(ends.astype(np.int64) - self._first, -1) for ends in (level.source, level.dest))
        what = np.append(self._what, np.uint64(0))  # for -1, the end that connects or whose port is not told
        is_told = (source >= 0) | (dest >= 0)

        def node(ends: np.ndarray, service: np.ndarray) -> np.ndarray:
            return np.where(service >= 0, what[service] >> np.uint64(24), ends).astype(np.uint32)

        def port(service: np.ndarray) -> np.ndarray:
            told: np.ndarray = np.where(service >= 0, what[service] & _PORT, client_port * is_told)
            return told.astype(np.int64)

        protocol = (what[np.maximum(source, dest)] & _PROTOCOL_AND_PORT) >> np.uint64(16)
        return FlowLevel(
            *(FLOWS, node(level.source, source), node(level.dest, dest), level.values, level.bins),
            *(protocol.astype(np.int64), port(source), port(dest)),
        )
