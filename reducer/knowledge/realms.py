"""Networks and clusters that use the same private addresses: whose an address is, as a collector sees it.

A flow within one network is told apart from the flow of equal addresses and ports within another. This is done only for
addresses that several networks have, and where both ends are in the collector's own: the two ends of a flow between
networks would not agree on one.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import numpy as np

from reducer.knowledge.timeline import PlaceFilter, TimelineView, keys_of, place_of, scope_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ebpf_net.v1 import intake_pb2

    from reducer.knowledge.directory import DirectoryView

    Hosts = Sequence[intake_pb2.Host | None]

_V4 = np.uint64(0xFFFF_0000)
_V4_NETWORKS = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
_V6_NETWORKS = ("fc00::/7", "fe80::/10")  # besides ::/64


class Realms:
    """The networks of addresses that several have.

    Args:
        timelines: claims to addresses, each with the scopes that sessions, by index, see them in.

    """

    def __init__(self, timelines: Sequence[tuple[TimelineView, np.ndarray]]) -> None:
        self._parts = [
            (PlaceFilter(timeline.place[timeline.shared]), timeline, scopes)
            for timeline, scopes in timelines
            if timeline.shared.any()
        ]

    def of(self, local: np.ndarray, remote: np.ndarray, session: np.ndarray) -> np.ndarray | None:
        """Return the realm, uint64, of flows between two addresses, (n, 2) uint64; 0 is that of all; None: all are 0.

        Args:
            local: of the sessions' machines.
            remote: that they talk to.
            session: by flow, its index.

        """
        realm = None
        for shared, timeline, scopes in self._parts:
            here, there = place_of(local), place_of(remote)
            asked = np.flatnonzero(shared.may_have(here) | shared.may_have(there))
            if not len(asked):
                continue
            scope = scopes[session[asked]]
            both = np.ones(len(asked), bool)
            for place in (here, there):
                both &= timeline.claims(keys_of(place[asked], scope))
            realm = np.zeros(len(local), np.uint64) if realm is None else realm
            realm[asked] = np.where(both & (realm[asked] == 0), scope, realm[asked])
        return realm


def environments(hosts: Hosts) -> np.ndarray:
    """Return by session index the scope of its environment, uint64."""
    return np.array([scope_of(host.environment) if host else 0 for host in hosts], np.uint64)


def networks(hosts: Hosts, of_machine: Mapping[tuple[str, str], str]) -> np.ndarray:
    """Return by session index the scope of its machine's network, uint64, given networks by provider and instance."""
    clouds = [host.cloud if host else None for host in hosts]
    told = [of_machine.get((cloud.provider, cloud.instance_id), "") if cloud else "" for cloud in clouds]
    return np.array([scope_of(network) for network in told], np.uint64)


def realms_of(hosts: Hosts, directory: DirectoryView) -> Realms | None:
    """Return the realms of addresses that several clusters or networks have; None where there are none."""
    pods, interfaces = directory.pods, directory.interfaces
    if not (pods.shared.any() or interfaces.shared.any()):
        return None
    return Realms(((pods, environments(hosts)), (interfaces, networks(hosts, directory.networks))))


def is_private(address: np.ndarray) -> np.ndarray:
    """Return which of (n, 2) uint64 addresses are not seen elsewhere: private, shared, link-local and loopback ones."""
    first, second = address[:, 0], address[:, 1]
    v4 = (first == 0) & (second & np.uint64(0xFFFF_FFFF) == _V4)
    low, high = second.byteswap() & np.uint64(0xFFFF_FFFF), first.byteswap()
    private: np.ndarray = ~v4 & (first == 0)
    for network in map(ipaddress.ip_network, (*_V4_NETWORKS, *_V6_NETWORKS)):
        mask, begin = int(network.netmask), int(network.network_address)
        if network.version == 4:  # noqa: PLR2004
            private |= v4 & (low & np.uint64(mask) == begin)
        else:
            private |= high & np.uint64(mask >> 64) == begin >> 64
    return private


def public_pairs(host: intake_pb2.Host) -> np.ndarray:
    """Return the addresses of a machine that others see as others: (n, 4) uint64, private and public."""
    told = b"".join(pair.private + pair.public for pair in host.cloud.addresses)
    return np.frombuffer(told, np.uint64).reshape(-1, 4)


def as_others_see(address: np.ndarray, peer: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the addresses of ends, V16, as their peers see them: a machine's own by its public one, to public peers.

    Args:
        address: V16.
        peer: the same of the other ends.
        pairs: as `public_pairs` returns them.

    """
    words = address.copy().view(np.uint64).reshape(-1, 2)
    outside = ~is_private(np.ascontiguousarray(peer).view(np.uint64).reshape(-1, 2))
    for pair in pairs:
        words[outside & (words == pair[:2]).all(axis=1)] = pair[2:]
    seen: np.ndarray = words.reshape(-1).view(address.dtype)
    return seen
