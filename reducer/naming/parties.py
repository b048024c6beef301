"""Who the ends of flows are: the owner that a collector told, or what is known of the address at that time.

A party is a small number for an owner, for what an address belongs to, or for both. What decides is computed for all
ends at once, and what a party is called once a party (name.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reducer.knowledge.autonomous_systems import NO_SYSTEM
from reducer.knowledge.directory import NO_ENTITY
from reducer.knowledge.owners import UNKNOWN_OWNER
from reducer.knowledge.realms import environments, networks
from reducer.knowledge.timeline import PlaceFilter, keys_of, place_of
from reducer.knowledge.told import ANY_NODE
from reducer.matching.grouping import PORTS
from reducer.matching.match import Special, addresses
from reducer.windows.rows import IPPROTO_UDP

if TYPE_CHECKING:
    from reducer.knowledge.autonomous_systems import AutonomousSystems
    from reducer.knowledge.directory import DirectoryView
    from reducer.knowledge.dns_names import DnsNames
    from reducer.knowledge.entities import Entity
    from reducer.knowledge.owners import Owner, OwnersView
    from reducer.knowledge.timeline import TimelineView
    from reducer.matching.matched import Matched

NO_PARTY = 0
# A party takes about 200 bytes.
MOST_PARTIES = 1 << 20
_UNSET = np.iinfo(np.uint32).max
# Names are numbered apart from entities, and systems apart from owners.
_OF_DNS = np.uint32(1 << 31)
_OF_SYSTEM = _OF_DNS


class Reason(IntEnum):
    """Why an end is not known."""

    NONE = 0
    NO_COLLECTOR = 1
    NO_SOCKET = 2
    NO_PROCESS = 3
    NOT_THEN = 4
    SEVERAL = 5
    PEERS_NOT_TOLD = 6


class Party(NamedTuple):
    """What is known of an end.

    Attributes:
        owner: what a collector told; None where none is.
        entity: what its address, or the owner's container, belongs to.
        organisation: of the address's autonomous system.

    """

    owner: Owner | None
    entity: Entity | None = None
    organisation: str = ""


@dataclass(frozen=True)
class Flows:
    """Flows whose ends are asked for; arrays by end have two elements a flow.

    Attributes:
        owner: by end, uint32.
        special: by end, uint8.
        address: by end, (2 * flows, 2) uint64.
        ports: by flow, uint64: the word of their keys.
        time_ns: by flow, int64: when their ends had their addresses.
        began_ns: by flow, int64: when they began.

    """

    owner: np.ndarray
    special: np.ndarray
    address: np.ndarray
    ports: np.ndarray
    time_ns: np.ndarray
    began_ns: np.ndarray

    def port(self) -> np.ndarray:
        """Return protocol and port by end, uint64, as `told.port_number` does."""
        protocol = self.ports >> np.uint64(16) & np.uint64(0xFFFF0000)
        low, high = self.ports >> np.uint64(16) & np.uint64(0xFFFF), self.ports & np.uint64(0xFFFF)
        return np.stack((protocol | low, protocol | high), axis=1).ravel()


def flows_of(matched: Matched, end_ns: int) -> Flows:
    """Return the flows of the window that ends at *end_ns*.

    A connection is with whom it was made with, whoever has the address later; datagrams are with who has it.
    """
    last_ns = end_ns - 1
    began_ns = np.where(matched.began_ns == 0, last_ns, matched.began_ns)
    ports = matched.key[PORTS]
    told_ns = np.where(matched.told_ns == 0, last_ns, matched.told_ns)
    time_ns = np.where(ports >> np.uint64(32) == IPPROTO_UDP, told_ns, began_ns)
    return Flows(matched.owner, matched.special, addresses(matched.key), ports, time_ns, began_ns)


class Parties:
    """Finds the parties of ends; `begin_window` tells it what is known.

    Args:
        names: of the DNS.
        systems: the database of autonomous systems; None: there is none.
        use_interfaces: whether interfaces of clouds name ends without a collector.

    Attributes:
        generation: rises when numbers of parties were given again.

    """

    def __init__(self, names: DnsNames, systems: AutonomousSystems | None, *, use_interfaces: bool) -> None:
        self.generation = 0
        self._unknown = np.zeros(len(Reason), np.int64)
        self._names = names
        self._systems = systems
        self._use_interfaces = use_interfaces
        self._seen = (-1, -1)
        self._pairs: np.ndarray
        self._directory_generation = -1
        self._hosts_revision = -1
        self._forget()

    def __len__(self) -> int:
        return len(self._whose)

    def begin_window(self, owners: OwnersView, directory: DirectoryView) -> None:
        """Take what is known, and forget what numbers meant that were given again."""
        seen = (owners.generation, self._names.generation)
        if seen != self._seen or len(self) > MOST_PARTIES:
            self._forget()
            self._seen = seen
        self._owners, self._directory = owners, directory
        self._look_at_owners()
        if owners.hosts_revision != self._hosts_revision:
            self._hosts_revision = owners.hosts_revision
            self._note_hosts()
        if self._use_interfaces:
            self._network = networks(owners.hosts, directory.networks)

    def counts(self) -> dict[str, int]:
        """Return by reason, how many ends of windows were not known since the start."""
        return {reason.name.lower(): int(self._unknown[reason]) for reason in Reason if reason is not Reason.NONE}

    def describe(self, number: int) -> Party:
        """Return what is known of a party."""
        who, what = self._whose[number]
        owner = None if who & int(_OF_SYSTEM) else self._owners.owners[who]
        organisation = ""
        if who & int(_OF_SYSTEM) and self._systems is not None:
            organisation = self._systems.organisations[who ^ int(_OF_SYSTEM)]
        named = what & int(_OF_DNS)
        entity = self._names.names[what ^ int(_OF_DNS)] if named else self._directory.entities[what]
        return Party(owner, entity, organisation)

    def revisions(self) -> np.ndarray:
        """Return by party a number, uint32, that rises when more is known of it."""
        pairs = np.array(self._whose[len(self._pairs) :], np.uint32).reshape(-1, 2)
        self._pairs = np.concatenate((self._pairs, pairs))
        # Names of the DNS and systems are what they are.
        who, what = np.where(self._pairs & _OF_DNS, 0, self._pairs).T
        revisions: np.ndarray = self._owners.revision[who] + self._directory.revision[what]
        return revisions

    def find(self, flows: Flows) -> np.ndarray:
        """Return the party of each end, uint32, and count those that are not known."""
        entity = self._pod_of[flows.owner]
        system = np.zeros(len(entity), np.uint32)
        reason = np.zeros(len(entity), np.uint8)
        self._find_by_address(flows, entity, system, reason)
        who = flows.owner | system
        self._count(flows, who, entity, reason)
        return self._numbered(who, entity)

    def _find_by_address(self, flows: Flows, entity: np.ndarray, system: np.ndarray, reason: np.ndarray) -> None:
        """Fill in what the addresses of ends tell, in place."""
        directory = self._directory
        unowned = flows.owner == UNKNOWN_OWNER
        asked = np.flatnonzero(unowned if directory.pods.places.empty else entity == NO_ENTITY)
        if not len(asked):
            return
        observer = np.where(unowned[asked], flows.owner[asked ^ 1], flows.owner[asked])
        session = self._owners.session[observer]
        place, time_ns = place_of(flows.address[asked]), flows.time_ns[asked >> 1]
        ends = _Asked(asked, place, session, time_ns, ~unowned[asked])
        self._ask(directory.pods, ends, self._environment, entity, reason)
        ends = ends.only(~ends.owned)
        if not len(ends.end):
            return
        port = flows.port()[ends.end]
        self._find_services(flows, ends, port, entity, reason)
        if self._use_interfaces:
            self._ask(directory.interfaces, ends, self._network, entity, reason)
        lacking = ends.only(entity[ends.end] == NO_ENTITY)
        scope, began_ns = self._owners.scope[lacking.session], flows.began_ns[lacking.end >> 1]
        named = self._names.find(lacking.place, scope, began_ns)
        entity[lacking.end] = np.where(named, named | _OF_DNS, NO_ENTITY)
        if self._systems is not None:
            public = ends.only((entity[ends.end] == NO_ENTITY) | (entity[ends.end] & _OF_DNS != 0))
            found = self._systems.of(flows.address[public.end])
            system[public.end] = np.where(found == NO_SYSTEM, 0, found | _OF_SYSTEM)
        self._explain(flows, ends.only(reason[ends.end] == Reason.NONE), reason)

    def _find_services(
        self, flows: Flows, ends: _Asked, port: np.ndarray, entity: np.ndarray, reason: np.ndarray
    ) -> None:
        """Fill in services, and nodes where no service has the port on all of them, in place.

        An address that a service has of a node, as one that is external or of a load balancer, is the node's elsewhere.
        """
        services, nodes = self._directory.services, self._directory.nodes
        if not services.places.empty:
            at_port = replace(ends, place=place_of(flows.address[ends.end], port))
            self._ask(services, at_port, self._environment, entity, reason)
        before = entity[ends.end] == NO_ENTITY
        self._ask(nodes, ends, self._environment, entity, reason)
        at_node = before & (entity[ends.end] != NO_ENTITY)
        if at_node.any() and not services.places.empty:
            of_node = ends.only(at_node)
            any_node = np.broadcast_to(np.frombuffer(ANY_NODE, np.uint64), (len(of_node.end), 2))
            key = keys_of(place_of(any_node, port[at_node]), self._environment[of_node.session])
            found, _ = services.find(key, of_node.time_ns)
            entity[of_node.end] = np.where(found, found, entity[of_node.end])
        self._ask(services, ends, self._environment, entity, reason)

    def _ask(
        self, timeline: TimelineView, ends: _Asked, scopes: np.ndarray, entity: np.ndarray, reason: np.ndarray
    ) -> None:
        """Fill in who had the places of ends that nothing is known of yet, in place; *scopes* are by session."""
        if timeline.places.empty:
            return
        ends = ends.only(timeline.places.may_have(ends.place) & (entity[ends.end] == NO_ENTITY))
        # What is where a collector is, is in the collector's own cluster, whoever else has that address.
        found, known, shared = timeline.find_around(ends.place, scopes[ends.session], ends.time_ns, strict=ends.owned)
        entity[ends.end] = found
        missed = known & (found == NO_ENTITY) & ~ends.owned
        reason[ends.end[missed]] = np.where(shared[missed], Reason.SEVERAL, Reason.NOT_THEN)

    def _explain(self, flows: Flows, ends: _Asked, reason: np.ndarray) -> None:
        """Fill in why ends may not be known of whose addresses nothing is told, in place."""
        reason[ends.end] = np.where(self._hosts.may_have(ends.place), Reason.NO_SOCKET, Reason.NO_COLLECTOR)
        reason[ends.end[(flows.address[ends.end] == 0).all(axis=1)]] = Reason.PEERS_NOT_TOLD

    def _count(self, flows: Flows, who: np.ndarray, entity: np.ndarray, reason: np.ndarray) -> None:
        named = (flows.special != Special.NONE) | (entity != NO_ENTITY) | (who & _OF_SYSTEM != 0)
        owned = self._owners.named[flows.owner] | self._labelled[self._owners.session[flows.owner]]
        reason = np.where(who == UNKNOWN_OWNER, reason, ~owned * np.uint8(Reason.NO_PROCESS))
        self._unknown += np.bincount(reason[~named], minlength=len(Reason))

    def _numbered(self, who: np.ndarray, entity: np.ndarray) -> np.ndarray:
        """Return the parties of pairs; those of owners and of nothing else by one look."""
        party = self._of_owner[np.where(who & _OF_SYSTEM, UNKNOWN_OWNER, who)]
        rest = np.flatnonzero((party == _UNSET) | (entity != NO_ENTITY) | (who & _OF_SYSTEM != 0))
        if len(rest):
            pairs = who[rest].astype(np.uint64) << np.uint64(32) | entity[rest]
            different, which = np.unique(pairs, return_inverse=True)
            numbers = [self._number(*divmod(pair, 1 << 32)) for pair in different.tolist()]
            party[rest] = np.array(numbers, np.uint32)[which]
        return party

    def _number(self, who: int, entity: int) -> int:
        number = self._of_pair.setdefault((who, entity), len(self._whose))
        if number == len(self._whose):
            self._whose.append((who, entity))
            if entity == NO_ENTITY and not who & int(_OF_SYSTEM):
                self._of_owner[who] = number
        return number

    def _forget(self) -> None:
        self.generation += 1
        self._whose: list[tuple[int, int]] = [(UNKNOWN_OWNER, NO_ENTITY)]
        self._of_pair = {self._whose[0]: NO_PARTY}
        self._pairs = np.empty((0, 2), np.uint32)
        # By owner: its party; its pod; the revision that was looked at, from 1.
        self._of_owner = np.array([NO_PARTY], np.uint32)
        self._pod_of = np.zeros(1, np.uint32)
        self._looked = np.ones(1, np.int64)
        self._in_pods: set[int] = set()
        self._podless: set[int] = set()  # those in pods that nobody told

    def _look_at_owners(self) -> None:
        """Find the pods of owners that are new, of which more is known, or whose pods were not told yet."""
        count = len(self._owners.owners)
        lacking = count - len(self._of_owner)
        if lacking > 0:
            lacking = max(lacking, len(self._of_owner) // 2)
            self._of_owner = np.concatenate((self._of_owner, np.full(lacking, _UNSET, np.uint32)))
            self._pod_of = np.concatenate((self._pod_of, np.zeros(lacking, np.uint32)))
            self._looked = np.concatenate((self._looked, np.zeros(lacking, np.int64)))
        revision = self._owners.revision[:count].astype(np.int64) + 1
        changed = np.flatnonzero(self._looked[:count] != revision)
        self._looked[:count] = revision
        again = self._podless
        if self._directory.generation != self._directory_generation:
            self._directory_generation, again = self._directory.generation, self._in_pods
        for number in {*changed.tolist(), *again}:
            owner = self._owners.owners[number]
            if owner is None:
                continue
            cgroup = owner.cgroup
            pod = NO_ENTITY
            if cgroup is not None and (cgroup.pod_uid or cgroup.container_id):
                pod = self._directory.of_pod(cgroup.pod_uid) or self._directory.of_container.get(cgroup.container_id, 0)
                self._in_pods.add(number)
                (self._podless.discard if pod else self._podless.add)(number)
            self._pod_of[number] = pod

    def _note_hosts(self) -> None:
        hosts = self._owners.hosts
        self._environment = environments(hosts)
        # By session: the operator told what its ends are where nothing better is known.
        self._labelled = np.array([host is not None and host.service != "" for host in hosts])
        addresses = b"".join(address for host in hosts if host for address in host.addresses)
        self._hosts = PlaceFilter(place_of(np.frombuffer(addresses, np.uint64).reshape(-1, 2)))


@dataclass(frozen=True)
class _Asked:
    """Ends that are asked for: their indexes, places, observing sessions, times, and whether they have owners."""

    end: np.ndarray
    place: np.ndarray
    session: np.ndarray
    time_ns: np.ndarray
    owned: np.ndarray

    def only(self, these: np.ndarray) -> _Asked:
        return _Asked(self.end[these], self.place[these], self.session[these], self.time_ns[these], self.owned[these])
