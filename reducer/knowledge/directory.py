"""What Kubernetes and clouds say of addresses: pods, services, nodes and interfaces as the sessions tell them.

An entity is held while any session tells it. What all have ceased to tell ends, and is kept for a while, since flows
that it had may come late. A collector that starts again is a new session: once its first snapshot is whole, what the
session before told of the same cluster or account, and the new one does not, has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from reducer.knowledge.entities import Entity, Interface, Node, Pod
from reducer.knowledge.last_word import LastWord
from reducer.knowledge.timeline import FOREVER, NOT_KNOWN, Timeline, TimelineView
from reducer.knowledge.told import MOST_CLAIMS_OF_ENTITY, Claim, Key, Told, told_entities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NO_ENTITY = 0
# An entity takes about 800 bytes.
MOST_HELD = 1 << 19
MOST_CLAIMS = 1 << 21
MOST_PAST_CLAIMS = 16  # of an entity
MOST_CONTAINERS = 1 << 20
# Of all messages that tell of entities: their texts, containers and other parts.
MOST_BYTES = 1 << 29
# Ended entities are kept for as long as flows are remembered, and no more of them than this.
MOST_ENDED = 1 << 16
KEPT_NS = 600 * SECOND_NS
# A session without a connection tells nothing any more after as long.
LONGEST_ABSENCE_NS = 3600 * SECOND_NS
_KUBERNETES = intake_pb2.COLLECTOR_KIND_K8S
_KERNEL = intake_pb2.COLLECTOR_KIND_KERNEL

_FIELDS = (
    *("pods", "retired_pods", "services", "retired_services", "nodes", "retired_nodes"),
    *("cloud_interfaces", "retired_cloud_interfaces"),
)


@dataclass(slots=True)
class _Record:
    number: int
    size_bytes: int = 0
    tellers: set[bytes] = field(default_factory=set)
    claims: dict[Claim, int] = field(default_factory=dict)
    later: frozenset[int] = frozenset()  # numbers of the claims that it did not have from its beginning on
    since_ns: int = NOT_KNOWN
    until_ns: int = FOREVER
    past: list[tuple[str, int]] = field(default_factory=list)  # timelines and numbers of the claims that it had


@dataclass(slots=True)
class _Teller:
    kind: int
    host: str
    environment: str
    told: set[Key] = field(default_factory=set)
    named: set[Key] | None = None  # in the snapshots so far, while more are to follow
    whole: bool = False
    absent_since_ns: int | None = None

    def follows(self, before: _Teller) -> bool:
        """Return whether this session tells of what *before*, which is gone, told of."""
        if self.kind != before.kind or self.environment != before.environment:
            return False
        same_cluster = self.kind == _KUBERNETES and bool(self.environment)
        return same_cluster or self.host == before.host or not self.told.isdisjoint(before.told)


@dataclass(frozen=True)
class DirectoryView:
    """The entities as they are when a window is sealed.

    Attributes:
        generation: rises when numbers of entities were given again.
        entities: by number; None at `NO_ENTITY`.
        revision: by number, uint32: rises when more is known of the entity.
        pods: claims by address, within environments.
        nodes: the same.
        services: claims by address and port (0: any; with `ANY_NODE`: of nodes), within environments.
        interfaces: claims by address, within networks; those to public addresses within none.
        of_pod: number of a pod by its uid.
        of_container: number of a pod by the id of a container in it.
        networks: of machines, by provider and instance id.

    """

    generation: int
    entities: list[Entity | None]
    revision: np.ndarray
    pods: TimelineView
    nodes: TimelineView
    services: TimelineView
    interfaces: TimelineView
    of_pod: Callable[[str], int]
    of_container: Mapping[str, int]
    networks: Mapping[tuple[str, str], str]


class Directory:
    """The entities of all sessions.

    Args:
        slack_ns: how long after the end of a pod rows still tell of it.

    Attributes:
        refused: entities, containers and claims that were not taken since there were too many, or had no uid.

    """

    def __init__(self, slack_ns: int) -> None:
        self.refused = 0
        self._timelines = {
            "pods": Timeline(slack_ns),
            "nodes": Timeline(),
            "services": Timeline(slack_ns),
            "interfaces": Timeline(slack_ns),
        }
        self._tellers: dict[bytes, _Teller] = {}
        self._records: dict[Key, _Record] = {}
        self._ended: dict[Key, int] = {}  # when, in this order
        self._entities: list[Entity | None] = [None]
        self._revision = np.zeros(1024, np.uint32)
        self._free: list[int] = []
        self._freed: list[int] = []  # not to be given again while a view is out
        self._generation = 0
        self._claims = self._bytes = 0
        self._of_container: dict[str, int] = {}
        self._zones: LastWord[tuple[str, str]] = LastWord()
        self._pods_on: dict[tuple[str, str], set[Key]] = {}
        self._networks: LastWord[tuple[str, str]] = LastWord()

    def __len__(self) -> int:
        return len(self._records)

    def hello(self, session_id: bytes, host: intake_pb2.Host, kind: int) -> None:
        """Note that a session has a connection."""
        teller = self._tellers.get(session_id)
        if teller is None and kind == _KERNEL:
            return
        if teller is None:
            teller = self._tellers[session_id] = _Teller(kind, host.name, host.environment)
        teller.host, teller.environment = host.name, host.environment
        teller.named = teller.absent_since_ns = None

    def closed(self, session_id: bytes, now_ns: int) -> None:
        """Note that a session has no connection any more."""
        teller = self._tellers.get(session_id)
        if teller is not None:
            teller.absent_since_ns = now_ns
            teller.named = None
            if not teller.told or any(
                each.whole and each.absent_since_ns is None and each.follows(teller) for each in self._others(teller)
            ):
                self._forget_teller(session_id, now_ns)

    def learn(self, session_id: bytes, environment: str, entities: intake_pb2.Entities, time_ns: int) -> None:
        """Take what is new in a batch, and then what has ended."""
        if not any(getattr(entities, name) for name in _FIELDS):
            return
        teller = self._teller(session_id, environment)
        for told in told_entities(entities, teller.environment):
            self._tell(session_id, teller, told, time_ns)
        for kind, retired in (
            ("pod", entities.retired_pods),
            ("service", entities.retired_services),
            ("node", entities.retired_nodes),
            ("interface", entities.retired_cloud_interfaces),
        ):
            for name in retired:
                self._retire(session_id, teller, (kind, name), time_ns)

    def snapshot(
        self, session_id: bytes, environment: str, entities: intake_pb2.Entities, time_ns: int, *, partial: bool
    ) -> None:
        """Replace what a session told; the snapshots after a *partial* one add to it."""
        if session_id not in self._tellers and not any(getattr(entities, name) for name in _FIELDS):
            return
        teller = self._teller(session_id, environment)
        named = teller.named or set()
        for told in told_entities(entities, teller.environment):
            self._tell(session_id, teller, told, time_ns)
            named.add(told.key)
        teller.named = named & teller.told if partial else None
        if partial:
            return
        for key in teller.told - named:
            self._retire(session_id, teller, key, time_ns)
        teller.whole = True
        gone = [
            other_id
            for other_id, other in self._tellers.items()
            if other is not teller and other.absent_since_ns is not None and teller.follows(other)
        ]
        for other_id in gone:
            self._forget_teller(other_id, time_ns)

    def collect(self, now_ns: int) -> None:
        """Forget what ended long ago; called once a window, before its view is taken."""
        absent = [
            session_id
            for session_id, teller in self._tellers.items()
            if teller.absent_since_ns is not None and teller.absent_since_ns < now_ns - LONGEST_ABSENCE_NS
        ]
        for session_id in absent:
            self._forget_teller(session_id, now_ns)
        self._free, self._freed = self._free + self._freed, []
        excess = len(self._ended) - MOST_ENDED
        outlived = [
            key
            for index, (key, end_ns) in enumerate(self._ended.items())
            if index < excess or end_ns < now_ns - KEPT_NS
        ]
        for key in outlived:
            self._forget(key)
        if self._freed:
            self._generation += 1

    def view(self) -> DirectoryView:
        """Return what a window that is sealed now needs to know."""
        return DirectoryView(
            generation=self._generation,
            entities=self._entities,
            revision=self._revision.copy(),
            of_pod=self._pod_number,
            of_container=self._of_container,
            networks=self._networks.of,
            **{name: timeline.view() for name, timeline in self._timelines.items()},
        )

    def _pod_number(self, uid: str) -> int:
        record = self._records.get(("pod", uid))
        return NO_ENTITY if record is None else record.number

    def _teller(self, session_id: bytes, environment: str) -> _Teller:
        teller = self._tellers.get(session_id)
        if teller is None:
            teller = self._tellers[session_id] = _Teller(_KERNEL, "", environment)
        return teller

    def _others(self, teller: _Teller) -> Iterable[_Teller]:
        return (each for each in self._tellers.values() if each is not teller)

    def _forget_teller(self, session_id: bytes, time_ns: int) -> None:
        teller = self._tellers.pop(session_id)
        for key in list(teller.told):
            self._retire(session_id, teller, key, time_ns)

    def _tell(self, session_id: bytes, teller: _Teller, told: Told, time_ns: int) -> None:
        record = self._records.get(told.key)
        _, uid = told.key
        more = told.size_bytes - (record.size_bytes if record else 0)
        if not uid or self._bytes + max(more, 0) > MOST_BYTES or (record is None and len(self) >= MOST_HELD):
            self.refused += 1
            return
        if record is None:
            record = self._records[told.key] = _Record(self._new_number())
        self._bytes += more
        record.size_bytes = told.size_bytes
        self._ended.pop(told.key, None)
        record.tellers.add(session_id)
        teller.told.add(told.key)
        self._describe(told.key, record.number, told.entity)
        self._claim(record, told, time_ns)

    def _describe(self, key: Key, number: int, entity: Entity | None) -> None:
        """Let a number stand for an entity, and keep what entities are found by."""
        before = self._entities[number]
        if isinstance(entity, Pod):
            entity = replace(entity, zone=self._zones.of.get((entity.environment, entity.node), ""))
        if before == entity:
            return
        self._entities[number] = entity
        self._revision[number] += 1
        self._forget_ways(key, number, before)
        match entity:
            case Pod():
                self._pods_on.setdefault((entity.environment, entity.node), set()).add(key)
                room = MOST_CONTAINERS - len(self._of_container)
                self.refused += max(0, len(entity.containers) - room)
                self._of_container |= {each.id: number for each in entity.containers[:room] if each.id}
            case Interface() if entity.instance:
                self._networks.say((entity.provider, entity.instance), number, entity.network)
            case Node():
                self._zones.say((entity.environment, entity.name), number, entity.zone)
        for node in (before, entity):
            if isinstance(node, Node):
                self._describe_pods(node)

    def _describe_pods(self, node: Node) -> None:
        """Let the pods on a node have the zone that it has now."""
        for pod in list(self._pods_on.get((node.environment, node.name), ())):
            number = self._records[pod].number
            self._describe(pod, number, self._entities[number])

    def _forget_ways(self, key: Key, number: int, entity: Entity | None) -> None:
        """Forget how an entity was found."""
        match entity:
            case Pod():
                pods = self._pods_on[entity.environment, entity.node]
                pods.discard(key)
                if not pods:
                    del self._pods_on[entity.environment, entity.node]
                for container in entity.containers:
                    if self._of_container.get(container.id) == number:
                        del self._of_container[container.id]
            case Interface():
                self._networks.withdraw((entity.provider, entity.instance), number)
            case Node():
                self._zones.withdraw((entity.environment, entity.name), number)

    def _claim(self, record: _Record, told: Told, time_ns: int) -> None:
        """Let a record have the claims that were told, and no others from now on."""
        wanted = dict.fromkeys(told.claims[:MOST_CLAIMS_OF_ENTITY])
        self.refused += told.refused + max(0, len(told.claims) - MOST_CLAIMS_OF_ENTITY)
        is_new = not record.claims and not record.past
        for claim in record.claims.keys() - wanted.keys():
            number = record.claims.pop(claim)
            self._hold(record, claim, number, min(time_ns, record.until_ns))
            record.past.append((claim.timeline, number))
        self._remove(record.past[:-MOST_PAST_CLAIMS])
        del record.past[:-MOST_PAST_CLAIMS]
        # That it has ended is told once for all, however often it is said again.
        until_ns = min(record.until_ns, time_ns) if told.until_ns == NOT_KNOWN else told.until_ns
        if (told.since_ns, until_ns) != (record.since_ns, record.until_ns):
            record.since_ns, record.until_ns = told.since_ns, until_ns
            for claim, number in record.claims.items():
                self._hold(record, claim, number, until_ns)
        record.later = record.later.intersection(record.claims.values()) if record.later else record.later
        added = {}
        for claim in wanted.keys() - record.claims.keys():
            if self._claims >= MOST_CLAIMS:
                self.refused += 1
                continue
            timeline = self._timelines[claim.timeline]
            added[claim] = timeline.add(claim.place, claim.scope, record.number, time_ns)
            self._claims += 1
        record.claims |= added
        if not is_new:
            record.later |= set(added.values())
        for claim, number in added.items():
            self._hold(record, claim, number, until_ns)

    def _hold(self, record: _Record, claim: Claim, number: int, until_ns: int) -> None:
        """Let a claim hold until a time, since its entity began; one that came later, since nobody else has it.

        Pods of a node that starts again exchange addresses: who has one now may have begun before who had it.
        """
        since_ns = NOT_KNOWN if number in record.later else record.since_ns
        self._timelines[claim.timeline].hold(number, since_ns, until_ns)

    def _retire(self, session_id: bytes, teller: _Teller, key: Key, time_ns: int) -> None:
        """Let a session not tell an entity any more; it ends if no other session does."""
        teller.told.discard(key)
        record = self._records.get(key)
        if record is None or session_id not in record.tellers:
            return
        record.tellers.discard(session_id)
        if not record.tellers:
            record.until_ns = min(record.until_ns, time_ns)
            for claim, number in record.claims.items():
                self._hold(record, claim, number, record.until_ns)
            self._ended[key] = time_ns

    def _forget(self, key: Key) -> None:
        record = self._records.pop(key)
        self._bytes -= record.size_bytes
        del self._ended[key]
        self._remove(record.past + [(claim.timeline, number) for claim, number in record.claims.items()])
        self._describe(key, record.number, None)
        self._freed.append(record.number)

    def _remove(self, claims: list[tuple[str, int]]) -> None:
        for timeline, number in claims:
            self._timelines[timeline].remove(number)
        self._claims -= len(claims)

    def _new_number(self) -> int:
        if self._free:
            return self._free.pop()
        number = len(self._entities)
        self._entities.append(None)
        if number >= len(self._revision):
            self._revision = np.concatenate((self._revision, np.zeros_like(self._revision)))
        return number
