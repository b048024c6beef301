"""The DNS probe: queries and answers by socket, peer and role as the kernel matched them, and new answers to read."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from intake.clock import SECOND_NS
from kernel_collector.bpf.records import dns_dtypes
from kernel_collector.bpf.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_collector.packets import Packets

TIMEOUT_NS = 10 * SECOND_NS
_COUNTS = ("dns_counts_0", "dns_counts_1")
_BINS = ("dns_bins_0", "dns_bins_1")


class DnsTraffic(NamedTuple):
    """What sockets asked and answered, and their latencies: arrays of these structs, or of what the name says.

    Attributes:
        peers: `dns_peer`, no one twice.
        counts: `dns_counts`, a row each of them.
        bins: `dns_bin`, no one twice.
        bin_counts: uint32, a row each of them.

    """

    peers: np.ndarray
    counts: np.ndarray
    bins: np.ndarray
    bin_counts: np.ndarray


class Message(NamedTuple):
    """An answer as it was sent, or the first bytes of one."""

    content: bytes
    whole: bool


def constants(timeout_ns: int = TIMEOUT_NS) -> dict[str, bytes]:
    """Return what the programs are to be told before they are loaded."""
    return {"dns_seed": secrets.token_bytes(8), "dns_timeout_ns": timeout_ns.to_bytes(8, "little")}


class DnsProbe:
    """Queries and answers of the DNS, while *packets* is open.

    Args:
        packets: in which DNS is watched, with the `constants` of this module.
        timeout_ns: as in those.

    Raises:
        OSError: it is not watched, and why.
        BtfError: the object is of another version than this module.

    """

    def __init__(self, packets: Packets, timeout_ns: int = TIMEOUT_NS) -> None:
        self._object = packets.require("dns")
        self._timeout_ns = timeout_ns
        self._dtypes = dns_dtypes(self._object.btf)
        self._variables = self._object.variables()
        self._ring = Ring(self._object, self._dtypes["dns_answer"], "dns_answers")
        self._entries_added = 0
        # What is left of the last exchange.
        self._portions: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
        self._portion: tuple[np.ndarray, np.ndarray] | None = None
        self._bins = self.nothing()[0].bins, self.nothing()[0].bin_counts
        self.queries_open = 0

    def close(self) -> None:
        """Let go of the ring; the programs are their owner's."""
        self._ring.close()

    def counter(self, name: str) -> int:
        """Return a counter of the programs: `dns_messages_malformed`, `dns_messages_untracked`, …."""
        return int(self._variables[name][0])

    def nothing(self) -> tuple[DnsTraffic, np.ndarray]:
        """Return what `drain` and `expire` do where nothing happened."""
        peer, counts, dns_bin, query = (
            np.empty(0, self._dtypes[name]) for name in ("dns_peer", "dns_counts", "dns_bin", "dns_query")
        )
        return DnsTraffic(peer, counts, dns_bin, np.empty(0, np.uint32)), query

    @property
    def more(self) -> bool:
        """Whether `drain` has left traffic of before its call."""
        return self._portion is not None

    def drain(self) -> DnsTraffic:
        """Return the traffic since the call before; where `more` is left, that of before the last call without."""
        if not self.more:
            self._exchange()
        if self._portion is None:
            return self.nothing()[0]
        peers, counts = self._portion
        self._portion = next(self._portions, None)
        bins, bin_counts = self._bins
        here = np.isin(bins["entry"], counts["number"])
        self._bins = bins.compress(~here), bin_counts[~here]
        return DnsTraffic(peers, counts, bins.compress(here), bin_counts[here])

    def _exchange(self) -> None:
        """Have the programs count in the other maps, and begin to read those in which they did."""
        added = self.counter("dns_entries_added")
        if added == self._entries_added:
            return
        self._entries_added = added
        dtypes = [self._dtypes[name] for name in ("dns_peer", "dns_counts", "dns_bin")]
        idle = self.counter("dns_generation") & 1
        self._variables["dns_generation"][0] += 1
        # The kernel returns once no program counts in the idle maps (map_update_elem, synchronize_rcu).
        counted_in = self._object.map_fd(_COUNTS[1 - idle])
        self._object.update("dns_exchange", bytes(4), counted_in.to_bytes(4, "little"))
        self._bins = self._object.empty(_BINS[idle], dtypes[2], np.dtype(np.uint32))
        self._portions = self._object.portions(_COUNTS[idle], dtypes[0], dtypes[1])
        self._portion = next(self._portions)

    def expire(self) -> np.ndarray:
        """Return the `dns_query` of each query that had no answer in time, and forget it."""
        keys, queries = self._object.read("dns_open", self._dtypes["dns_key"], self._dtypes["dns_query"])
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        late = np.flatnonzero(queries["time_ns"] + np.uint64(self._timeout_ns) < now_ns)
        late = late[self._object.delete("dns_open", keys.take(late))]  # those that no program has just counted itself
        self.queries_open = len(keys) - len(late)
        expired: np.ndarray = queries.take(late)
        return expired

    def answers(self) -> list[Message]:
        """Return the answers with addresses since the call before, but for those that were told lately."""
        pieces = self._ring.drain()
        contents: dict[int, bytes] = {}
        lengths: dict[int, int] = {}
        columns = (pieces[name].tolist() for name in ("answer", "offset", "length", "bytes"))
        for answer, offset, length, content in zip(*columns, strict=True):
            if offset == 0:
                contents[answer] = b""
                lengths[answer] = length
            if offset == len(contents.get(answer, b"")) < length:
                contents[answer] += content[: length - offset]
        return [Message(content, len(content) == lengths[answer]) for answer, content in contents.items()]
