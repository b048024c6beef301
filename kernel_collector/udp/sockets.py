"""What UDP sockets did since their last row: their traffic with each peer as the kernel counted it, and their drops.

Traffic comes as what is new and needs no memory; what is remembered of a socket, as long as polls see it, is its owner
and the drops that were reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from intake.columns import stacked, whole
from kernel_collector.columns.sorted_keys import begins_group, find
from kernel_collector.tcp.listeners import choose_owners

if TYPE_CHECKING:
    from intake.columns import Columns
    from kernel_collector.udp.probe import UdpDropped, UdpTraffic

MOST_SOCKETS = 1 << 17
_REMOTE = ("remote_address", "remote_port")
_ENDPOINTS = ("local_address", "local_port", *_REMOTE)

_SOCKET = np.dtype(
    [
        ("cookie", "u8"),
        ("cgroup", "u8"),
        ("process", "u4"),
        ("network_namespace", "u4"),
        ("drops", "u4"),
        ("local_address", "V16"),
        ("remote_address", "V16"),
        ("local_port", "u2"),
        ("remote_port", "u2"),  # 0 while no peer is known
        ("several", "?"),  # peers, so that nobody can say whose packets were dropped
        ("baseline", "?"),
    ],
    align=True,
)


class _Groups(NamedTuple):
    """Rows sorted by socket."""

    order: np.ndarray
    cookies: np.ndarray  # a socket
    heads: np.ndarray  # a socket: where its rows begin in `order`


class UdpSocketTable:
    """The sockets of the last poll, at most *most_sockets*; those beyond are counted in `untracked` at each poll.

    The first update tells what was there before: the sockets in it are marked `baseline` in all their rows, and what
    they had dropped is in none.
    """

    def __init__(self, most_sockets: int = MOST_SOCKETS) -> None:
        self.untracked = 0
        self._most = most_sockets
        self._sockets = np.empty(0, _SOCKET)  # sorted by cookie
        self._unseen = np.empty(0, _SOCKET)  # that no poll sees any more, or ever saw, and that dropped something
        self._started = False

    def __len__(self) -> int:
        return len(self._sockets)

    def processes(self) -> np.ndarray:
        """Return the ids of the owners, as often as they own."""
        return self._sockets["process"]

    def cgroups(self) -> np.ndarray:
        """Return the ids of the cgroups of the sockets, as often as they hold one."""
        return self._sockets["cgroup"]

    def update(
        self,
        traffic: UdpTraffic,
        creators: np.ndarray,
        polled: np.ndarray,
        holders: np.ndarray,
        dropped: UdpDropped,
    ) -> Columns:
        """Return the rows of what is new.

        Args:
            traffic: since the update before.
            creators: for each row of it, the id of the process that opened the socket; 0 where unknown.
            polled: `udp_record`s of a poll made after.
            holders: the ids of their processes.
            dropped: by sockets that this poll may not have seen, read before it.

        """
        before = self._sockets
        self._sockets = self._polled(polled, holders)
        if not self._started:
            self._started = True
            self._sockets["baseline"] = True
            self._sockets["drops"] = _drops(self._sockets, polled)
        _learn_peers(self._sockets, traffic)
        traffic_rows = self._traffic_rows(traffic, creators, before)
        totals = self._find_unseen(before, traffic_rows, traffic, dropped)
        drop_rows = (_drop_rows(self._sockets, _drops(self._sockets, polled)), _drop_rows(self._unseen, totals))
        return stacked([whole("udp", rows) for rows in (traffic_rows, *drop_rows)])

    def _polled(self, polled: np.ndarray, holders: np.ndarray) -> np.ndarray:
        """Return the sockets of a poll, with what is known of them from before."""
        groups = _grouped(polled["cookie"])
        if len(groups.cookies) > self._most:
            self.untracked += len(groups.cookies) - self._most
            kept = groups.heads[self._most]
            groups = _Groups(groups.order[:kept], groups.cookies[: self._most], groups.heads[: self._most])
        sockets = np.zeros(len(groups.cookies), _SOCKET)
        known = np.zeros(len(sockets), bool)
        for before in (self._unseen, self._sockets):
            found, at = find(before["cookie"], groups.cookies)
            sockets[found] = before[at[found]]
            known |= found
        records = polled[groups.order[groups.heads]]
        for name in ("cookie", "cgroup", "network_namespace"):
            sockets[name] = records[name]
        connected = records["remote_port"] != 0
        for name in _ENDPOINTS:
            np.copyto(sockets[name], records[name], where=connected | (~known if name.startswith("local") else False))
        sockets["several"] &= ~connected
        sockets["process"] = choose_owners(
            np.ascontiguousarray(sockets["process"]), holders[groups.order], groups.heads
        )
        return sockets

    def _find_unseen(
        self, before: np.ndarray, traffic_rows: Columns, traffic: UdpTraffic, dropped: UdpDropped
    ) -> np.ndarray:
        """Set the sockets that dropped something and are not in the poll; return what each dropped in all.

        One of which nothing is known waits for its packets to be told.
        """
        polled, _ = find(self._sockets["cookie"], dropped.cookies)
        order = np.flatnonzero(~polled)[np.argsort(dropped.cookies[~polled])]
        cookies, totals = dropped.cookies[order], dropped.now[order]
        unseen = np.zeros(len(cookies), _SOCKET)
        unseen["cookie"], unseen["drops"] = cookies, dropped.before[order]
        exchanged = _grouped(traffic_rows["socket"])
        known, at = find(exchanged.cookies, cookies)
        rows = exchanged.order[exchanged.heads[at[known]]]
        for name in ("process", "cgroup", "network_namespace", "baseline"):
            unseen[name][known] = traffic_rows[name][rows]
        for sockets in (before, self._unseen):
            known, at = find(sockets["cookie"], cookies)
            unseen[known] = sockets[at[known]]
        _learn_peers(unseen, traffic)
        known_ends = unseen["local_port"] != 0
        self._unseen, totals = unseen[known_ends], totals[known_ends]
        # Polls may have seen more: what is dropped for other reasons than room.
        return np.where((totals - self._unseen["drops"]).view(np.int32) < 0, self._unseen["drops"], totals)

    def _traffic_rows(self, traffic: UdpTraffic, creators: np.ndarray, before: np.ndarray) -> Columns:
        peers, counts = traffic
        rows: Columns = {"socket": peers["cookie"], **{name: peers[name] for name in _ENDPOINTS}}
        rows |= {name: counts[name] for name in ("bytes_sent", "bytes_received", "packets_sent", "packets_received")}
        rows["cgroup"] = counts["cgroup"]
        rows["process"], rows["network_namespace"] = creators.copy(), counts["network_namespace"].copy()
        rows["baseline"] = np.zeros(len(peers), bool)
        for sockets in (before, self._sockets):  # the last word is the later one's
            known, at = find(sockets["cookie"], peers["cookie"])
            of = sockets[at[known]]
            for name in ("process", "network_namespace", "baseline"):
                rows[name][known] = np.where(of[name] != 0, of[name], rows[name][known])
        return rows


def _learn_peers(sockets: np.ndarray, traffic: UdpTraffic) -> None:
    """Note with whom the sockets, sorted by cookie, exchange packets, and with what local address, in place."""
    groups = _grouped(traffic.peers["cookie"])
    known, at = find(sockets["cookie"], groups.cookies)
    if not known.any():
        return
    peers = traffic.peers[groups.order]
    lengths = np.diff(groups.heads, append=len(peers))
    first = peers[groups.heads]
    differs = np.zeros(len(peers), bool)
    for name in _REMOTE:
        differs |= peers[name] != np.repeat(first[name], lengths)
    several = np.logical_or.reduceat(differs, groups.heads)[known]
    found, first = sockets[at[known]], first[known]
    for name in _REMOTE:
        several |= (found["remote_port"] != 0) & (found[name] != first[name])
    for name in _ENDPOINTS:
        found[name] = first[name]
    found["several"] |= several
    sockets[at[known]] = found


def _drop_rows(sockets: np.ndarray, totals: np.ndarray) -> Columns:
    """Return a row of each of *sockets* that dropped something since, and note the *totals*."""
    grown = totals - sockets["drops"]
    sockets["drops"] = totals
    sockets = sockets[grown != 0]
    for name in _REMOTE:
        sockets[name][sockets["several"]] = np.zeros((), sockets[name].dtype)
    rows: Columns = {"socket": sockets["cookie"], **{name: sockets[name] for name in _ENDPOINTS}}
    rows |= {name: sockets[name] for name in ("process", "cgroup", "network_namespace", "baseline")}
    return rows | {"drops": grown[grown != 0]}


def _drops(sockets: np.ndarray, polled: np.ndarray) -> np.ndarray:
    """Return what each of *sockets* has dropped in all, uint32."""
    _, first = np.unique(polled["cookie"], return_index=True)
    drops: np.ndarray = polled["drops"][first[: len(sockets)]]
    return drops


def _grouped(cookies: np.ndarray) -> _Groups:
    order = np.argsort(cookies, kind="stable")
    ordered = cookies[order]
    heads = np.flatnonzero(begins_group(ordered))
    return _Groups(order, ordered[heads], heads)
