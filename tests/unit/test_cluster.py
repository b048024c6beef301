from __future__ import annotations

import pytest

from intake.addresses import packed_all
from intake.clock import SECOND_NS, Instant
from k8s_collector.cluster import Choice, Cluster
from k8s_collector.fields import unix_ns
from k8s_collector.pod_table import MOST_WAITING
from k8s_collector.resources import ENDPOINT_SLICES, JOBS, NODES, PODS, REPLICA_SETS, SERVICES
from tests.k8s_objects import BEGIN, controller, owned, pod, status

START = Instant(unix_ns("2026-01-01T01:00:00Z"), 50 * SECOND_NS)
NODE = {"metadata": {"uid": "n1", "name": "node-1"}}
SERVICE = {"metadata": {"uid": "s1", "name": "web", "namespace": "shop"}, "spec": {"clusterIPs": ["10.96.0.1"]}}
WEB = controller("ReplicaSet", "rs")


def after(seconds):
    return Instant(START.unix_ns + int(seconds * SECOND_NS), START.monotonic_ns + int(seconds * SECOND_NS))


def cluster(**choice):
    return Cluster(Choice(**choice))


def changes(view, kind="pods"):
    """What is told now, by uid, and which uids are retired."""
    told, retired = {}, []
    for message in view.take_changes():
        told |= {entity.uid: entity for entity in getattr(message, kind)}
        retired += getattr(message, f"retired_{kind}")
    return told, retired


def owner(message):
    return message.owner_kind, message.owner_name, message.owner_uid


def test_changes_are_told_once():
    view = cluster()
    for resource, value in ((NODES, NODE), (SERVICES, SERVICE), (PODS, pod("p1"))):
        view.changed(resource, value, START)
    [message] = view.take_changes()
    assert [len(each) for each in (message.nodes, message.services, message.pods)] == [1, 1, 1]
    assert list(view.take_changes()) == []
    for resource, value in ((NODES, NODE), (SERVICES, SERVICE), (PODS, pod("p1"))):
        view.changed(resource, value, START)
    assert list(view.take_changes()) == []
    view.changed(PODS, pod("p1", ips=("10.0.0.1",)), START)
    assert list(changes(view)[0]) == ["p1"]
    [snapshot] = view.snapshot()
    assert [len(each) for each in (snapshot.nodes, snapshot.services, snapshot.pods)] == [1, 1, 1]


def test_a_pod_without_a_controller_owns_itself():
    view = cluster()
    view.changed(PODS, pod("p1"), START)
    assert owner(changes(view)[0]["p1"]) == ("Pod", "p1", "p1")


@pytest.mark.parametrize(
    ("resource", "below", "above", "version"),
    [
        (REPLICA_SETS, "ReplicaSet", "Deployment", "apps/v1"),
        (REPLICA_SETS, "ReplicaSet", "Rollout", "argoproj.io/v1alpha1"),
        (JOBS, "Job", "CronJob", "batch/v1"),
    ],
)
def test_a_pod_waits_for_its_owner(resource, below, above, version):
    view = cluster()
    group = "apps/v1" if below == "ReplicaSet" else "batch/v1"
    view.changed(PODS, pod("p1", controller(below, "o1", version=group)), START)
    assert changes(view) == ({}, [])
    assert view.pods.waiting == 1
    view.changed(resource, owned("o1", controller(above, "top", version=version)), START)
    assert owner(changes(view)[0]["p1"]) == (above, f"{above.lower()}-top", "top")
    assert (view.pods.waiting, view.pods.unresolved) == (0, 0)


def test_a_replica_set_of_its_own_is_the_owner():
    view = cluster()
    view.changed(REPLICA_SETS, owned("rs"), START)
    view.changed(PODS, pod("p1", WEB), START)
    assert owner(changes(view)[0]["p1"])[0] == "ReplicaSet"


def test_a_custom_controller_needs_no_object():
    view = cluster()
    view.changed(PODS, pod("p1", controller("CloneSet", "c", "web", "apps.kruise.io/v1alpha1")), START)
    assert owner(changes(view)[0]["p1"]) == ("CloneSet", "web", "c")


def test_after_a_while_what_is_known_is_told_and_more_when_it_is_known():
    view = cluster()
    view.changed(PODS, pod("p1", WEB), START)
    view.advance(after(4.9))
    assert changes(view) == ({}, [])
    view.advance(after(5))
    assert owner(changes(view)[0]["p1"]) == ("ReplicaSet", "replicaset-rs", "rs")
    assert (view.pods.waiting, view.pods.unresolved) == (0, 1)
    view.changed(REPLICA_SETS, owned("rs", controller("Deployment", "d", "web")), after(6))
    assert owner(changes(view)[0]["p1"]) == ("Deployment", "web", "d")


