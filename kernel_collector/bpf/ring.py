"""A BPF ring buffer of fixed-size records, drained as one numpy array: no callback and no copy a record.

The layout is the kernel's (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with the producer's, and
the data mapped twice in a row, so that no record wraps around. A record follows 8 bytes with its length and two flags.

Of the data only what waits is mapped, while it is read: the kernel fills in all pages of a mapping at once, so that
whole rings would count as this process's memory, and twice.
"""

from __future__ import annotations

import mmap
import select
import threading
import time
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

import numpy as np

if TYPE_CHECKING:
    from kernel_collector.bpf.bpf_object import BpfObject

_HEADER_BYTES = 8
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_SETTLE_S = 1.0


class Ring:
    """A ring that a loaded object defines by `RING` (bpf/events.h), of records of one dtype.

    Attributes:
        name: of the object, and its own if that is not `events`.
        size: bytes.
        opened: all that are open.

    """

    opened: ClassVar[WeakSet[Ring]] = WeakSet()

    def __init__(self, source: BpfObject, record: np.dtype, name: str = "events") -> None:
        descriptor, self.size = source.map_fd(name), source.map_size(name)
        self._descriptor = descriptor
        self._consumed = np.frombuffer(mmap.mmap(descriptor, mmap.PAGESIZE), "<u8", 1)
        producer = mmap.mmap(descriptor, mmap.PAGESIZE, prot=mmap.PROT_READ, offset=mmap.PAGESIZE)
        self._produced = np.frombuffer(producer, "<u8", 1)
        self._record = record
        self._slot_size = -(-(_HEADER_BYTES + record.itemsize) // 8) * 8
        variables = source.variables()
        self._lost, self._woken = variables[f"{name}_lost"], variables[f"{name}_reader_woken"]
        self.name = source.name if name == "events" else f"{source.name}_{name}"
        self._fullest = 0
        self._barrier = _Barrier()
        # The ring itself is readable while it holds anything; edge-triggered, only where the kernel has woken us.
        self._wakeups = select.epoll()
        self._wakeups.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self.opened.add(self)

    @property
    def lost(self) -> int:
        """How many events found the ring full, since its load."""
        return int(self._lost[0])

    @property
    def wakeup_fd(self) -> int:
        """A file descriptor that is readable when the ring should be drained before its time."""
        return self._wakeups.fileno()

    def take_fullest(self) -> int:
        """Return the most bytes that waited when it was read, since the call before."""
        fullest, self._fullest = self._fullest, 0
        return fullest

    def drain(self) -> np.ndarray:
        """Return the events since the call before, in their order: an array of its own."""
        self._wakeups.poll(0)
        self._woken[0] = 0
        begin, end = int(self._consumed[0]), int(self._produced[0])
        if begin == end:
            return np.empty(0, self._record)
        self._fullest = max(self._fullest, end - begin)
        self._barrier()  # what is before `end` is read after `end`
        slots = self._mapped(begin % self.size, end - begin).reshape(-1, self._slot_size)
        flags = slots[:, :4].copy().view("<u4")[:, 0]
        self._barrier()  # a record is read after its flag
        unfinished = np.flatnonzero(flags & _BUSY)
        count = int(unfinished[0]) if len(unfinished) else len(slots)
        finished = slots[:count, _HEADER_BYTES : _HEADER_BYTES + self._record.itemsize]
        # Copied as bytes: numpy would copy a struct field by field.
        records = finished.compress(flags[:count] & _DISCARDED == 0, axis=0).view(self._record)[:, 0]
        self._barrier()  # records are read before their place is given back
        self._consumed[0] = begin + count * self._slot_size
        return records

    def settle(self) -> None:
        """Wait until `drain` has all events up to now: until what programs began to write is whole, a second at most.

        A program's run takes microseconds, but its processor may be taken away from it meanwhile.
        """
        begin, end = int(self._consumed[0]), int(self._produced[0])
        if begin == end:
            return
        heads = self._mapped(begin % self.size, end - begin).reshape(-1, self._slot_size)[:, :4]
        deadline = time.monotonic() + _SETTLE_S
        while (heads.copy().view("<u4") & _BUSY).any() and time.monotonic() < deadline:
            time.sleep(0)

    def _mapped(self, start: int, length: int) -> np.ndarray:
        """Return a view of some of the data, which is unmapped with the last reference to it."""
        before = start % mmap.PAGESIZE
        offset = 2 * mmap.PAGESIZE + start - before
        pages = mmap.mmap(self._descriptor, before + length, prot=mmap.PROT_READ, offset=offset)
        return np.frombuffer(pages, np.uint8, length, before)

    def close(self) -> None:
        """Stop waking; the positions are unmapped with the last reference to this ring."""
        self._wakeups.close()
        self.opened.discard(self)


class _Barrier:
    """A full memory barrier for processors that reorder reads (arm64): a release, then an acquire, of one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self) -> None:
        self._lock.release()
        self._lock.acquire()
