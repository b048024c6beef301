"""The collector of Kubernetes on a real control plane."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from random import Random
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.api_proxy import ApiProxy, Fault
from tests.entity_sink import EntitySink
from tests.lab.daemons import script
from tests.lab.k8s_collector import (
    NODES,
    bare_pod,
    expected_pods,
    start_collector,
    told_pods,
    wait_until_equal,
    workload,
)
from tests.lab.kubernetes import ADMIN_TOKEN, ControlPlane, free_port
from tests.lab.programs import Programs
from tests.lab.waiting import wait_until
from tests.packages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


MANIFEST = ROOT / "deploy" / "kubernetes" / "k8s-collector.yaml"
NAMESPACE = "ebpf-net"


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    directory = tmp_path_factory.mktemp("kubernetes")
    programs = Programs(directory)
    try:
        started = ControlPlane(programs, directory)
        started.add_nodes(NODES)
        # What kubectl apply -f would do; there is no image, so the pods of the Deployment never are on a node.
        started.apply(yaml.safe_load_all(MANIFEST.read_text()))
        yield started
    finally:
        programs.close()


@pytest.fixture
def sink() -> Iterator[EntitySink]:
    listening = EntitySink()
    yield listening
    listening.close()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    yield started
    for program in started.started:
        print(f"--- {program}\n{program.tail()}")  # noqa: T201
    started.close()


@pytest.fixture
def account(control_plane: ControlPlane) -> Path:
    """A kubeconfig with the rights that the manifest gives, and no other."""
    return control_plane.kubeconfig("account", control_plane.token("k8s-collector", NAMESPACE))


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    name = re.sub("[^a-z]+", "-", request.node.name.lower())[-50:].strip("-")
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    control_plane.delete("Namespace", name)


def wait_until_running(control_plane: ControlPlane, namespace: str, count: int) -> None:
    def running() -> bool:
        pods = control_plane.list("Pod", namespace)
        return len(pods) == count and all(each["status"].get("podIP") for each in pods)

    wait_until(running, 60, f"{count} pods to run in {namespace}")


def owners(sink: EntitySink, namespace: str) -> dict[tuple[str, str], int]:
    """How many pods each owner has."""
    found: dict[tuple[str, str], int] = {}
    for told in told_pods(sink.view.pods, namespace).values():
        owner = (told.owner_kind, told.owner_name)
        found[owner] = found.get(owner, 0) + 1
    return found


def test_workloads_of_all_kinds(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 3), namespace)
    collector = start_collector(programs, sink, account)
    control_plane.create(workload("StatefulSet", "db", 2), namespace)
    control_plane.create(workload("DaemonSet", "agent"), namespace)
    control_plane.create(workload("Job", "once", 1), namespace)
    control_plane.create(bare_pod("alone"), namespace)
    cron = control_plane.create(workload("CronJob", "nightly"), namespace)
    of_cron = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": cron["metadata"]["uid"]}
    job = workload("Job", "nightly-1", 1)
    job["metadata"]["ownerReferences"] = [of_cron | {"controller": True}]
    control_plane.create(job, namespace)
    # Controllers of kinds that the server does not even know.
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "name": "shop",
        "uid": "r-1",
        "controller": True,
    }
    replica_set = workload("ReplicaSet", "shop-1", 2)
    replica_set["metadata"]["ownerReferences"] = [rollout]
    clone_set = {"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "name": "clones", "uid": "c-1"}
    control_plane.create(bare_pod("clone", ownerReferences=[clone_set | {"controller": True}]), namespace)
    control_plane.create(replica_set, namespace)
    expected = {
        ("Deployment", "web"): 3,
        ("StatefulSet", "db"): 2,
        ("DaemonSet", "agent"): 2,
        ("Pod", "alone"): 1,
        ("Rollout", "shop"): 2,
        ("CloneSet", "clones"): 1,
    }
    of_jobs = {("Job", "once"): 1, ("CronJob", "nightly"): 1}
    # The controllers take their time, each its own; a job's pod may have ended and gone by then.
    wait_until(lambda: owners(sink, namespace) | of_jobs == expected | of_jobs, 60, "the pods of all workloads")
    wait_until_equal(sink, control_plane)
    assert collector.stop() == 0
    assert "Traceback" not in collector.output()


def test_changes_of_workloads(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    start_collector(programs, sink, account)
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    wait_until_equal(sink, control_plane, namespace=namespace)
    first = set(told_pods(sink.view.pods, namespace))

    control_plane.patch("Deployment", "web", {"spec": {"replicas": 5}}, namespace)
    wait_until_running(control_plane, namespace, 5)
    wait_until_equal(sink, control_plane, namespace=namespace)
    control_plane.patch("Deployment", "web", {"spec": {"replicas": 1}}, namespace)
    wait_until_running(control_plane, namespace, 1)
    wait_until_equal(sink, control_plane, namespace=namespace)

    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "registry/web:2"}]}}}}
    control_plane.patch("Deployment", "web", image, namespace)
    wait_until(
        lambda: (
            {each.containers for each in expected_pods(control_plane, namespace).values()}
            == {(("main", "registry/web:2"),)}
        ),
        30,
        "the pods of the new release",
    )
    wait_until_equal(sink, control_plane, namespace=namespace)
    assert owners(sink, namespace) == {("Deployment", "web"): 1}

    control_plane.delete("Deployment", "web", namespace)
    wait_until(lambda: not told_pods(sink.view.pods, namespace), 30, "the pods to end with their owner")
    # Deleted pods are kept for flows that are told late, with the time of their end, and then retired.
    wait_until(lambda: not first & set(sink.view.pods), 30, "the pods to be retired")


def test_a_deleted_namespace_ends_all_in_it(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path
) -> None:
    control_plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaving"}})
    control_plane.create(workload("StatefulSet", "db", 2), "leaving")
    ports = {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "selector": {"app": "db"}}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": ports}
    control_plane.create(service, "leaving")
    start_collector(programs, sink, account)

    def services() -> dict[str, list[int]]:
        found = sink.view.entities["services"].values()
        return {each.name: [port.port for port in each.ports] for each in found if each.namespace == "leaving"}

    wait_until_running(control_plane, "leaving", 2)
    wait_until_equal(sink, control_plane, namespace="leaving")
    assert services() == {"db": [80]}
    control_plane.delete("Namespace", "leaving")
    wait_until(lambda: not told_pods(sink.view.pods, "leaving"), 60, "the pods to end with their namespace")
    wait_until(lambda: not services(), 30, "the service to be retired")


def test_nodes(control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path) -> None:
    start_collector(programs, sink, account)
    wait_until(lambda: len(sink.view.entities["nodes"]) == 2, 30, "the nodes")
    told = {each.name: (each.zone, each.region, len(each.addresses)) for each in sink.view.entities["nodes"].values()}
    assert told == dict.fromkeys(NODES, ("eu-1a", "eu-1", 1))


def test_only_what_was_chosen(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 1), namespace)
    control_plane.create(workload("Deployment", "other", 1), namespace)
    control_plane.create(bare_pod("elsewhere", labels={"app": "web"}), "default")
    options = ("--namespace", namespace, "--namespace", "absent", "--label-selector", "app=web", "--pod-label", "app")
    start_collector(programs, sink, account, *options)
    wait_until(lambda: len(told_pods(sink.view.pods)) == 1, 30, "the pod that was chosen")
    time.sleep(0.5)  # for what should not come
    [told] = sink.view.pods.values()
    assert (told.namespace, told.owner_name, dict(told.labels)) == (namespace, "web", {"app": "web"})
    control_plane.delete("Pod", "elsewhere")


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


def once(kubeconfig: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `k8s-collector --once`."""
    command = (script("k8s-collector"), "--once", "--no-log-file", "--kubeconfig", str(kubeconfig), *options)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_once_prints_what_would_be_sent(control_plane: ControlPlane, account: Path, namespace: str) -> None:
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    done = once(account, "--namespace", namespace)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert [(each["owner_kind"], each["owner_name"]) for each in printed["pods"]] == [("Deployment", "web")] * 2
    addresses = {each["status"]["podIP"] for each in control_plane.list("Pod", namespace)}
    assert {address for each in printed["pods"] for address in each["addresses"]} == addresses
    assert {each["name"] for each in printed["nodes"]} == set(NODES)