def test_pods_that_wait_are_bounded():
    view = cluster()
    for i in range(MOST_WAITING + 3):
        view.changed(PODS, pod(f"p{i}", WEB), START)
    assert (view.pods.waiting, view.pods.unresolved) == (MOST_WAITING, 3)
    assert list(changes(view)[0]) == ["p0", "p1", "p2"]


def test_an_adopted_replica_set_names_its_pods_anew():
    view = cluster()
    view.changed(REPLICA_SETS, owned("rs"), START)
    view.changed(PODS, pod("p1", WEB), START)
    view.take_changes()
    view.changed(REPLICA_SETS, owned("rs", controller("Deployment", "d", "web")), START)
    assert owner(changes(view)[0]["p1"]) == ("Deployment", "web", "d")


def test_what_was_known_of_an_owner_stays_when_it_is_gone():
    view = cluster()
    view.changed(REPLICA_SETS, owned("rs", controller("Deployment", "d", "web")), START)
    view.changed(PODS, pod("p1", WEB), START)
    view.deleted(REPLICA_SETS, "rs", START)
    view.advance(after(61))
    view.take_changes()
    view.changed(PODS, pod("p1", WEB, ips=("10.0.0.1",)), after(62))
    assert owner(changes(view)[0]["p1"]) == ("Deployment", "web", "d")


def test_a_pod_that_comes_after_its_owner_is_gone():
    view = cluster()
    view.changed(REPLICA_SETS, owned("rs", controller("Deployment", "d", "web")), START)
    view.deleted(REPLICA_SETS, "rs", START)
    view.advance(after(59))
    view.changed(PODS, pod("p1", WEB), after(59))
    assert owner(changes(view)[0]["p1"])[0] == "Deployment"


def test_a_deleted_pod_ends_now_and_is_retired_later():
    view = cluster()
    view.changed(PODS, pod("p1", ips=("10.0.0.1",)), START)
    view.take_changes()
    view.deleted(PODS, "p1", after(1))
    told, retired = changes(view)
    assert (told["p1"].end_time_unix_ns, retired) == (after(1).unix_ns, [])
    [snapshot] = view.snapshot()
    assert [each.uid for each in snapshot.pods] == ["p1"]
    view.advance(after(60.9))
    assert changes(view) == ({}, [])
    view.advance(after(61))
    assert changes(view) == ({}, ["p1"])
    assert (len(view.pods), list(view.snapshot())) == (0, [])


def test_a_deleted_pod_that_told_its_end_ended_then():
    view = cluster()
    ended = status("main", terminated={"finishedAt": "2026-01-01T00:59:59Z"})
    value = pod("p1", metadata={"deletionTimestamp": BEGIN}, containerStatuses=[ended])
    view.changed(PODS, value, START)
    view.deleted(PODS, "p1", after(2))
    assert changes(view)[0]["p1"].end_time_unix_ns == START.unix_ns


def test_a_pod_that_never_was_told_is_not_retired():
    view = cluster()
    view.changed(PODS, pod("p1", WEB), START)
    view.deleted(PODS, "p1", START)
    view.advance(after(4))
    assert view.pods.waiting == 1
    view.retention._until_ns.clear()
    view.pods.retire("p1")
    assert changes(view) == ({}, [])
    assert view.pods.waiting == 0


def test_a_pod_that_has_run_to_its_end_is_retired_though_it_is_still_there():
    view = cluster()
    view.changed(PODS, pod("p1"), START)
    view.take_changes()
    done = pod("p1", phase="Succeeded", containerStatuses=[status("main", terminated={"finishedAt": BEGIN})])
    view.changed(PODS, done, START)
    assert changes(view)[0]["p1"].end_time_unix_ns == unix_ns(BEGIN) + SECOND_NS
    view.advance(after(60))
    assert changes(view) == ({}, ["p1"])
    view.changed(PODS, done, after(61))
    view.deleted(PODS, "p1", after(62))
    assert (changes(view), len(view.pods)) == (({}, []), 0)


def test_services_and_nodes_are_kept_for_a_while_too():
    view = cluster(delete_ttl_ns=10 * SECOND_NS)
    view.changed(NODES, NODE, START)
    view.changed(SERVICES, SERVICE, START)
    view.take_changes()
    view.deleted(NODES, "n1", START)
    view.deleted(SERVICES, "s1", START)
    assert list(view.take_changes()) == []
    view.advance(after(10))
    [message] = view.take_changes()
    assert (list(message.retired_nodes), list(message.retired_services)) == (["n1"], ["s1"])


