from __future__ import annotations

import ipaddress

import pytest

from intake.clock import SECOND_NS
from k8s_collector.fields import MOST_ADDRESSES, unix_ns
from k8s_collector.pods import pod_message
from tests.k8s_objects import BEGIN, pod, status

START_NS = unix_ns(BEGIN)


def message(value, labels=(), annotations=()):
    return pod_message(value, labels, annotations)


def at(seconds):
    return f"2026-01-01T00:00:{seconds:02}Z"


def test_what_is_told_of_a_pod():
    told = message(pod("u1", ips=("10.0.0.7", "fd00::7")))
    assert (told.uid, told.name, told.namespace, told.node, told.phase) == ("u1", "u1", "shop", "node-1", "Running")
    addresses = [ipaddress.IPv6Address(each) for each in told.addresses]
    assert addresses == [ipaddress.IPv6Address("::ffff:10.0.0.7"), ipaddress.IPv6Address("fd00::7")]
    assert (told.start_time_unix_ns, told.end_time_unix_ns, told.host_network) == (START_NS, 0, False)


def test_an_older_server_tells_one_address():
    told = message(pod("u1", podIP="10.0.0.7", podIPs=None))
    assert len(told.addresses) == 1


def test_addresses_of_a_pod_are_bounded():
    told = message(pod("u1", ips=[f"192.0.2.{last}" for last in range(MOST_ADDRESSES + 1)]))
    assert len(told.addresses) == MOST_ADDRESSES


def test_a_pod_that_has_just_been_made():
    told = message({"metadata": {"uid": "u1", "name": "web", "namespace": "shop"}, "spec": {}, "status": {}})
    assert (told.uid, told.node, list(told.addresses), told.start_time_unix_ns) == ("u1", "", [], 0)


def test_host_network():
    assert message(pod("u1", ips=("192.0.2.1",), spec={"hostNetwork": True})).host_network


def test_containers_of_all_kinds():
    value = pod(
        "u1",
        spec={
            "containers": [{"name": "main", "image": "app:1"}],
            "initContainers": [{"name": "prepare", "image": "init:2"}],
            "ephemeralContainers": [{"name": "debug", "image": "busybox"}],
        },
        containerStatuses=[status("main", "containerd://aaaa")],
        initContainerStatuses=[status("prepare", "cri-o://bbbb")],
        ephemeralContainerStatuses=[status("debug", "docker://cccc")],
    )
    found = [(each.id, each.name, each.image, each.kind) for each in message(value).containers]
    assert found == [
        ("aaaa", "main", "app:1", ""),
        ("bbbb", "prepare", "init:2", "init"),
        ("cccc", "debug", "busybox", "ephemeral"),
    ]


def test_only_labels_and_annotations_that_were_chosen():
    value = pod("u1", metadata={"labels": {"app": "web", "tier": "x"}, "annotations": {"team": "a" * 1_000}})
    told = message(value, ("app", "absent"), ("team",))
    assert (dict(told.labels), dict(told.annotations)) == ({"app": "web"}, {"team": "a" * 256})


def test_it_begins_with_its_first_container():
    value = pod(
        "u1",
        initContainerStatuses=[status("prepare", terminated={"startedAt": at(3), "finishedAt": at(5)})],
        containerStatuses=[status("main", running={"startedAt": at(6)})],
    )
    assert message(value).start_time_unix_ns == START_NS + 3 * SECOND_NS


@pytest.mark.parametrize(
    "statuses",
    [
        [status("main", restarts=1, running={"startedAt": at(50)})],
        [status("main", waiting={"reason": "ContainerCreating"})],
        [],
    ],
)
def test_else_with_the_kubelet(statuses):
    assert message(pod("u1", containerStatuses=statuses)).start_time_unix_ns == START_NS


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_it_ends_with_its_last_container(phase):
    ended = [status("a", terminated={"finishedAt": at(8)}), status("b", terminated={"finishedAt": at(9)})]
    assert message(pod("u1", phase=phase, containerStatuses=ended)).end_time_unix_ns == START_NS + 10 * SECOND_NS


def test_evicted_it_ends_when_its_conditions_changed():
    value = pod("u1", phase="Failed", conditions=[{"lastTransitionTime": at(4)}, {"lastTransitionTime": at(2)}])
    assert message(value).end_time_unix_ns == START_NS + 5 * SECOND_NS


def test_deleted_it_ends_when_all_of_its_containers_have():
    deleted = {"deletionTimestamp": at(9)}
    ended, running = status("a", terminated={"finishedAt": at(8)}), status("b", running={"startedAt": at(1)})
    assert message(pod("u1", metadata=deleted, containerStatuses=[ended])).end_time_unix_ns == START_NS + 9 * SECOND_NS
    assert message(pod("u1", metadata=deleted, containerStatuses=[ended, running])).end_time_unix_ns == 0
    assert message(pod("u1", containerStatuses=[ended])).end_time_unix_ns == 0


@pytest.mark.parametrize(
    ("other", "end_s"),
    [
        ({"ephemeralContainerStatuses": [status("debug", waiting={"reason": "ErrImagePull"})]}, 9),
        ({"ephemeralContainerStatuses": [status("debug")]}, 9),
        ({"ephemeralContainerStatuses": [status("debug", running={"startedAt": at(1)})]}, None),
        ({"ephemeralContainerStatuses": [status("debug", terminated={"finishedAt": at(11)})]}, 12),
        # What kubelets say of a container that they cannot find: ContainerStatusUnknown.
        ({"initContainerStatuses": [status("proxy", terminated={"startedAt": None, "finishedAt": None})]}, 9),
        ({"initContainerStatuses": [status("proxy", waiting={"reason": "PodInitializing"})]}, None),
    ],
)
def test_deleted_it_does_not_wait_for_containers_that_will_not_run(other, end_s):
    ended = [status("main", terminated={"finishedAt": at(8)})]
    value = pod("u1", metadata={"deletionTimestamp": at(9)}, containerStatuses=ended, **other)
    assert message(value).end_time_unix_ns == (0 if end_s is None else START_NS + end_s * SECOND_NS)


SIDECAR = {"initContainerStatuses": [status("proxy", terminated={"startedAt": at(1), "finishedAt": at(12)})]}
GOING_ON = {"initContainerStatuses": [status("proxy", running={"startedAt": at(1)})]}


def test_a_sidecar_has_the_addresses_until_its_own_end():
    ended = [status("main", terminated={"finishedAt": at(8)})]
    value = pod("u1", phase="Succeeded", containerStatuses=ended, **SIDECAR)
    assert message(value).end_time_unix_ns == START_NS + 13 * SECOND_NS
    deleted = {"deletionTimestamp": at(9)}
    value = pod("u1", metadata=deleted, containerStatuses=ended, **GOING_ON)
    assert message(value).end_time_unix_ns == 0
