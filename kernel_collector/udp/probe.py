"""The UDP probe: traffic of each socket with each of its peers, and the sockets' owners and drops."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kernel_collector.bpf.exchanged_maps import ExchangedMaps
from kernel_collector.bpf.libbpf import open_iterator, read_iterator
from kernel_collector.bpf.records import udp_record_dtypes
from kernel_collector.packets import PACKETS, UDP_CREATED, UDP_FUNCTIONS, UDP_NO_ROOM, UDP_PROCESSES

if TYPE_CHECKING:
    from kernel_collector.bpf.bpf_object import ProgramCost
    from kernel_collector.packets import Packets


class UdpTraffic(NamedTuple):
    """What sockets exchanged with peers: arrays of `udp_peer` and `udp_traffic`, a row each, no pair twice."""

    peers: np.ndarray
    counts: np.ndarray


class UdpDropped(NamedTuple):
    """What sockets had dropped when they did so last, those that did lately: a row each, numbers that wrap.

    Attributes:
        cookies: uint64.
        before: uint32, before the first drop that was seen.
        now: uint32.

    """

    cookies: np.ndarray
    before: np.ndarray
    now: np.ndarray


class UdpProbe:
    """UDP sockets, while *packets* is open.

    Args:
        packets: in which UDP is watched. Its constant `udp_most_peers` says how many peers of a socket are told apart
            between two calls of `drain`; those beyond are counted as one.

    Raises:
        OSError: it is not watched, and why.
        BtfError: the object is of another version than this module.

    """

    def __init__(self, packets: Packets) -> None:
        self._object = packets.require("udp")
        self._in_functions = packets.in_udp_functions
        self._record, self._peer, self._traffic, self._dropped = udp_record_dtypes(self._object.btf)
        self._variables = self._object.variables()
        self._maps = ExchangedMaps(
            self._object, "udp_counts", self._variables["udp_entries_added"], self._peer, self._traffic
        )
        self._processes = self._object.attach(UDP_PROCESSES)

    @property
    def packets_untracked(self) -> int:
        """How many packets found no room for their socket and peer, and are not counted."""
        return int(self._variables["udp_packets_untracked"][0])

    @property
    def packets_of_other_peers(self) -> int:
        """How many packets were counted as those of other peers, since their socket had too many."""
        return int(self._variables["udp_packets_of_other_peers"][0])

    def drain(self) -> UdpTraffic:
        """Return the traffic since the call before."""
        self._variables["udp_generation"][0] += 1
        return UdpTraffic(*self._maps.drain())

    def dropped(self) -> UdpDropped:
        """Return what sockets dropped, whether or not they are still there."""
        cookies, counts = self._object.read("udp_dropped", np.dtype("u8"), self._dropped)
        return UdpDropped(cookies, counts["before"], counts["now"])

    def poll(self) -> np.ndarray:
        """Return a `udp_record` for each file descriptor, of any process of this pid namespace, that is a UDP socket.

        A socket that several processes hold, or one process several times, comes as often.
        """
        return np.frombuffer(read_iterator(open_iterator(self._processes)), self._record)

    def cost(self) -> dict[str, ProgramCost]:
        """Return what each program cost so far, while kernel.bpf_stats_enabled is 1."""
        counting = UDP_FUNCTIONS if self._in_functions else PACKETS
        return {program: self._object.cost(program) for program in (UDP_PROCESSES, UDP_CREATED, UDP_NO_ROOM, *counting)}