PERMISSIONS = ("pods", "services", "nodes", "replicasets", "jobs")


def take_away(control_plane: ControlPlane, resource: str, verb: str) -> None:
    """Give the account the rights of the manifest but for one."""
    [role] = [each for each in yaml.safe_load_all(MANIFEST.read_text()) if each["kind"] == "ClusterRole"]
    rules = []
    for rule in role["rules"]:
        for each in rule["resources"]:
            verbs = [allowed for allowed in rule["verbs"] if (each, allowed) != (resource, verb)]
            rules.append({"apiGroups": rule["apiGroups"], "resources": [each], "verbs": verbs})
    control_plane.patch("ClusterRole", "k8s-collector", {"rules": rules})
    time.sleep(0.3)  # the server's authorizer learns of it by a watch


def test_each_permission_is_needed_and_one_that_is_missing_degrades_only_its_own(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 1), namespace)
    wait_until_running(control_plane, namespace, 1)
    try:
        for resource in PERMISSIONS:
            take_away(control_plane, resource, "list")
            wait_until(lambda: once(account).returncode == 1, 10, "the right to be gone")
            done = once(account, "--namespace", namespace)
            assert re.search(f"the permission to list {resource}[a-z.]*( in .*)? is missing", done.stderr), done.stderr
            assert done.stderr.count("error:") == 1
            printed = json.loads(done.stdout)
            assert bool(printed["pods"]) == (resource != "pods")
            assert bool(printed["nodes"]) == (resource != "nodes")
            if resource == "replicasets":  # what is known is told
                assert {each["owner_kind"] for each in printed["pods"]} == {"ReplicaSet"}
        for resource in PERMISSIONS:
            take_away(control_plane, resource, "watch")
            collector = start_collector(programs, sink, account)
            missing = collector.wait_for(r"the permission to watch ([a-z]+).* is missing")
            assert missing[1] == resource
            wait_until_equal(sink, control_plane)
            assert len(re.findall("WARNING .*is missing", collector.output())) == 1
            assert collector.stop() == 0
    finally:
        control_plane.apply(yaml.safe_load_all(MANIFEST.read_text()))
        wait_until(lambda: once(account).returncode == 0, 10, "the rights to be there again")