def endpoint_slice(uid, *addresses, **of_endpoints):
    labels = {"kubernetes.io/service-name": "web"}
    endpoints = [{"addresses": [address]} | of_endpoints for address in addresses]
    return {"metadata": {"uid": uid, "name": uid, "namespace": "shop", "labels": labels}, "endpoints": endpoints}


def services(view):
    messages = list(view.take_changes())
    told = {each.uid: (each.name, list(each.addresses)) for message in messages for each in message.services}
    return told, [uid for message in messages for uid in message.retired_services]


def test_endpoints_that_are_no_pods_are_told_as_their_service_and_end_with_their_slice():
    view = cluster(delete_ttl_ns=10 * SECOND_NS)
    view.changed(SERVICES, SERVICE, START)
    view.changed(ENDPOINT_SLICES, endpoint_slice("e1", "192.0.2.7"), START)
    view.changed(ENDPOINT_SLICES, endpoint_slice("e2", "192.0.2.8"), START)
    told, retired = services(view)
    assert (told["e1"], told["e2"]) == (("web", packed_all(["192.0.2.7"])), ("web", packed_all(["192.0.2.8"])))
    assert (set(told), retired) == ({"s1", "e1", "e2"}, [])
    assert {each.uid for message in view.snapshot() for each in message.services} == {"s1", "e1", "e2"}
    view.changed(ENDPOINT_SLICES, endpoint_slice("e2", "192.0.2.9"), START)
    assert services(view) == ({"e2": ("web", packed_all(["192.0.2.9"]))}, [])
    view.deleted(ENDPOINT_SLICES, "e1", START)
    view.advance(after(10))
    assert services(view) == ({}, ["e1"])


def test_slices_have_the_uid_of_their_service_whichever_comes_first():
    def service_uids(view):
        return {each.uid: each.service_uid for each in changes(view, "services")[0].values() if each.uid != "s1"}

    view = cluster(delete_ttl_ns=10 * SECOND_NS)
    view.changed(ENDPOINT_SLICES, endpoint_slice("e1", "192.0.2.7"), START)
    assert service_uids(view) == {"e1": ""}
    view.changed(SERVICES, SERVICE, START)
    assert service_uids(view) == {"e1": "s1"}
    view.changed(ENDPOINT_SLICES, endpoint_slice("e2", "192.0.2.8"), START)
    assert service_uids(view) == {"e2": "s1"}
    view.deleted(SERVICES, "s1", START)
    again = {**SERVICE, "metadata": SERVICE["metadata"] | {"uid": "s2"}}
    view.changed(SERVICES, again, after(1))
    assert service_uids(view) == {"s2": "", "e1": "s2", "e2": "s2"}
    view.advance(after(10))
    assert service_uids(view) == {}
    view.deleted(SERVICES, "s2", after(10))
    view.deleted(ENDPOINT_SLICES, "e2", after(10))
    view.advance(after(20))
    assert service_uids(view) == {"e1": ""}
    assert not view.endpoints._service_uids
    assert [*view.endpoints._slices.values()] == [{"e1": None}]


def test_a_slice_whose_endpoints_have_become_pods_is_told_no_more():
    view = cluster()
    view.changed(ENDPOINT_SLICES, endpoint_slice("e1", "192.0.2.7"), START)
    view.take_changes()
    view.deleted(ENDPOINT_SLICES, "e1", START)
    of_pods = endpoint_slice("e1", "192.0.2.7", targetRef={"kind": "Pod"})
    view.changed(ENDPOINT_SLICES, of_pods, START)
    assert services(view) == ({}, ["e1"])
    view.deleted(ENDPOINT_SLICES, "e1", START)
    view.advance(after(100))
    assert services(view) == ({}, [])


def test_what_is_there_again_is_not_retired():
    view = cluster()
    for resource, value, uid in ((NODES, NODE, "n1"), (PODS, pod("p1"), "p1"), (REPLICA_SETS, owned("rs"), "rs")):
        view.changed(resource, value, START)
        view.deleted(resource, uid, START)
        view.changed(resource, value, after(1))
    view.advance(after(100))
    assert changes(view)[0]["p1"].end_time_unix_ns == 0
    assert (len(view.nodes), len(view.pods), len(view._owners)) == (1, 1, 1)


def test_beyond_the_capacity_deleted_objects_are_retired_early():
    view = cluster(delete_capacity=1)
    for uid in ("p1", "p2"):
        view.changed(PODS, pod(uid), START)
        view.deleted(PODS, uid, START)
    view.advance(START)
    assert (list(changes(view)[0]), view.retention.dropped) == (["p2"], 1)


