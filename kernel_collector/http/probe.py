"""The HTTP probe: what sockets asked and answered by HTTP/1, as arrays of `http_record` (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernel_collector.bpf.libbpf import open_iterator, read_iterator
from kernel_collector.bpf.records import http_record_dtype
from kernel_collector.bpf.ring import Ring
from kernel_collector.packets import HTTP_CLOSED, PACKETS

if TYPE_CHECKING:
    from kernel_collector.bpf.bpf_object import ProgramCost
    from kernel_collector.packets import Packets

# The iterators, and the maps over which they go: from the first one to the second sockets move, never back.
ITERATORS = {"http_of_first_requests": "http_first_requests", "http_of_sockets": "http_sockets"}
PROGRAMS = (*PACKETS, HTTP_CLOSED, *ITERATORS)


class HttpProbe:
    """Sockets that speak HTTP/1, while *packets* is open.

    Args:
        packets: in which HTTP is watched.

    Attributes:
        record: the dtype of its arrays.

    Raises:
        OSError: it is not watched, and why.
        BtfError: the object is of another version than this module.

    """

    def __init__(self, packets: Packets) -> None:
        self._object = packets.require("http")
        self.record = http_record_dtype(self._object.btf)
        self._variables = self._object.variables()
        self._iterators = [self._object.attach_to_map(*each) for each in ITERATORS.items()]
        self._ring = Ring(self._object, self.record, "http_closed")

    def close(self) -> None:
        """Stop waking; the programs are those of `packets`."""
        self._ring.close()

    @property
    def events_lost(self) -> int:
        """How many records of sockets that ended found the ring buffer full."""
        return self._ring.lost

    @property
    def wakeup_fd(self) -> int:
        """Readable when `drain` should be called before its time."""
        return self._ring.wakeup_fd

    @property
    def sockets_untracked(self) -> int:
        """How many packets found no memory for what is kept of their socket."""
        return int(self._variables["http_sockets_untracked"][0])

    @property
    def heads_unknown(self) -> int:
        """How often something else stood where a request or a response was expected."""
        return int(self._variables["http_heads_unknown"][0])

    @property
    def requests_untimed(self) -> int:
        """How many requests have no latency, since too many were unanswered."""
        return int(self._variables["http_requests_untimed"][0])

    @property
    def packets_cut(self) -> int:
        """How many packets were not followed to their end."""
        return int(self._variables["http_packets_cut"][0])

    @property
    def places_taken(self) -> int:
        """How many sockets found the place for their first request taken, and so cost more."""
        return int(self._variables["http_places_taken"][0])

    def drain(self) -> np.ndarray:
        """Return what sockets that ended had not told, since the call before."""
        return self._ring.drain()

    def poll(self) -> np.ndarray:
        """Return what all other sockets have not told."""
        return np.frombuffer(b"".join(read_iterator(open_iterator(each)) for each in self._iterators), self.record)

    def cost(self) -> dict[str, ProgramCost]:
        """Return what each program cost so far, while kernel.bpf_stats_enabled is 1."""
        return {program: self._object.cost(program) for program in PROGRAMS}
