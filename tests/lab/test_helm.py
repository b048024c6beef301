"""The chart, by Helm itself, and on a real control plane."""

from __future__ import annotations

import re
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import cloud_collector.cli
import k8s_collector.cli
import kernel_collector.cli
import reducer.cli
from intake.labels import LABEL_VARIABLES
from tests.lab.helm import CHART, helm, program, rendered
from tests.lab.kubernetes import COLLECTIONS
from tests.lab.waiting import wait_until
from tests.packages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

    from tests.lab.kubernetes import ControlPlane, Object

COMMANDS: dict[str, click.Command] = {
    "kernel-collector": kernel_collector.cli.main,
    "k8s-collector": k8s_collector.cli.main,
    "cloud-collector": cloud_collector.cli.main,
    "reducer": reducer.cli.main,
}
SECRETS = {
    "tls": {"reducerSecret": "reducer", "authoritySecret": "authority", "collectorSecret": "collector"},
    "tokenSecret": "intake",
}
DAEMON = {
    "env": [{"name": "EBPF_NET_LOG_FILE_PATH", "value": ""}],
    "extraArgs": ["--debug"],
    "podAnnotations": {"note": "true"},
    "podLabels": {"team": "network"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "nodeSelector": {"pool": "a"},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/flows"}},
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
}
ALL: dict[str, Any] = {
    "image": {"registry": "registry.example:5000/net/", "tag": "2", "pullPolicy": "Always", "pullSecrets": ["pull"]},
    "cluster": "1000",
    "intake": SECRETS,
    "kernelCollector": DAEMON,
    "k8sCollector": DAEMON | {"replicas": 3},
    "cloudCollector": DAEMON | {"enabled": True, "providers": ["aws", "gcp"]},
    "reducer": DAEMON | {"otlp": {"endpoint": "https://otel.example:4317"}, "persistence": {"storageClass": "fast"}},
}
ELSEWHERE: dict[str, Any] = {"reducer": {"enabled": False}, "intake": {"host": "reducer.example", "port": 8443}}
NOTHING_KEPT: dict[str, Any] = {
    "reducer": {
        "otlp": {"endpoint": "http://otel.example:4318", "protocol": "http"},
        "prometheus": {"enabled": False},
        "persistence": {"enabled": False},
    }
}


@pytest.fixture(scope="module", autouse=True)
def there_is_helm() -> None:
    """Else no control plane need be started."""
    program()


def pods(objects: list[Object]) -> dict[str, Object]:
    """Return the templates of pods by the names of their containers."""
    templates = [each["spec"]["template"] for each in objects if "template" in each.get("spec", {})]
    return {each["spec"]["containers"][0]["name"]: each for each in templates}


def variables(pod: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "given") for each in pod["spec"]["containers"][0].get("env", ())}


def test_helm_finds_nothing_to_say_of_it() -> None:
    for values in ({}, ALL, ELSEWHERE, NOTHING_KEPT):
        helm("lint", "--strict", str(CHART), values=values)


@pytest.mark.parametrize("name", ["k8s-collector", "kernel-collector", "reducer"])
def test_its_default_values_give_the_manifests(name: str) -> None:
    only = ("--namespace", "ebpf-net", "--show-only", f"templates/{name}.yaml")
    made = helm("template", "ebpf-net", str(CHART), *only)
    written = (ROOT / "deploy" / "kubernetes" / f"{name}.yaml").read_text()
    assert written.rstrip() == made.rstrip(), "run: ./build.sh manifests"


def test_its_default_values_give_nothing_else() -> None:
    assert set(pods(rendered({}))) == set(COMMANDS) - {"cloud-collector"}