def running(uid, ip, started):
    return pod(uid, ips=(ip,), containerStatuses=[status("main", running={"startedAt": started})])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_address_is_of_the_pod_that_started_last(order):
    """The server may tell of the new pod before it tells that the old one is gone."""
    view = cluster()
    both = [running("old", "10.0.0.1", "2026-01-01T00:00:10Z"), running("new", "10.0.0.1", "2026-01-01T00:30:00Z")]
    for i in order:
        view.changed(PODS, both[i], START)
    told, _ = changes(view)
    assert told["old"].end_time_unix_ns == told["new"].start_time_unix_ns == unix_ns("2026-01-01T00:30:00Z")
    assert told["new"].end_time_unix_ns == 0
    view.deleted(PODS, "old", after(5))
    assert changes(view)[0] == {}
    view.advance(after(65))
    assert changes(view) == ({}, ["old"])


def test_pods_on_the_network_of_their_node_share_its_address():
    view = cluster()
    for uid in ("a", "b"):
        view.changed(PODS, pod(uid, ips=("192.0.2.1",), spec={"hostNetwork": True}), START)
    told, _ = changes(view)
    assert [each.end_time_unix_ns for each in told.values()] == [0, 0]
    assert [list(each.addresses) for each in told.values()] == [packed_all(["192.0.2.1"])] * 2


def test_labels_that_were_chosen():
    view = cluster(pod_labels=("app",))
    view.changed(PODS, pod("p1", metadata={"labels": {"app": "web", "other": "x"}}), START)
    assert dict(changes(view)[0]["p1"].labels) == {"app": "web"}


@pytest.mark.parametrize(
    ("resource", "value"),
    [
        (PODS, {}),
        (PODS, {"metadata": {"uid": "p"}}),
        (PODS, pod("p") | {"status": {"podIPs": 7}}),
        (NODES, {"metadata": 1}),
    ],
)
def test_malformed_objects_are_counted_and_lose_nothing_else(resource, value):
    view = cluster()
    view.changed(PODS, pod("p1"), START)
    view.changed(resource, value, START)
    assert (list(changes(view)[0]), view.untracked) == (["p1"], 1)


def many(count):
    return [f"10.0.{i >> 8}.{i & 255}" for i in range(count)]


OF_SERVICE = {"uid": "s", "name": "s", "namespace": "shop"}
OF_SLICE = {"uid": "e", "name": "e", "namespace": "shop", "labels": {"kubernetes.io/service-name": "s"}}
TOO_MANY_PORTS = [{"port": port} for port in range(1, 1_032)]


@pytest.mark.parametrize(
    ("resource", "value", "left_out"),
    [
        (PODS, pod("p", ips=many(70)), 6),
        (PODS, pod("p", spec={"containers": [{"name": f"c{i}"} for i in range(260)]}), 4),
        (
            NODES,
            {"metadata": OF_SERVICE, "status": {"addresses": [{"type": "InternalIP", "address": a} for a in many(65)]}},
            1,
        ),
        (SERVICES, {"metadata": OF_SERVICE, "spec": {"externalIPs": many(64), "ports": TOO_MANY_PORTS}}, 7),
        (SERVICES, {"metadata": OF_SERVICE, "spec": {"externalIPs": many(66), "ports": None}}, 2),
        (
            ENDPOINT_SLICES,
            {"metadata": OF_SLICE, "endpoints": [{"addresses": ["192.0.2.7"]}], "ports": TOO_MANY_PORTS},
            931,
        ),
        (ENDPOINT_SLICES, {"metadata": OF_SLICE, "endpoints": [{"addresses": [a]} for a in many(1_003)]}, 3),
    ],
)
def test_parts_that_are_too_many_are_left_out_and_counted(resource, value, left_out):
    view = cluster()
    view.changed(resource, value, START)
    view.advance(after(10))
    assert sum(len(told.pods) + len(told.services) + len(told.nodes) for told in view.take_changes()) == 1
    assert (view.left_out, view.untracked) == (left_out, 0)


def test_objects_are_bounded():
    view = Cluster(Choice(), most_objects=2)
    for uid in ("p1", "p2", "p3"):
        view.changed(PODS, pod(uid), START)
    view.changed(PODS, pod("p2", ips=("10.0.0.1",)), START)
    told, _ = changes(view)
    assert (list(told), len(told["p2"].addresses), view.untracked) == (["p1", "p2"], 1, 1)