def test_clear_errors(control_plane: ControlPlane, tmp_path: Path) -> None:
    wrong_token = once(control_plane.kubeconfig("nobody", "wrong"))
    assert wrong_token.returncode == 1
    assert "does not accept the credentials of kubeconfig" in wrong_token.stderr

    other = tmp_path / "other.crt"
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=other")
    subprocess.run([*command, "-out", str(other)], check=True, capture_output=True)
    wrong_cluster = once(control_plane.kubeconfig("other", "x", ca_file=other))
    assert wrong_cluster.returncode == 1
    assert f"the certificate of {control_plane.url} is not from the authority" in wrong_cluster.stderr
    assert "is this the cluster?" in wrong_cluster.stderr

    nowhere = once(control_plane.kubeconfig("nowhere", "x", server="http://127.0.0.1:9"))
    assert nowhere.returncode == 1
    assert "cannot reach the API server at http://127.0.0.1:9" in nowhere.stderr

    for done in (wrong_token, wrong_cluster, nowhere):
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


def test_in_a_pod(control_plane: ControlPlane, tmp_path: Path) -> None:
    """With the files that the kubelet mounts, in a mount namespace of its own."""
    files = tmp_path / "serviceaccount"
    files.mkdir()
    (files / "token").write_text(control_plane.token("k8s-collector", NAMESPACE))
    (files / "namespace").write_text(NAMESPACE)
    (files / "ca.crt").write_bytes(control_plane.ca_file.read_bytes())
    target = "/var/run/secrets/kubernetes.io"
    commands = f'mount -t tmpfs none /run && mkdir -p {target} && cp -r {files} {target} && exec "$@"'
    collector = (script("k8s-collector"), "--once", "--no-log-file")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", commands, "sh", *collector],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/nonexistent",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": f"{control_plane.port}",
        },
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {each["name"] for each in json.loads(done.stdout)["nodes"]} == set(NODES)


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    standing = ApiProxy(control_plane.url, ADMIN_TOKEN, str(control_plane.ca_file))
    yield standing
    standing.close()


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
    wait_until_equal(sink, control_plane, timeout_s=50)
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
    wait_until(lambda: len(asked) == 5 and min(map(len, asked.values())) > 1, 10, "each resource to be listed")
    for first, second, *_ in asked.values():
        assert 2 <= second - first < 4


