"""What a collector has sent or will send, and has no acknowledgement for: numbered batches, bounded in bytes.

Batches are kept as the compressed messages that go on the wire. When a new one finds no room, rows of the same socket
are added up over batches that were never sent, and where that frees too little the oldest batches are dropped.

A batch that was sent is never merged, even after the connection is lost: the reducer may have taken it, and the merged
batch would hold its rows a second time under another number.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.batches import encoded
from intake.columns import TABLES, Columns, Tables, unpack_tables
from intake.compression import parse
from intake.limits import MOST_ROWS
from intake.merge import merge_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

# A collector has 90 MB, of which its libraries take about 60, and a merge needs its input three times over. 16 MiB
# hold about 2 million rows of many sockets: at 5,000 rows a poll half an hour before the first merge.
SPOOL_BYTES = 16 << 20
# What one merge takes at most: it bounds the memory and the time of a merge.
MERGED_BYTES = 2 << 20
# What the merged batch may be of those that it replaces; else they stay as they are, each with its own time.
_WORTHWHILE = 0.9
# A full spool is emptied to this part, so that the work of making room comes once in many batches.
_KEPT_PART = 3 / 4
# An entry's objects beside its message.
_ENTRY_BYTES = 200


@dataclass(frozen=True, slots=True)
class SpooledBatch:
    """A batch as it goes on the wire, and what is counted when it is lost.

    Attributes:
        number: of the batch, from 1.
        first: the lowest number whose rows it holds: its own, or that of the oldest batch merged into it.
        message: the serialized FromCollector, compressed.
        length: of it before compression, in bytes.
        rows: of its tables.
        payload_bytes: in its rows, both directions.

    """

    number: int
    first: int
    message: bytes
    length: int
    rows: int
    payload_bytes: int

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self.message) + _ENTRY_BYTES


class Spool:
    """Batches in order of their numbers.

    Attributes:
        bytes: what the batches occupy.
        limit: of it.
        highest_sent: the highest number that was handed to any connection.
        highest_number: the number given last.
        rows_merged: rows that were added to another one.
        rows_dropped: rows of dropped batches.
        bytes_dropped: payload bytes in the dropped rows. The reducer may have some of them: a batch that was sent
            and dropped before it was acknowledged is counted here.

    """

    def __init__(self, limit: int = SPOOL_BYTES, merged_bytes: int = MERGED_BYTES) -> None:
        self.limit = limit
        self._merged_bytes = merged_bytes
        self._batches: list[SpooledBatch] = []
        self.bytes = 0
        self.highest_sent = 0
        self.highest_number = 0
        self.rows_merged = 0
        self.rows_dropped = 0
        self.bytes_dropped = 0

    def append(self, batch: intake_pb2.Batch, tables: Tables) -> bool:
        """Give *batch* its number and keep it with the rows of *tables*.

        Returns:
            Whether a batch that was never sent was dropped or merged to make room: the entities that it brought
            are in no batch any more.

        """
        self.highest_number += 1
        batch.number = self.highest_number
        new = _spooled(batch, tables, batch.number)
        lossy = self.bytes + new.size > self.limit and self._make_room(new.size)
        self._batches.append(new)
        self.bytes += new.size
        return lossy

    def next_after(self, number: int) -> SpooledBatch | None:
        """Return the first batch beyond *number*."""
        index = self._index_after(number)
        return self._batches[index] if index < len(self._batches) else None

    def sent(self, number: int) -> None:
        """Note that the batches up to *number* were handed to a connection."""
        self.highest_sent = max(self.highest_sent, number)

    def acknowledge(self, number: int) -> None:
        """Forget the batches up to *number*; those that were never sent are kept, whatever the reducer says."""
        self._remove(0, self._index_after(min(number, self.highest_sent)))

    def refuse(self, number: int) -> bool:
        """Forget the one batch that the reducer will not take; return whether it was here."""
        index = self._index_after(number - 1)
        found = number <= self.highest_sent and index < len(self._batches) and self._batches[index].number == number
        if found:
            self._remove(index, index + 1)
        return found

    def forget_without_rows(self) -> None:
        """Forget the batches that only tell of entities: a snapshot tells all of them, and as they are by now."""
        kept = [batch for batch in self._batches if batch.rows]
        self.bytes = sum(batch.size for batch in kept)
        self._batches = kept

    @property
    def acknowledged(self) -> int:
        """The highest number such that no row of the batches up to it is kept any more."""
        return self._batches[0].first - 1 if self._batches else self.highest_number

    def pending(self) -> Iterator[SpooledBatch]:
        """Yield all batches, oldest first."""
        yield from self._batches

    def __len__(self) -> int:
        return len(self._batches)

    def _index_after(self, number: int) -> int:
        return bisect_right(self._batches, number, key=lambda batch: batch.number)

    def _remove(self, start: int, end: int) -> None:
        self.bytes -= sum(batch.size for batch in self._batches[start:end])
        del self._batches[start:end]

    def _make_room(self, needed: int) -> bool:
        goal = int(self.limit * _KEPT_PART) - needed
        merged = self._merge(goal)
        excess = self.bytes - goal if self.bytes + needed > self.limit else 0
        end = 0
        while excess > 0 and end < len(self._batches):
            dropped = self._batches[end]
            self.rows_dropped += dropped.rows
            self.bytes_dropped += dropped.payload_bytes
            excess -= dropped.size
            end += 1
        never_sent = end > 0 and self._batches[end - 1].number > self.highest_sent
        self._remove(0, end)
        return merged or never_sent

    def _merge(self, goal: int) -> bool:
        """Merge runs of batches that were never sent, oldest first, until the spool is down to *goal* bytes."""
        merged = False
        start = self._index_after(self.highest_sent)
        while self.bytes > goal and start + 1 < len(self._batches):
            end = self._end_of_run(start)
            if end - start > 1 and self._merge_run(start, end):
                merged = True
                start += 1
            else:
                start = end
        return merged

    def _end_of_run(self, start: int) -> int:
        """Return where a run from *start* ends that one message can hold: at least one batch."""
        size, rows, end = 0, 0, start
        for batch in self._batches[start:]:
            size += batch.length
            rows += batch.rows
            if end > start and (size > self._merged_bytes or rows > MOST_ROWS):
                break
            end += 1
        return end

    def _merge_run(self, start: int, end: int) -> bool:
        """Merge these batches if that frees a fair part of them; return whether it did."""
        run = self._batches[start:end]
        batches = [parse(batch.message).batch for batch in run]
        newest = batches[-1]
        parts: dict[str, list[Columns]] = {}
        for batch in batches:
            for table, rows in unpack_tables(batch, MOST_ROWS).items():
                parts.setdefault(table, []).append(_at(newest.time_unix_ns, rows, batch.time_unix_ns))
        merged = intake_pb2.Batch(number=newest.number, time_unix_ns=newest.time_unix_ns)
        if newest.HasField("statistics"):
            merged.statistics.CopyFrom(newest.statistics)
        tables = {table: merge_rows(TABLES[table], of_table) for table, of_table in parts.items()}
        replacement = _spooled(merged, tables, run[0].first)
        if replacement.length > _WORTHWHILE * sum(batch.length for batch in run):
            return False
        self.rows_merged += sum(batch.rows for batch in run) - replacement.rows
        self._remove(start, end)
        self._batches.insert(start, replacement)
        self.bytes += replacement.size
        return True


def _at(time_ns: int, rows: Columns, told_ns: int) -> Columns:
    """Return the rows of a batch of another time, with the ages that they have at this one."""
    if "age_ms" not in rows or not rows["age_ms"].any():
        return rows
    age_ms = rows["age_ms"].astype(np.int64)
    aged = np.clip(age_ms + (time_ns - told_ns) // 1_000_000, 1, np.iinfo(np.uint32).max)
    return rows | {"age_ms": np.where(age_ms, aged, 0).astype(np.uint32)}


def _spooled(batch: intake_pb2.Batch, tables: Tables, first: int) -> SpooledBatch:
    payload = 0
    for rows in tables.values():
        payload += sum(int(rows[name].sum()) for name in ("bytes_sent", "bytes_received") if name in rows)
    count = sum(len(rows["socket"]) for rows in tables.values())
    return SpooledBatch(batch.number, first, *encoded(batch, tables), count, payload)
