"""What TCP sockets did since their last row: a table, by socket cookie, of what was reported before.

Records of the kernel (`tcp_record`, bpf/records.h) go in, rows of the wire (`intake.columns`) come out. All of it is
done in columns, and rows are chosen by `take` and `compress` (see `structured`).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import Columns, empty_columns, stacked, whole
from kernel_collector.columns.socket_index import SocketIndex, with_room
from kernel_collector.columns.structured import opaque
from kernel_collector.tcp.ended_sockets import EndedSockets
from kernel_collector.tcp.listeners import Listeners, choose_owners
from kernel_collector.tcp.lives import (
    CLOSED,
    CONNECTED,
    ESTABLISHED,
    EVENT_ESTABLISHED,
    OPEN,
    Lives,
    beginnings,
    connecting,
    cut,
    grown,
)
from kernel_collector.tcp.states import TcpState

MOST_SOCKETS = 1 << 20
MOST_LISTENERS = 65_536
PORTION = 4_096  # records that are looked at together
MOST_ENDED = 65_536  # that are still known to `owners`

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOCKET = np.dtype(
    [
        ("cookie", "u8"),
        ("time_ns", "u8"),  # of the last record that shows it open
        ("connect_ns", "u8"),  # of its SYN; 0 where unknown
        ("bytes_sent", "u8"),  # these five: what is reported, or was there before the start
        ("bytes_received", "u8"),
        ("segments_sent", "u4"),
        ("segments_received", "u4"),
        ("retransmits", "u4"),
        ("cgroup", "u8"),
        ("process", "u4"),
        ("network_namespace", "u4"),
        ("local_port", "u2"),
        ("remote_port", "u2"),
        ("local_address", "V16"),
        ("remote_address", "V16"),
        ("role", "u1"),
        ("established", "?"),
        ("reset_sent", "?"),
        ("baseline", "?"),  # open before the start, and no row has said so yet
    ],
    align=True,
)
_COUNTERS = ("bytes_sent", "bytes_received", "segments_sent", "segments_received", "retransmits")
_ENDPOINTS = ("network_namespace", "local_address", "remote_address", "local_port", "remote_port")

_FAILURE = np.full(256, intake_pb2.CONNECT_FAILURE_OTHER, np.uint8)
_FAILURE[0] = intake_pb2.CONNECT_FAILURE_CANCELLED
_FAILURE[errno.ECONNREFUSED] = intake_pb2.CONNECT_FAILURE_REFUSED
_FAILURE[errno.ETIMEDOUT] = intake_pb2.CONNECT_FAILURE_TIMED_OUT
_FAILURE[errno.ECONNRESET] = intake_pb2.CONNECT_FAILURE_RESET
_FAILURE[errno.EADDRNOTAVAIL] = intake_pb2.CONNECT_FAILURE_NO_LOCAL_PORT
for _error in (
    *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENONET),
    *(errno.EACCES, errno.ENOPROTOOPT),  # prohibited, by ICMPv6; no such protocol there
):
    _FAILURE[_error] = intake_pb2.CONNECT_FAILURE_UNREACHABLE

# tcp_reset() leaves one of these errors; where the reset was ours as well (see `resets`).
_RESET_BY_PEER = np.zeros(256, bool)
_RESET_BY_PEER[[errno.ECONNRESET, errno.EPIPE]] = True


class SocketTable:
    """What was last reported of each socket; at most *most_sockets* are tracked while they live.

    A socket beyond that is counted in `untracked` each time that it finds no room, and reported by its close event (one
    that was open before the start then counts as new). So is a listener: what it accepts has no owner before a poll.

    Args:
        baseline_ns: when the first poll and the first walks had ended. A socket that a record up to then shows, and no
            event of its opening, was open before: what it moved until that record is in no row.
        most_sockets: the bound.

    Attributes:
        roles_uncertain_until_ns: connect events up to then may be missing: a socket without one need not be accepted.

    """

    def __init__(self, baseline_ns: int, most_sockets: int = MOST_SOCKETS) -> None:
        self._untracked = 0
        self.roles_uncertain_until_ns = 0
        self._baseline_ns = baseline_ns
        self._index = SocketIndex(most_sockets)
        self._sockets = np.zeros(1024, _SOCKET)  # the last one stays 0: a new socket's slot is -1
        self._listeners = Listeners(MOST_LISTENERS)
        self._ended = EndedSockets(MOST_ENDED)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def untracked(self) -> int:
        """How often a socket or a listener found no room."""
        return self._untracked + self._listeners.untracked

    def processes(self) -> np.ndarray:
        """Return the ids of the processes that own a socket or listener, sorted, each once."""
        return np.unique(np.append(self._sockets["process"][self._index.slots], self._listeners.processes()))

    def listener_owners(self, namespaces: np.ndarray, addresses: np.ndarray, ports: np.ndarray) -> np.ndarray:
        """Return the id of the process that listens where sockets with these local ends were accepted, uint32."""
        return self._listeners.owners(namespaces, addresses, ports)[1]

    def cgroups(self) -> np.ndarray:
        """Return the ids of the cgroups of sockets, sorted, each once."""
        return np.unique(self._sockets["cgroup"][self._index.slots])

    def owners(self, cookies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the process id and the network namespace of sockets that are open, or ended not long ago; else 0."""
        slots = self._index.find(cookies)
        process, namespace = (self._sockets[name][slots] for name in ("process", "network_namespace"))
        ended = np.flatnonzero(slots < 0)
        process[ended], namespace[ended] = self._ended.owners(cookies[ended])
        return process, namespace

    def update(self, records: np.ndarray, processes: np.ndarray, now_ns: int) -> Columns:
        """Take records; return a row for each life whose counters changed, or that opened, closed or failed.

        Args:
            records: `tcp_record`s: events in the order of the ring, and what iterators gave. Read the ring after the
                iterators, so that no event is older than a live record of an update before; the first time, all events
                of the sockets that iterators show.
            processes: uint32, the id of each record's process; 0 where unknown.
            now_ns: the time of the rows, by the clock of the records.

        """
        listening = (records["state"] == TcpState.LISTEN) & (records["local_port"] != 0)
        if listening.any():
            self._listeners.update(records.compress(listening), processes[listening])
        parts = [self._update(*portion, now_ns) for portion in _portions(records, processes)]
        rows = stacked(parts)
        self._ended.add(rows)
        return rows

    def _update(self, records: np.ndarray, processes: np.ndarray, now_ns: int) -> Columns:
        """Return the rows of sockets that have no other records."""
        lives = cut(records, processes, self._index.find, self._sockets["time_ns"])
        if len(lives.resets):
            self._note_resets(lives)
        if not len(lives.heads):
            return empty_columns()
        again = np.flatnonzero(lives.begins & (lives.slots >= 0))  # connects again, and its close event was lost
        ended = self._end(lives.slots[again])
        lives.slots[again] = -1
        return stacked([ended, self._follow(lives, now_ns)])

    def missing(self, before_ns: int) -> np.ndarray:
        """Return the network namespaces of sockets that nothing has shown since *before_ns*, each once."""
        sockets = self._sockets.take(self._index.slots)
        return np.unique(sockets["network_namespace"][sockets["time_ns"] < before_ns])

    def retire(self, walked: np.ndarray, before_ns: int, abandoned_ns: int) -> Columns:
        """End the sockets whose close events were lost, and forget listeners that nothing has shown since *before_ns*.

        Args:
            walked: network namespaces that were polled and walked since *before_ns*: their sockets not shown since end.
            before_ns: the start of the poll before the last one.
            abandoned_ns: sockets not shown since then end wherever they are.

        """
        self._listeners.forget(before_ns)
        sockets = self._sockets.take(self._index.slots)
        gone = (sockets["time_ns"] < before_ns) & np.isin(sockets["network_namespace"], walked)
        return self._end(self._index.slots[gone | (sockets["time_ns"] < abandoned_ns)])

    def _note_resets(self, lives: Lives) -> None:
        """Note the resets of sockets of the table whose close events are still to come: those without a life here."""
        cookies = lives.resets["cookie"]
        cookies = cookies[~np.isin(cookies, lives.records["cookie"][lives.heads])]
        slots = self._index.find(cookies)
        self._sockets["reset_sent"][slots[slots >= 0]] = True

    def _follow(self, lives: Lives, now_ns: int) -> Columns:
        """Return the rows of *lives*, and remember the sockets that go on."""
        first = last = lives.records
        if len(lives.heads) < len(lives.records):
            first, last = lives.records.take(lives.heads), lives.records.take(lives.tails)
        known = lives.slots >= 0
        sockets = self._sockets.take(lives.slots)
        sockets["cookie"] = first["cookie"]
        before_start = ~known & (first["time_ns"] <= self._baseline_ns)
        before_start &= ~lives.begins & (lives.marks & EVENT_ESTABLISHED == 0)
        sockets["baseline"] |= before_start
        self._describe(sockets, lives, last, before_start)

        starts = _totals(first)
        for name in _COUNTERS:
            np.copyto(sockets[name], starts[name], where=lives.begins | before_start)
        rows = connecting(sockets, lives)
        for name, total in _totals(last).items():
            rows[name] = grown(total, sockets[name])
            sockets[name] += rows[name]

        opens = (lives.marks & ESTABLISHED != 0) & ~sockets["established"]
        sockets["established"] |= opens
        sockets["reset_sent"] |= lives.reset_sent
        ends = lives.marks & CLOSED != 0
        lost = ~lives.goes_on & ~ends  # its close event
        failed = ~sockets["established"] & (sockets["role"] == intake_pb2.ROLE_CONNECTOR)
        failed &= ends | (lost & (known | lives.begins))
        rows["opened"] = opens & ~before_start
        rows["closed"] = sockets["established"] & (ends | lost)
        told_end = ends & sockets["established"]
        error = last["error"]
        rows["resets_received"] = told_end & _RESET_BY_PEER[error] & ~sockets["reset_sent"]
        rows["resets_sent"] = told_end & sockets["reset_sent"]
        no_port = ends & (error == 0) & (last["local_port"] == 0)
        failure = np.where(no_port, np.uint8(intake_pb2.CONNECT_FAILURE_NO_LOCAL_PORT), _FAILURE[error])
        rows["failed"] = failed
        rows["failure"] = np.where(failed, np.where(ends, failure, intake_pb2.CONNECT_FAILURE_OTHER), 0)
        changed = np.logical_or.reduce([column != 0 for column in rows.values()])
        moments = np.where(failed, last["time_ns"].astype(np.int64), beginnings(lives))
        rows["age_ms"] = _milliseconds(now_ns - moments) * (rows["opened"] | failed)

        changed &= self._remember(sockets, lives, changed, ends) | ~lives.goes_on | ends
        smoothed, least = last["srtt_us"][changed], last["min_rtt_us"][changed]
        rows = {name: column[changed] for name, column in rows.items()}
        rows["srtt_sum_us"], rows["srtt_count"] = smoothed, smoothed != 0
        rows["min_rtt_us"] = np.where(least == np.uint32(0xFFFFFFFF), 0, least)
        return whole("tcp", _described(sockets.compress(changed)) | rows)

    def _describe(self, sockets: np.ndarray, lives: Lives, last: np.ndarray, before_start: np.ndarray) -> None:
        """Set what *sockets* are: endpoints, role, owner, times."""
        known = lives.slots >= 0
        shown = lives.record_marks[lives.tails] & OPEN != 0
        np.copyto(sockets["time_ns"], last["time_ns"], where=shown | ~known)
        np.copyto(sockets["connect_ns"], lives.records["time_ns"][lives.heads], where=lives.begins)
        source = last if shown.all() else lives.records.take(np.where(shown, lives.tails, lives.heads))
        for name in _ENDPOINTS:  # those of a closed socket may be reset
            np.copyto(sockets[name], source[name], where=shown | ~known)

        np.copyto(sockets["cgroup"], last["cgroup"], where=last["cgroup"] != 0)
        sockets["process"] = choose_owners(np.ascontiguousarray(sockets["process"]), lives.holders, lives.heads)
        sockets["role"][lives.marks & CONNECTED != 0] = intake_pb2.ROLE_CONNECTOR
        asked = np.flatnonzero((~known | (sockets["process"] == 0)) & (sockets["role"] != intake_pb2.ROLE_CONNECTOR))
        if len(asked):
            passive = sockets.take(asked)
            listens, owners = self._listeners.owners(
                *(passive[name] for name in ("network_namespace", "local_address", "local_port"))
            )
            born = ~known[asked] & ~before_start[asked] & (passive["time_ns"] > self.roles_uncertain_until_ns)
            sockets["role"][asked[listens | born]] = intake_pb2.ROLE_ACCEPTOR
            sockets["process"][asked] = np.where(passive["process"] == 0, owners, passive["process"])

    def _remember(self, sockets: np.ndarray, lives: Lives, reported: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Keep the sockets that go on and forget the others; return which are kept."""
        goes_on = lives.goes_on & ~ends
        self._index.remove(sockets["cookie"][(lives.slots >= 0) & ~goes_on])
        new = np.flatnonzero(goes_on & (lives.slots < 0))
        slots = lives.slots.copy()
        slots[new] = self._index.insert(sockets["cookie"][new])
        refused = int((slots[new] < 0).sum())
        if refused:
            self._untracked += refused
            self.roles_uncertain_until_ns = np.iinfo(np.int64).max
        kept = goes_on & (slots >= 0)
        self._sockets = with_room(self._sockets, slots)
        remembered = sockets.compress(kept)
        remembered["baseline"] &= ~reported[kept]
        opaque(self._sockets)[slots[kept]] = opaque(remembered)
        return np.asarray(kept)

    def _end(self, slots: np.ndarray) -> Columns:
        """Return the last rows of sockets whose close event was lost, and forget them."""
        sockets = self._sockets.take(slots)
        self._index.remove(np.sort(sockets["cookie"]))
        failed = ~sockets["established"] & (sockets["role"] == intake_pb2.ROLE_CONNECTOR)
        failure = np.where(failed, intake_pb2.CONNECT_FAILURE_OTHER, intake_pb2.CONNECT_FAILURE_NONE)
        told = sockets["established"] | failed
        rows = {"closed": sockets["established"], "failed": failed, "failure": failure}
        return whole("tcp", _described(sockets.compress(told)) | {name: column[told] for name, column in rows.items()})


def _portions(records: np.ndarray, processes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all, or where they are many some sockets' at a time: what they become takes several times their memory."""
    count = -(-len(records) // PORTION)
    if count <= 1:
        yield records, processes
        return
    portion = records["cookie"] % np.uint64(count)
    for number in range(count):
        these = np.flatnonzero(portion == number)
        yield records.take(these), processes[these]


def _milliseconds(elapsed_ns: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(elapsed_ns // 1_000_000, 0, np.iinfo(np.uint32).max), np.uint32)


def _totals(records: np.ndarray) -> Columns:
    """Return what sockets moved in all: payload counts once, and neither SYN nor FIN."""
    return {
        "bytes_sent": records["bytes_sent"] - records["bytes_retrans"],
        "bytes_received": records["bytes_received"] - records["fin_received"],
        "segments_sent": records["segs_out"],
        "segments_received": records["segs_in"],
        "retransmits": records["total_retrans"],
    }


def _described(sockets: np.ndarray) -> Columns:
    return {
        "socket": sockets["cookie"],
        **{name: sockets[name] for name in ("process", "cgroup", *_ENDPOINTS, "role", "baseline")},
    }
