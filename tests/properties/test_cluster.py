"""Whatever the order in which watches tell, and wherever they begin anew, what is told comes to the final listing."""

from __future__ import annotations

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from intake.clock import SECOND_NS, Instant
from k8s_collector.cluster import Choice, Cluster
from k8s_collector.fields import unix_ns
from k8s_collector.resources import ENDPOINT_SLICES, NODES, PODS, REPLICA_SETS, SERVICES, WATCHED
from tests.entity_view import KINDS, EntityView
from tests.k8s_objects import controller, owned, pod, status

TTL_NS = 60 * SECOND_NS
START = Instant(unix_ns("2026-01-01T01:00:00Z"), 0)
ADDRESSES = [f"10.0.0.{i}" for i in range(4)]  # few, so that they are used again


class Clusters(RuleBasedStateMachine):
    """A server that knows all, and a collector that is told in its own time."""

    def __init__(self):
        super().__init__()
        self.now = START
        self.objects = {resource: {} for resource in WATCHED}  # as they are on the server
        self.events = {resource: [] for resource in WATCHED}  # not told yet
        self.told = {resource: set() for resource in WATCHED}  # as the watch remembers them
        self.made = 0
        self.collector = Cluster(Choice(delete_ttl_ns=TTL_NS))
        self.reducer = EntityView()
        self.pod_owners = {}

    def put(self, resource, value):
        uid = value["metadata"]["uid"]
        self.objects[resource][uid] = copy.deepcopy(value)
        self.events[resource].append(("put", copy.deepcopy(value)))

    def remove(self, resource, uid):
        value = self.objects[resource].pop(uid)
        self.events[resource].append(("remove", value))

    def new_uid(self, kind):
        self.made += 1
        return f"{kind}{self.made}"

    def pick(self, resource, index):
        uids = list(self.objects[resource])
        return uids[index % len(uids)]

    @rule(deployment=st.integers(0, 2))
    def make_replica_set(self, deployment):
        above = controller("Deployment", f"d{deployment}") if deployment else None
        self.put(REPLICA_SETS, owned(self.new_uid("rs"), above))

    @precondition(lambda self: self.objects[REPLICA_SETS])
    @rule(index=st.integers(0, 9), deployment=st.integers(0, 2))
    def adopt(self, index, deployment):
        above = controller("Deployment", f"d{deployment}") if deployment else None
        self.put(REPLICA_SETS, owned(self.pick(REPLICA_SETS, index), above))

    @precondition(lambda self: self.objects[REPLICA_SETS])
    @rule(index=st.integers(0, 9))
    def delete_with_pods(self, index):
        uid = self.pick(REPLICA_SETS, index)
        for pod_uid in [each for each in self.objects[PODS] if self.pod_owners[each] == uid]:
            self.remove(PODS, pod_uid)
        self.remove(REPLICA_SETS, uid)

    @rule(index=st.integers(0, 9), alone=st.booleans())
    def make_pod(self, index, alone):
        uid = self.new_uid("p")
        of = None if alone or not self.objects[REPLICA_SETS] else self.pick(REPLICA_SETS, index)
        self.pod_owners[uid] = of
        self.put(PODS, pod(uid, controller("ReplicaSet", of) if of else None, phase="Pending"))

    @precondition(lambda self: self.objects[PODS])
    @rule(index=st.integers(0, 9), address=st.sampled_from(ADDRESSES), second=st.integers(0, 59))
    def start_pod(self, index, address, second):
        value = self.objects[PODS][self.pick(PODS, index)]
        value["status"] |= {
            "phase": "Running",
            "podIPs": [{"ip": address}],
            "containerStatuses": [status("main", running={"startedAt": f"2026-01-01T00:59:{second:02}Z"})],
        }
        self.put(PODS, value)

    @precondition(lambda self: self.objects[PODS])
    @rule(index=st.integers(0, 9))
    def end_pod(self, index):
        value = self.objects[PODS][self.pick(PODS, index)]
        ended = {"finishedAt": "2026-01-01T00:59:59Z"}
        value["status"] |= {"phase": "Failed", "containerStatuses": [status("main", terminated=ended)]}
        self.put(PODS, value)

    @precondition(lambda self: self.objects[PODS])
    @rule(index=st.integers(0, 9))
    def delete_pod(self, index):
        self.remove(PODS, self.pick(PODS, index))

    @rule(zone=st.sampled_from(["a", "b"]), resource=st.sampled_from([NODES, SERVICES]), index=st.integers(0, 3))
    def change_other(self, resource, zone, index):
        metadata = {"uid": f"{resource}{index}", "name": f"{index}", "namespace": "shop"}
        self.put(resource, {"metadata": metadata | {"labels": {"topology.kubernetes.io/zone": zone}}})

    @precondition(lambda self: self.objects[SERVICES])
    @rule(index=st.integers(0, 3))
    def delete_service(self, index):
        self.remove(SERVICES, self.pick(SERVICES, index))

    @rule(addresses=st.lists(st.sampled_from(ADDRESSES), max_size=2), index=st.integers(0, 3), is_pod=st.booleans())
    def change_endpoints(self, addresses, index, is_pod):
        target = {"targetRef": {"kind": "Pod"}} if is_pod else {}
        labels = {"kubernetes.io/service-name": f"{index % 2}"}
        metadata = {"uid": f"slice{index}", "name": f"{index}", "namespace": "shop", "labels": labels}
        endpoints = [{"addresses": [address], **target} for address in addresses]
        self.put(ENDPOINT_SLICES, {"metadata": metadata, "endpoints": endpoints, "ports": [{"port": 5432}]})

    @precondition(lambda self: self.objects[ENDPOINT_SLICES])
    @rule(index=st.integers(0, 3))
    def delete_endpoints(self, index):
        self.remove(ENDPOINT_SLICES, self.pick(ENDPOINT_SLICES, index))

    @rule(resource=st.sampled_from(WATCHED), most=st.integers(1, 10))
    def watch(self, resource, most):
        events, self.events[resource] = self.events[resource][:most], self.events[resource][most:]
        for kind, value in events:
            uid = value["metadata"]["uid"]
            self.collector.changed(resource, value, self.now)
            self.told[resource].add(uid)
            if kind == "remove":
                self.told[resource].discard(uid)
                self.collector.deleted(resource, uid, self.now)

    @rule(resource=st.sampled_from(WATCHED))
    def begin_anew(self, resource):
        """The events until now are lost; a listing takes their place."""
        self.events[resource] = []
        for value in self.objects[resource].values():
            self.collector.changed(resource, copy.deepcopy(value), self.now)
        for uid in self.told[resource] - set(self.objects[resource]):
            self.collector.deleted(resource, uid, self.now)
        self.told[resource] = set(self.objects[resource])

    @rule(seconds=st.sampled_from([0.1, 1, 6, 30, 70]))
    def wait(self, seconds):
        passed = int(seconds * SECOND_NS)
        self.now = Instant(self.now.unix_ns + passed, self.now.monotonic_ns + passed)
        self.collector.advance(self.now)

    @rule()
    def tell(self):
        for entities in self.collector.take_changes():
            self.reducer.changes(entities)

    @rule()
    def connect_again(self):
        self.reducer = EntityView()
        self.collector.take_changes()
        parts = list(self.collector.snapshot())
        for part in parts:
            for kind in KINDS:
                self.reducer.entities[kind] |= {entity.uid: entity for entity in getattr(part, kind)}

    @invariant()
    def an_address_is_of_one_pod(self):
        for address in {address for each in self.collector.pods.messages() for address in each.addresses}:
            having = [each for each in self.collector.pods.messages() if address in each.addresses]
            assert sum(not each.end_time_unix_ns for each in having) <= 1

    def teardown(self):
        for resource in WATCHED:
            self.watch(resource, 10_000)
        self.wait(70)
        self.wait(70)
        self.tell()
        fresh = Cluster(Choice(delete_ttl_ns=TTL_NS))
        for resource in WATCHED:
            for value in self.objects[resource].values():
                fresh.changed(resource, value, self.now)
        expected = {kind: {} for kind in KINDS}
        for part in fresh.snapshot():
            for kind in KINDS:
                expected[kind] |= {entity.uid: entity for entity in getattr(part, kind)}
        assert self.reducer.entities == expected


TestClusters = Clusters.TestCase
TestClusters.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
