"""The collector of Kubernetes where the API server, the reducer or another replica fails."""

from __future__ import annotations

import signal
import time
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING

import pytest
import yaml

from k8s_collector.election import LEASE_S, RETRY_S
from k8s_collector.resources import WATCHED
from tests.api_proxy import Fault
from tests.lab.k8s_collector import (
    MANIFEST,
    NAMESPACE,
    USER,
    start_collector,
    wait_until_equal,
    wait_until_quiet,
    wait_until_running,
    workload,
)
from tests.lab.kubernetes_chaos import Chaos
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.api_proxy import ApiProxy
    from tests.entity_sink import EntitySink
    from tests.lab.kubernetes import ControlPlane
    from tests.lab.programs import Program, Programs


def test_a_connection_that_is_lost_loses_nothing(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    collector = start_collector(programs, sink, account)
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    wait_until_equal(sink, control_plane)
    for replicas in (4, 1):
        sink.disconnect()
        control_plane.patch("Deployment", "web", {"spec": {"replicas": replicas}}, namespace)
        wait_until_running(control_plane, namespace, replicas)
        wait_until_equal(sink, control_plane)
    assert len(sink.sessions) == 1
    assert collector.stop() == 0


def test_connections_that_break_in_the_middle_of_an_object(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, proxy: ApiProxy, namespace: str
) -> None:
    random = Random(7)
    cut: list[str] = []

    def fault(path: str) -> Fault | None:
        """Cut the first answers of each kind, of lists and of watches."""
        kind = f"{path.partition('?')[0]} {'watch=1' in path}"
        if cut.count(kind) == 3:
            return None
        cut.append(kind)
        return Fault(cut_after=random.randrange(1, 4_000), reset=random.random() < 0.5)

    control_plane.create(workload("Deployment", "web", 2), namespace)
    collector = start_collector(programs, sink, control_plane.kubeconfig("proxy", "any", server=proxy.url))
    proxy.fault_for = fault
    for replicas in (6, 1, 4, 2):
        control_plane.patch("Deployment", "web", {"spec": {"replicas": replicas}}, namespace)
        time.sleep(1)
    wait_until_running(control_plane, namespace, 2)
    wait_until_equal(sink, control_plane, timeout_s=60)
    assert len(cut) > 10
    assert len(sink.sessions) == 1
    assert collector.stop() == 0


def test_a_server_that_asks_to_wait_is_waited_for(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, proxy: ApiProxy
) -> None:
    asked: dict[str, list[float]] = {}

    def fault(path: str) -> Fault | None:
        times = asked.setdefault(path.partition("?")[0], [])
        times.append(time.monotonic())
        return Fault(429, (("Retry-After", "2"),)) if len(times) == 1 else None

    proxy.fault_for = fault
    start_collector(programs, sink, control_plane.kubeconfig("proxy", "any", server=proxy.url))
    wait_until_equal(sink, control_plane)
    wait_until(
        lambda: len(asked) == len(WATCHED) and min(map(len, asked.values())) > 1, 60, "each resource to be listed"
    )
    for first, second, *_ in asked.values():
        assert 2 <= second - first < 4


def test_a_token_that_expires_is_read_again(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, proxy: ApiProxy, namespace: str
) -> None:
    # While no watch tells anything, nothing may change.
    wait_until_quiet(control_plane)
    proxy.accepted = "first"
    # Watches end at once, so that there are new requests.
    proxy.fault_for = lambda path: Fault(cut_after=0) if "watch=1" in path else None
    kubeconfig = control_plane.kubeconfig("proxy", "first", server=proxy.url)
    collector = start_collector(programs, sink, kubeconfig)
    wait_until_equal(sink, control_plane)
    control_plane.kubeconfig("proxy", "second", server=proxy.url)
    proxy.accepted = "second"
    proxy.fault_for = lambda _: None
    wait_until(lambda: "second" in proxy.shown, 60, "the token to be read again")
    control_plane.create(workload("Deployment", "web", 1), namespace)
    wait_until_running(control_plane, namespace, 1)
    wait_until_equal(sink, control_plane, timeout_s=60)
    assert "does not accept the credentials" not in collector.output().partition("second")[2]


def test_an_api_server_that_is_killed_and_compacted(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    collector = start_collector(programs, sink, account)
    control_plane.create(workload("Deployment", "web", 3), namespace)
    wait_until_running(control_plane, namespace, 3)
    # kwok does not repeat a request of which the server was killed: a namespace that is ending never would be gone.
    wait_until_quiet(control_plane)
    wait_until_equal(sink, control_plane)
    collector.pause()  # what it misses is compacted, so that it has to list anew
    control_plane.patch("Deployment", "web", {"spec": {"replicas": 1}}, namespace)
    wait_until_running(control_plane, namespace, 1)
    control_plane.api_server.kill()
    control_plane.start_api_server()
    control_plane.compact()
    control_plane.patch("Deployment", "web", {"spec": {"replicas": 4}}, namespace)
    wait_until_running(control_plane, namespace, 4)
    collector.resume()
    wait_until_equal(sink, control_plane, timeout_s=60)
    control_plane.api_server.kill()
    control_plane.start_api_server()
    control_plane.patch("Deployment", "web", {"spec": {"replicas": 2}}, namespace)
    wait_until_running(control_plane, namespace, 2)
    wait_until_equal(sink, control_plane, timeout_s=60)
    assert len(sink.sessions) == 1
    assert collector.stop() == 0


def start_replicas(programs: Programs, sink: EntitySink, account: Path) -> tuple[Program, Program]:
    """Start two collectors of which one tells; return that one and the other."""
    options = ("--leader-elect", "--lease-namespace", NAMESPACE)
    replicas = {
        name: start_collector(programs, sink, account, *options, "--hostname", name, name=name)
        for name in ("one", "two")
    }
    wait_until(lambda: bool(sink.sessions), 60, "one to tell")
    return replicas.pop(sink.hellos[0].host.name), *replicas.values()


def test_one_of_two_replicas_tells(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path
) -> None:
    leader, standby = start_replicas(programs, sink, account)
    time.sleep(3)  # for the other one to see the lease
    assert [hello.host.name for hello in sink.hellos] == [leader.name]
    [lease] = control_plane.list("Lease", NAMESPACE)
    assert lease["spec"]["holderIdentity"].startswith(f"{leader.name}_")
    assert leader.stop() == 0
    [lease] = control_plane.list("Lease", NAMESPACE)  # which the other need not wait for
    assert not lease["spec"]["holderIdentity"].startswith(f"{leader.name}_")
    wait_until(lambda: len(sink.hellos) == 2, 10, "the other to take over at once")
    assert sink.hellos[1].host.name == standby.name
    wait_until_equal(sink, control_plane)
    assert standby.stop() == 0


def may(control_plane: ControlPlane, verb: str) -> bool:
    """Whether the server lets the collector's account do this with its lease."""
    of_lease = {"namespace": NAMESPACE, "group": "coordination.k8s.io", "name": "k8s-collector"}
    return control_plane.allows(USER, verb=verb, resource="leases", **of_lease)


@pytest.mark.parametrize("verb", ["create", "get", "update"])
def test_each_permission_for_the_lease_is_needed(
    control_plane: ControlPlane, programs: Programs, sink: EntitySink, account: Path, verb: str
) -> None:
    rights = [each for each in yaml.safe_load_all(MANIFEST.read_text()) if each["kind"] == "Role"]
    [role] = rights
    rules = [rule | {"verbs": [each for each in rule["verbs"] if each != verb]} for rule in role["rules"]]
    assert rules != role["rules"]
    for lease in control_plane.list("Lease", NAMESPACE):
        control_plane.delete("Lease", lease["metadata"]["name"], NAMESPACE)
    left = {"rules": [each for each in rules if each["verbs"]]}
    try:
        control_plane.patch("Role", role["metadata"]["name"], left, NAMESPACE)
        wait_until(lambda: not may(control_plane, verb), 60, "the right to be gone")
        collector = start_collector(programs, sink, account, "--leader-elect", "--lease-namespace", NAMESPACE)
        missing = collector.wait_for(
            r"the permission to (\w+) leases.coordination.k8s.io in namespace ebpf-net is missing"
        )
        assert missing[1] == verb
    finally:
        control_plane.apply(rights)
    wait_until(lambda: bool(sink.sessions), 60, "it to tell when the right is there again")
    assert collector.stop() == 0


def test_when_the_one_that_tells_is_killed_the_other_takes_over_within_the_lease(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 4), namespace)
    wait_until_running(control_plane, namespace, 4)
    leader, standby = start_replicas(programs, sink, account)
    wait_until_equal(sink, control_plane)
    leader.stop(signal.SIGKILL)
    [before] = control_plane.list("Lease", NAMESPACE)
    # Nobody tells of what happens meanwhile. There are fewer pods afterwards, so that not all addresses are used again.
    control_plane.patch("Deployment", "web", {"spec": {"replicas": 1}}, namespace)
    wait_until_running(control_plane, namespace, 1)
    control_plane.create(workload("StatefulSet", "db", 1), namespace)
    wait_until(lambda: len(sink.hellos) == 2, 60, "the other to take over")
    [after] = control_plane.list("Lease", NAMESPACE)
    times = [(before, "renewTime"), (after, "acquireTime")]
    renewed, taken = (datetime.fromisoformat(lease["spec"][name]).timestamp() for lease, name in times)
    # By its own clock: it may have seen the last renewal RETRY_S later, and looks each RETRY_S.
    assert LEASE_S <= taken - renewed < LEASE_S + 3 * RETRY_S
    assert sink.hellos[1].host.name == standby.name
    wait_until_running(control_plane, namespace, 2)
    wait_until_equal(sink, control_plane)
    control_plane.delete("StatefulSet", "db", namespace)
    wait_until_running(control_plane, namespace, 1)
    wait_until_equal(sink, control_plane)
    assert standby.stop() == 0
    assert "Traceback" not in standby.output()


def test_chaos(control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path) -> None:
    """`python -m tests.lab.kubernetes_chaos` makes it long."""
    collector = start_collector(programs, sink, account)
    wait_until(lambda: bool(sink.hellos), 60, "the collector to connect")
    wait_until_quiet(control_plane)
    chaos = Chaos(control_plane, sink, collector, Random(6))
    chaos.run(8)
    chaos.settle()
    wait_until(lambda: len(sink.hellos) > 1, 60, "the collector to connect again")
    wait_until_equal(sink, control_plane, timeout_s=60)
    assert len(sink.sessions) == 1
    assert collector.stop() == 0
    assert "Traceback" not in collector.output()
