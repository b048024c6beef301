"""The rights that the collector of Kubernetes needs, how it finds the cluster, and what it says where it may not."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import yaml

from tests.lab.daemons import script
from tests.lab.k8s_collector import (
    MANIFEST,
    NAMESPACE,
    NODES,
    USER,
    endpoint_slice,
    once,
    service,
    start_collector,
    wait_until_equal,
    wait_until_running,
    workload,
)
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.entity_sink import EntitySink
    from tests.lab.kubernetes import ControlPlane
    from tests.lab.programs import Programs

PERMISSIONS = {
    "pods": "",
    "services": "",
    "endpointslices": "discovery.k8s.io",
    "nodes": "",
    "replicasets": "apps",
    "jobs": "batch",
}


def wait_until_allowed(control_plane: ControlPlane, *but: tuple[str, str]) -> None:
    """Wait until the server's authorizer knows that the account has all rights, or all *but* these."""

    def known() -> bool:
        return all(
            control_plane.allows(USER, verb=verb, resource=resource, group=group) != ((resource, verb) in but)
            for resource, group in PERMISSIONS.items()
            for verb in ("list", "watch")
        )

    wait_until(known, 60, f"the rights but for {but}")


def take_away(control_plane: ControlPlane, resource: str, verb: str) -> None:
    """Give the account the rights of the manifest but for one."""
    [role] = [each for each in yaml.safe_load_all(MANIFEST.read_text()) if each["kind"] == "ClusterRole"]
    rules = []
    for rule in role["rules"]:
        for each in rule["resources"]:
            verbs = [allowed for allowed in rule["verbs"] if (each, allowed) != (resource, verb)]
            rules.append({"apiGroups": rule["apiGroups"], "resources": [each], "verbs": verbs})
    control_plane.patch("ClusterRole", "k8s-collector", {"rules": rules})
    wait_until_allowed(control_plane, (resource, verb))


def test_each_permission_is_needed_and_one_that_is_missing_degrades_only_its_own(
    control_plane: ControlPlane, sink: EntitySink, programs: Programs, account: Path, namespace: str
) -> None:
    control_plane.create(workload("Deployment", "web", 1), namespace)
    control_plane.create(service("database"), namespace)
    control_plane.create(endpoint_slice("database-1", "database", "203.0.113.7"), namespace)
    wait_until_running(control_plane, namespace, 1)
    try:
        for resource in PERMISSIONS:
            take_away(control_plane, resource, "list")
            done = once(account, "--namespace", namespace)
            assert done.returncode == 1
            assert re.search(f"the permission to list {resource}[a-z0-9.]*( in .*)? is missing", done.stderr), (
                done.stderr
            )
            assert done.stderr.count("error:") == 1
            printed = json.loads(done.stdout)
            assert bool(printed["pods"]) == (resource != "pods")
            assert bool(printed["nodes"]) == (resource != "nodes")
            ports = {port["port"] for each in printed["services"] for port in each["ports"]}
            without = {"services": {5432}, "endpointslices": {80}}
            assert ports == without.get(resource, {80, 5432})
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
        wait_until_allowed(control_plane)


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

    no_selector = once(control_plane.admin, "--label-selector", "app in (")
    assert no_selector.returncode == 1
    assert "cannot list pods in all namespaces: see to --label-selector 'app in (' (400 " in no_selector.stderr

    for done in (wrong_token, wrong_cluster, nowhere, no_selector):
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