@pytest.mark.parametrize("values", [ALL, ELSEWHERE, NOTHING_KEPT])
def test_commands_take_the_arguments_and_variables_that_values_give(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, pod in pods(rendered(values)).items():
        container = pod["spec"]["containers"][0]
        named = [each.envvar for each in COMMANDS[name].params if each.envvar]
        known = {variable for each in named for variable in ([each] if isinstance(each, str) else each)}
        known |= {*LABEL_VARIABLES.values(), "EBPF_NET_LOG_FILE_PATH", "OTEL_EXPORTER_OTLP_ENDPOINT"}
        with monkeypatch.context() as environment:
            for variable, value in variables(pod).items():
                assert variable in known
                environment.setenv(variable, value)
            COMMANDS[name].make_context(name, list(container["args"]))  # raises where it does not


def test_ports_are_open_on_all_addresses_of_a_pod_also_where_it_has_none_of_ipv4() -> None:
    for name, pod in pods(rendered(ALL)).items():
        container = pod["spec"]["containers"][0]
        opened = {f":{each['containerPort']}" for each in container.get("ports", ()) if each["name"] != "intake"}
        assert opened == set(re.findall(r"^--(?:internal-)?prom=(\S*)$", "\n".join(container["args"]), re.MULTILINE)), (
            name
        )


def test_what_is_mounted_is_where_the_arguments_say_and_no_key_is_where_it_is_not_needed() -> None:
    for name, pod in pods(rendered(ALL)).items():
        container = pod["spec"]["containers"][0]
        volumes = {each["name"]: each.get("secret") for each in pod["spec"]["volumes"]}
        mounts = {each["mountPath"]: volumes.get(each["name"]) for each in container["volumeMounts"]}
        own = "reducer" if name == "reducer" else "collector"
        secrets = {path: secret for path, secret in mounts.items() if secret}
        assert secrets == {
            "/etc/ebpf-net/authority": {"secretName": "authority", "items": [{"key": "ca.crt", "path": "ca.crt"}]},
            "/etc/ebpf-net/certificate": {"secretName": own},
            "/etc/ebpf-net/token": {"secretName": "intake"},
        }
        told = " ".join([*container["args"], *variables(pod).values()])
        files = {"authority/ca.crt", "certificate/tls.crt", "certificate/tls.key", "token/token"}
        assert set(re.findall("/etc/ebpf-net/([a-z./]+)", told)) == files


def test_values_are_where_they_belong() -> None:
    objects = rendered(ALL)
    for name, pod in pods(objects).items():
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        assert container["image"] == f"registry.example:5000/net/{name}:2"
        assert container["imagePullPolicy"] == "Always"
        assert spec["imagePullSecrets"] == [{"name": "pull"}]
        assert spec["tolerations"] == DAEMON["tolerations"]
        assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "a"}
        assert pod["metadata"]["annotations"]["note"] == "true"
        assert pod["metadata"]["labels"]["team"] == "network"
        assert container["args"][-1] == "--debug"
        [account] = [each for each in objects if each["kind"] == "ServiceAccount" and each["metadata"]["name"] == name]
        assert spec["serviceAccountName"] == name
        assert account["metadata"]["annotations"] == DAEMON["serviceAccount"]["annotations"]
        expected = "1000" if name in ("kernel-collector", "k8s-collector") else None
        assert variables(pod).get("EBPF_NET_AGENT_CLUSTER") == expected
    [claim] = next(each for each in objects if each["kind"] == "StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"


def test_names_that_yaml_would_take_for_numbers_are_names() -> None:
    number = "123"
    secrets = {"tls": dict.fromkeys(SECRETS["tls"], number), "tokenSecret": number}
    values = {
        "image": {"pullSecrets": [number]},
        "intake": secrets,
        "k8sCollector": {"serviceAccount": {"name": number}},
    }
    objects = rendered(values | {"reducer": {"persistence": {"storageClass": number}}}, number, number)
    for text in ("namespace", "app.kubernetes.io/instance", "secretName", "storageClassName", "serviceAccountName"):
        assert number in found(objects, text)
    names = ("name", "namespace", "app.kubernetes.io/instance", "secretName", "storageClassName", "serviceAccountName")
    assert [value for name in names for value in found(objects, name) if not isinstance(value, str)] == []


def found(value: Any, key: str) -> list[Any]:
    """Return what is under a key, however deep."""
    if isinstance(value, list):
        return [each for part in value for each in found(part, key)]
    if not isinstance(value, dict):
        return []
    own = [value[key]] if key in value else []
    return own + [each for part in value.values() for each in found(part, key)]


def test_two_releases_of_a_namespace_have_nothing_in_common() -> None:
    one, other = (
        {(each["kind"], each["metadata"]["name"]) for each in rendered({}, release)}
        for release in ("ebpf-net", "other")
    )
    assert not one & other
    [lease] = [name for kind, name in other if kind == "Lease"]
    container = pods(rendered({}, "other"))["k8s-collector"]["spec"]["containers"][0]
    assert f"--lease-name={lease}" in container["args"]


def test_an_account_that_is_there_is_used_and_no_rights_are_made() -> None:
    of_cluster = {"serviceAccount": {"name": "mine"}, "rbac": {"create": False}}
    objects = rendered({"k8sCollector": of_cluster})
    assert pods(objects)["k8s-collector"]["spec"]["serviceAccountName"] == "mine"
    kinds = {each["kind"] for each in objects if "k8s-collector" in each["metadata"]["name"]}
    assert kinds == {"Lease", "Deployment"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"reducer": {"otlp": {"endpont": "http://x:4317"}}}, "endpont"),
        ({"kernelCollecter": {}}, "kernelCollecter"),
        ({"kernelCollector": {"resources": {"limit": {}}}}, "limit"),
        ({"reducer": {"otlp": {"endpoint": "otel-collector:4317"}}}, "otel-collector:4317"),
        ({"cloudCollector": {"providers": ["amazon"]}}, "providers"),
        ({"reducer": {"env": [{"name": "EBPF_NET_REDUCER_WINDOW", "value": 10}]}}, "string"),
        ({"reducer": {"enabled": False}}, "intake.host has to say where the reducer is"),
        ({"reducer": {"enabled": False}, "intake": {"host": "reducer.example:8000"}}, "reducer.example:8000"),
        ({"intake": {"host": "reducer.example"}}, "set reducer.enabled=false"),
        ({"intake": {"tls": {"reducerSecret": "x"}}}, "intake.tls.authoritySecret has to name"),
        ({"intake": {"tls": {"authoritySecret": "x"}}}, "intake.tls.reducerSecret has to name"),
    ],
)
def test_what_cannot_be_is_said(values: dict[str, Any], said: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        helm("template", "ebpf-net", str(CHART), values=values)
    assert said in refused.value.stderr


class Scheduler:
    """Gives pods of a namespace a node, as the control plane of the lab has nobody who does."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._control_plane = control_plane
        self._namespace = namespace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            for pod in self._control_plane.list("Pod", self._namespace):
                if "nodeName" not in pod["spec"] and "deletionTimestamp" not in pod["metadata"]:
                    self._bind(pod)

    def _bind(self, pod: Object) -> None:
        affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
        terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
        # The controller of DaemonSets says of each of its pods which node it is for.
        named = [value for term in terms for field in term.get("matchFields", ()) for value in field["values"]]
        target = {"kind": "Node", "name": (named or ["node-1"])[0]}
        path = f"{COLLECTIONS['Pod'].format(self._namespace)}/{pod['metadata']['name']}/binding"
        metadata = {"name": pod["metadata"]["name"]}
        with suppress(AssertionError):  # it may be gone by now
            self._control_plane.request(
                "POST", path, {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
            )


@pytest.fixture
def scheduler(control_plane: ControlPlane, namespace: str) -> Iterator[Scheduler]:
    running = Scheduler(control_plane, namespace)
    yield running
    running.close()


def left(control_plane: ControlPlane, release: str) -> list[tuple[str, str]]:
    """Return what there still is of a release."""
    found = [(kind, each["metadata"]) for kind in COLLECTIONS for each in control_plane.list(kind)]
    return [
        (kind, metadata["name"])
        for kind, metadata in found
        if metadata.get("labels", {}).get("app.kubernetes.io/instance") == release
        or metadata.get("annotations", {}).get("meta.helm.sh/release-name") == release
        or metadata.get("labels", {}).get("name") == release  # Helm's own Secrets
    ]


def test_a_release_is_installed_upgraded_and_leaves_nothing(
    control_plane: ControlPlane, namespace: str, scheduler: Scheduler
) -> None:
    where = ("--namespace", namespace, "--kubeconfig", str(control_plane.admin), "--wait", "--timeout", "200s")

    def ready() -> dict[str, int]:
        return {
            kind: each["status"].get("readyReplicas") or each["status"].get("numberReady", 0)
            for kind in ("DaemonSet", "Deployment", "StatefulSet")
            for each in control_plane.list(kind, namespace)
        }

    notes = helm("install", "flows", str(CHART), *where)
    assert ready() == {"DaemonSet": 2, "Deployment": 2, "StatefulSet": 1}
    for command in (line.split() for line in notes.splitlines() if "kubectl --namespace" in line):
        kind, _, name = next(word for word in command if "/flows-" in word).partition("/")
        kinds = {known.lower(): known for known in COLLECTIONS}
        assert name in {each["metadata"]["name"] for each in control_plane.list(kinds[kind], namespace)}
    assert ("PersistentVolumeClaim", "data-flows-reducer-0") in left(control_plane, "flows")

    values = {"k8sCollector": {"replicas": 1}, "reducer": {"otlp": {"endpoint": "http://otel.example:4317"}}}
    control_plane.patch("Lease", "flows-k8s-collector", {"spec": {"holderIdentity": "one"}}, namespace)
    helm("upgrade", "flows", str(CHART), *where, values=values)
    [lease] = control_plane.list("Lease", namespace)
    assert lease["spec"]["holderIdentity"] == "one"
    assert ready() == {"DaemonSet": 2, "Deployment": 1, "StatefulSet": 1}
    [pod] = [each for each in control_plane.list("Pod", namespace) if each["metadata"]["name"] == "flows-reducer-0"]
    assert "--enable-otlp-grpc-metrics" in pod["spec"]["containers"][0]["args"]

    helm("uninstall", "flows", *where)
    wait_until(lambda: not left(control_plane, "flows"), 60, "nothing to be left of it")
