"""Records of TCP sockets cut into *lives*, and what a life's records say of its begin.

A life ends with a close event, and a connect event begins one, so that a socket that connects again and again has
several in one update. Only a socket's first life can be one that the table knows, and only its last can go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kernel_collector.bpf.records import TcpRecordKind
from kernel_collector.columns.sorted_keys import begins_group
from kernel_collector.tcp.resets import reset_lives
from kernel_collector.tcp.states import WAS_ESTABLISHED, TcpState

if TYPE_CHECKING:
    from collections.abc import Callable

    from intake.columns import Columns

# What a record says of its life, by its kind and state: the old state of a close event, else the present one. Those
# of listeners, of resets and of kinds that kernels to come may add are of no life.
OPEN, CLOSED, CONNECTED, ESTABLISHED, EVENT_ESTABLISHED, _OF_LIFE = (np.uint8(1 << bit) for bit in range(6))
_MARKS = np.zeros((256, 256), np.uint8)
for _state in TcpState:
    _mark = (ESTABLISHED if _state in WAS_ESTABLISHED else 0) | (CONNECTED if _state == TcpState.SYN_SENT else 0)
    _MARKS[TcpRecordKind.LIVE, _state] = _mark | (OPEN if _state != TcpState.CLOSE else 0)
    _MARKS[TcpRecordKind.CLOSED, _state] = _mark | OPEN | CLOSED
_MARKS[TcpRecordKind.CONNECT, TcpState.SYN_SENT] = OPEN | CONNECTED
_MARKS[TcpRecordKind.ESTABLISHED, TcpState.ESTABLISHED] = OPEN | CONNECTED | ESTABLISHED | EVENT_ESTABLISHED
_MARKS[[TcpRecordKind.LIVE, TcpRecordKind.CONNECT, TcpRecordKind.ESTABLISHED, TcpRecordKind.CLOSED], :16] |= _OF_LIFE
_MARKS[:, TcpState.LISTEN] = 0
_MARKS[TcpRecordKind.CLOSED, TcpState.CLOSE] = 0


class Lives(NamedTuple):
    """Records sorted by socket and time, and the lives they are cut into: an element a record, or a life."""

    records: np.ndarray
    record_marks: np.ndarray
    holders: np.ndarray  # a record: id of the process that holds or uses the socket; 0 where it tells of none
    heads: np.ndarray  # a life: index of its first record
    tails: np.ndarray  # its last record
    marks: np.ndarray  # those of all its records
    begins: np.ndarray  # its first record is a connect event
    goes_on: np.ndarray  # no later life of the same socket follows
    slots: np.ndarray  # where the table has the socket; -1 where it is new
    reset_sent: np.ndarray  # this end sent a reset
    resets: np.ndarray  # records of the resets that this end sent, of whatever life


def cut(
    records: np.ndarray, processes: np.ndarray, find: Callable[[np.ndarray], np.ndarray], shown_ns: np.ndarray
) -> Lives:
    """Sort the records of sockets that connect or were accepted, and cut them into lives.

    Args:
        records: `tcp_record`s.
        processes: the id of each record's process.
        find: gives the slots of cookies in the table, -1 where it has none.
        shown_ns: when the socket in each slot was last shown.

    """
    kinds = np.ascontiguousarray(records["kind"])
    marks = _MARKS[kinds, np.where(kinds == TcpRecordKind.CLOSED, records["old_state"], records["state"])]
    resets = records.compress(kinds == TcpRecordKind.RESET_SENT)
    taken = np.flatnonzero(marks & _OF_LIFE)
    taken = taken[np.lexsort((records["time_ns"][taken], records["cookie"][taken]))]
    records, processes, kinds, marks = records.take(taken), processes[taken], kinds[taken], marks[taken]
    cookies = np.ascontiguousarray(records["cookie"])
    new_socket = begins_group(cookies)
    slots = find(cookies[new_socket])[np.cumsum(new_socket) - 1]

    begins = kinds == TcpRecordKind.CONNECT
    # One that comes late, because the ring's reader met a record that was being written, begins nothing.
    of_known = np.flatnonzero(begins & (slots >= 0))
    begins[of_known] = records["time_ns"][of_known] >= shown_ns[slots[of_known]]
    new_life = new_socket | begins
    new_life[1:] |= kinds[:-1] == TcpRecordKind.CLOSED
    heads = np.flatnonzero(new_life)
    # The descriptor of a closed socket tells nothing, but for the last counters of one whose close event was lost.
    says_nothing = ~(new_socket[heads] & (slots[heads] >= 0))
    if len(heads):
        says_nothing &= np.bitwise_or.reduceat(marks, heads) & OPEN == 0
    if says_nothing.any():
        kept = np.repeat(~says_nothing, np.diff(heads, append=len(marks)))
        records, processes, kinds, marks = records.compress(kept), processes[kept], kinds[kept], marks[kept]
        new_life, begins, slots = new_life[kept], begins[kept], slots[kept]
        new_socket = begins_group(cookies[kept])
        heads = np.flatnonzero(new_life)
    reset_sent = np.zeros(len(heads), bool)
    if len(resets):
        reset_sent[reset_lives(resets, records["cookie"][heads], records["time_ns"][heads])] = True
    tells_holder = (kinds == TcpRecordKind.LIVE) | (kinds == TcpRecordKind.CONNECT)
    return Lives(
        records,
        marks,
        np.where(tells_holder, processes, np.uint32(0)),
        heads,
        np.append(heads[1:], len(marks)) - 1,
        np.bitwise_or.reduceat(marks, heads) if len(heads) else marks,
        begins[heads],
        np.append(new_socket[heads[1:]], np.True_),
        np.where(new_socket[heads], slots[heads], -1),
        reset_sent,
        resets,
    )


def connecting(sockets: np.ndarray, lives: Lives) -> Columns:
    """Return the times from SYN to established, and the SYNs sent again, of *sockets* as they were before."""
    events, of = _established_events(lives)
    established = lives.records.take(events)
    elapsed_ns = (established["time_ns"] - sockets["connect_ns"][of]).astype(np.int64)
    measured = (sockets["connect_ns"][of] > 0) & (elapsed_ns >= 0)
    elapsed, count, timeouts = (np.zeros(len(sockets), dtype) for dtype in (np.uint64, np.uint32, np.uint32))
    elapsed[of[measured]] = elapsed_ns[measured] // 1000
    count[of[measured]] = 1
    still = np.flatnonzero(lives.record_marks[lives.tails] & (CONNECTED | ESTABLISHED) == CONNECTED)
    timeouts[still] = grown(lives.records["total_retrans"][lives.tails[still]], sockets["retransmits"][still])
    timeouts[of] = grown(established["total_retrans"], sockets["retransmits"][of])
    return {"connect_sum_us": elapsed, "connect_count": count, "syn_timeouts": timeouts}


def beginnings(lives: Lives) -> np.ndarray:
    """Return when connections opened: the time of the event, or of the first record of one that was accepted."""
    began: np.ndarray = lives.records["time_ns"][lives.heads].astype(np.int64)
    events, of = _established_events(lives)
    began[of] = lives.records["time_ns"][events]
    return began


def grown(total: np.ndarray, reported: np.ndarray) -> np.ndarray:
    """Return by how much counters that wrap have grown; 0 where one was read while it changed, and looks less."""
    growth: np.ndarray = total - reported
    growth[growth > np.iinfo(growth.dtype).max // 2] = 0
    return growth


def _established_events(lives: Lives) -> tuple[np.ndarray, np.ndarray]:
    """Return the indexes of the records of the event, and of their lives."""
    events = np.flatnonzero(lives.record_marks & EVENT_ESTABLISHED)
    return events, np.searchsorted(lives.heads, events, side="right") - 1
