"""What is known of a cluster: objects and deletions in, entities out.

A plain object without I/O: time is passed in, changes are asked for. Whatever the order in which the watches of
different resources tell, and however often one begins anew, it comes to the same as a listing of all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from intake.clock import SECOND_NS
from intake.messages import in_messages
from k8s_collector.controllers import Owners, controller_of
from k8s_collector.endpoint_slices import endpoint_slice_message
from k8s_collector.endpoint_table import EndpointTable
from k8s_collector.nodes import node_message
from k8s_collector.object_table import ObjectTable
from k8s_collector.pod_table import PodTable
from k8s_collector.pods import pod_message
from k8s_collector.resources import ENDPOINT_SLICES, NODES, OWNERS, PODS, SERVICES, Resource
from k8s_collector.retention import Key, Retention
from k8s_collector.services import service_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ebpf_net.v1 import intake_pb2

    from intake.clock import Instant
    from k8s_collector.fields import Object, ValueT
    from k8s_collector.pods import Pod

_LOGGER = logging.getLogger(__name__)
DELETE_TTL_NS = 60 * SECOND_NS
DELETE_CAPACITY = 10_000
# Of each kind; Kubernetes itself is made for clusters of up to 150,000 pods.
MOST_OBJECTS = 250_000


class Choice(NamedTuple):
    """What of a cluster's objects is told, and how long.

    Attributes:
        pod_labels: keys of pods' labels that are told.
        pod_annotations: keys of pods' annotations that are told.
        delete_ttl_ns: how long deleted objects are kept.
        delete_capacity: how many of them at most.

    """

    pod_labels: tuple[str, ...] = ()
    pod_annotations: tuple[str, ...] = ()
    delete_ttl_ns: int = DELETE_TTL_NS
    delete_capacity: int = DELETE_CAPACITY


class _Holder(Protocol):
    def __len__(self) -> int: ...

    def __contains__(self, uid: str) -> bool: ...

    def retire(self, uid: str) -> None: ...


class Cluster:
    """All objects that are told of, or needed for it.

    Attributes:
        pods: the pods.
        services: the services by uid.
        endpoints: services by the uid of a slice of endpoints that are no pods.
        nodes: the nodes by uid.
        retention: what was deleted.
        untracked: objects that were not taken, since there were too many or they were not as they should be.
        left_out: addresses, ports, endpoints and containers that objects were told without, since they have too many.

    """

    def __init__(self, choice: Choice, most_objects: int = MOST_OBJECTS) -> None:
        self._choice = choice
        self._most_objects = most_objects
        self._owners = Owners()
        self.pods = PodTable(self._owners)
        self.services: ObjectTable[intake_pb2.KubernetesService] = ObjectTable()
        self.endpoints = EndpointTable()
        self.nodes: ObjectTable[intake_pb2.KubernetesNode] = ObjectTable()
        self.retention = Retention(choice.delete_ttl_ns, choice.delete_capacity)
        self.untracked = 0
        self.left_out = 0
        self._holders: dict[Resource, _Holder] = {
            **dict.fromkeys(OWNERS, self._owners),
            PODS: self.pods,
            SERVICES: self.services,
            ENDPOINT_SLICES: self.endpoints,
            NODES: self.nodes,
        }

    def changed(self, resource: Resource, value: Object, now: Instant) -> None:
        """Take an object as it is now."""
        try:
            key = Key(resource, value["metadata"]["uid"])
            if self._is_refused(key):
                return
            self._put(key, value, now)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            self._untracked("a %s is not as it should be: %r", resource.kind, error)

    def deleted(self, resource: Resource, uid: str, now: Instant) -> None:
        """Note that an object is gone; it is kept for late flows."""
        if uid not in self._holders[resource]:
            return
        if resource == PODS:
            self.pods.ended(uid, now.unix_ns)
        self.retention.keep(Key(resource, uid), now.monotonic_ns)

    def advance(self, now: Instant) -> None:
        """Do what is due by now: retire what was deleted long enough ago, announce pods that wait in vain."""
        self.pods.advance(now.monotonic_ns)
        for resource, uid in self.retention.expired(now.monotonic_ns):
            if resource == SERVICES:
                self.endpoints.service_ended(self.services[uid])
            self._holders[resource].retire(uid)

    def take_changes(self) -> Iterator[intake_pb2.Entities]:
        """Return messages with what is new, changed or retired since the call before, or since the snapshot."""
        pods, retired_pods = self.pods.take_changes()
        services, retired_services = self.services.take_changes()
        endpoints, retired_endpoints = self.endpoints.take_changes()
        nodes, retired_nodes = self.nodes.take_changes()
        return in_messages(
            [
                *(("nodes", node) for node in nodes),
                *(("services", service) for service in (*services, *endpoints)),
                *(("pods", pod) for pod in pods),
            ],
            [
                *(("retired_pods", uid) for uid in retired_pods),
                *(("retired_services", uid) for uid in (*retired_services, *retired_endpoints)),
                *(("retired_nodes", uid) for uid in retired_nodes),
            ],
        )

    def snapshot(self) -> Iterator[intake_pb2.Entities]:
        """Return messages with all that was announced, as it is when each of them is made."""
        return in_messages(
            [
                *(("nodes", node) for node in self.nodes.messages()),
                *(("services", service) for service in self.services.messages()),
                *(("services", service) for service in self.endpoints.messages()),
                *(("pods", pod) for pod in self.pods.messages()),
            ]
        )

    def _put(self, key: Key, value: Any, now: Instant) -> None:
        resource, uid = key
        if resource in OWNERS:
            if self._owners.set(uid, controller_of(value["metadata"])):
                self.pods.controller_changed(uid)
        elif resource == SERVICES:
            service = service_message(value, self._first)
            self.services.put(uid, service)
            self.endpoints.service_began(service)
        elif resource == ENDPOINT_SLICES:
            self._put_endpoints(uid, endpoint_slice_message(value, self._first))
        elif resource == NODES:
            self.nodes.put(uid, node_message(value, self._first))
        else:
            self._put_pod(key, value, now)
            return
        self.retention.forget(key)

    def _put_endpoints(self, uid: str, message: intake_pb2.KubernetesService | None) -> None:
        if message is not None:
            self.endpoints.put(uid, message)
        elif uid in self.endpoints:
            self.endpoints.retire(uid)

    def _put_pod(self, key: Key, value: Pod, now: Instant) -> None:
        message = pod_message(value, self._choice.pod_labels, self._choice.pod_annotations, self._first)
        end_ns = message.end_time_unix_ns
        if end_ns and key.uid not in self.pods and end_ns + self._choice.delete_ttl_ns < now.unix_ns:
            return  # no flow refers to it any more
        self.pods.put(message, controller_of(value["metadata"]), now.monotonic_ns)
        if end_ns:
            self.retention.keep(key, now.monotonic_ns)
        else:
            self.retention.forget(key)

    def _first(self, values: Iterable[ValueT], most: int) -> list[ValueT]:
        """Return the first ones, *most* at most, and count those left out."""
        every = list(values)
        self.left_out += max(0, len(every) - most)
        return every[:most]

    def _is_refused(self, key: Key) -> bool:
        holder = self._holders[key.resource]
        if key.uid in holder or len(holder) < self._most_objects:
            return False
        self._untracked("there are more than %d %s: those beyond are not told of", self._most_objects, key.resource)
        return True

    def _untracked(self, text: str, *arguments: object) -> None:
        _LOGGER.log(logging.DEBUG if self.untracked else logging.WARNING, text, *arguments)
        self.untracked += 1