def test_a_token_that_expires_is_read_again(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, proxy: ApiProxy, namespace: str
) -> None:
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


def test_one_of_two_replicas_tells(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path
) -> None:
    options = ("--leader-elect", "--lease-namespace", NAMESPACE)
    replicas = {}
    for name in ("one", "two"):
        replicas[name] = start_collector(programs, sink, account, *options, "--hostname", name, name=name)
    wait_until(lambda: bool(sink.sessions), 30, "one to tell")
    time.sleep(3)  # for the other one to see the lease
    assert [hello.host.name for hello in sink.hellos] == [(leader := sink.hellos[0].host.name)]
    [lease] = control_plane.list("Lease", NAMESPACE)
    assert lease["spec"]["holderIdentity"].startswith(f"{leader}_")
    assert replicas.pop(leader).stop() == 0
    wait_until(lambda: len(sink.hellos) == 2, 10, "the other to take over at once")
    [(other, standby)] = replicas.items()
    assert sink.hellos[1].host.name == other
    wait_until_equal(sink, control_plane)
    assert standby.stop() == 0


def test_health_and_metrics(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    port = free_port()
    start_collector(programs, sink, account, "--internal-prom", f"127.0.0.1:{port}")
    wait_until_equal(sink, control_plane)

    def page(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()

    assert page("/healthz") == "ok\n"
    pods = len(sink.view.pods)
    assert re.search(rf"^ebpf_net_collector_kubernetes_pods {pods}\.0$", page("/metrics"), re.MULTILINE)
    wait_until(lambda: sink.statistics is not None and sink.statistics.kubernetes_pods == pods, 10, "statistics")


def test_the_reducer_takes_all_of_it(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 2), namespace)
    wait_until_running(control_plane, namespace, 2)
    intake, internal, prometheus = (free_port() for _ in range(3))
    programs.start(
        "reducer",
        *(script("reducer"), "--port", f"{intake}", "--internal-prom", f"127.0.0.1:{internal}", "--log-console"),
        *("--prom", f"127.0.0.1:{prometheus}", "--no-log-file", "--window", "1"),
    )
    collector = start_collector(programs, sink, account, "--intake-port", f"{intake}")

    def metric(name: str) -> float:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{internal}/metrics", timeout=5) as answer:
                found = re.search(rf"^ebpf_net_{name}(?:{{.*}})? ([0-9.e+]+)$", answer.read().decode(), re.MULTILINE)
        except OSError:
            return 0
        return float(found[1]) if found else 0

    def known() -> float:
        return sum(len(control_plane.list(kind)) for kind in ("Pod", "Service", "Node"))

    wait_until(lambda: 0 < metric("pipeline_entities") == known(), 30, "the reducer to know what the server has")
    assert collector.stop() == 0
