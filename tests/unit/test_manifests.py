"""What deploy has is what the commands take, and what the documentation says they need."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

import k8s_collector.cli
import kernel_collector.cli
import reducer.cli
from daemon.version import VERSION
from intake.labels import LONGEST_VALUE
from tests.packages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

CHART = ROOT / "deploy" / "helm" / "ebpf-net"
MANIFESTS = ROOT / "deploy" / "kubernetes"
COMMANDS: dict[str, click.Command] = {
    "k8s-collector": k8s_collector.cli.main,
    "kernel-collector": kernel_collector.cli.main,
    "reducer": reducer.cli.main,
}


class Manifest(NamedTuple):
    """The objects of a file by their kinds, and the container of its daemon."""

    objects: dict[str, dict[str, Any]]
    pod: dict[str, Any]
    container: dict[str, Any]


def manifest(name: str) -> Manifest:
    text = (MANIFESTS / f"{name}.yaml").read_text()
    objects = {each["kind"]: each for each in yaml.safe_load_all(text)}
    [pod] = [each["spec"]["template"]["spec"] for each in objects.values() if "template" in each.get("spec", {})]
    [container] = pod["containers"]
    return Manifest(objects, pod, container)


def test_each_daemon_of_a_cluster_has_one() -> None:
    assert {path.stem for path in MANIFESTS.iterdir()} == {"00-namespace", *COMMANDS}


def test_their_namespace_is_made_before_them() -> None:
    first, *others = sorted(MANIFESTS.iterdir())  # the order of kubectl
    namespace = yaml.safe_load(first.read_text())
    assert namespace["kind"] == "Namespace"
    told = {each["metadata"].get("namespace") for path in others for each in yaml.safe_load_all(path.read_text())}
    assert told == {namespace["metadata"]["name"], None}


def test_they_are_what_the_chart_gives() -> None:
    """A test in the lab renders it; this one needs no helm."""
    made = chain(
        CHART.glob("*.yaml"), CHART.glob("templates/*.yaml"), CHART.glob("templates/*.tpl"), MANIFESTS.iterdir()
    )
    digests = {f"{path.relative_to(ROOT)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in made}
    written = (CHART.parent / "manifests.sha256").read_text().splitlines()
    assert {name: digest for digest, name in map(str.split, written)} == digests, "run: ./build.sh manifests"


def test_the_chart_has_the_version_of_the_daemons() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION


def objects_in(schema: dict[str, Any], path: str = "values") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the parts of a schema that name their keys."""
    if "properties" in schema:
        yield path, schema
    for key, part in {**schema.get("properties", {}), **schema.get("definitions", {})}.items():
        yield from objects_in(part, f"{path}.{key}")


def test_a_value_of_the_chart_that_is_misspelt_is_refused() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert [path for path, part in objects_in(schema) if part.get("additionalProperties") is not False] == []

    def keys(values: dict[str, Any], part: dict[str, Any], path: str) -> None:
        """Raise where the values have others than their schema; what Kubernetes defines may be left out."""
        assert path not in closed or set(values) == set(part["properties"]) - {"global"}, path
        for name, value in values.items():
            below = part.get("properties", {}).get(name, {})
            if isinstance(value, dict):
                keys(value, below, f"{path}.{name}")

    closed = {path for path, _ in objects_in(schema) if "definitions" not in path}
    keys(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "values")
    assert schema["properties"]["cluster"]["maxLength"] == LONGEST_VALUE


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_takes_its_arguments_and_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container = manifest(name).container
    assert container["image"] == f"{name}:{VERSION}"
    assert container["name"] == name
    command = COMMANDS[name]
    known = {
        variable
        for each in command.params
        for variable in ([each.envvar] if isinstance(each.envvar, str) else each.envvar or ())
    }
    for variable in container.get("env", ()):
        assert variable["name"] in known
        monkeypatch.setenv(variable["name"], variable.get("value", "given"))
    command.make_context(name, list(container["args"]))  # raises where it does not


@pytest.mark.parametrize("name", COMMANDS)
def test_no_container_may_do_more_than_it_needs(name: str) -> None:
    found = manifest(name)
    security = found.container["securityContext"]
    assert not security["allowPrivilegeEscalation"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert found.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "memory" in found.container["resources"]["limits"]
    if name != "kernel-collector":
        assert found.pod["securityContext"]["runAsNonRoot"]
        assert "add" not in security["capabilities"]


@pytest.mark.parametrize("name", COMMANDS)
def test_pods_go_to_nodes_that_can_run_them(name: str) -> None:
    assert manifest(name).pod["nodeSelector"] == {"kubernetes.io/os": "linux"}


def test_a_full_node_makes_room_for_the_kernel_collector() -> None:
    found = manifest("kernel-collector")
    priority = found.objects["PriorityClass"]
    assert found.pod["priorityClassName"] == priority["metadata"]["name"]
    assert priority["value"] > 0


def test_the_kernel_collector_has_the_capabilities_that_docker_run_gives_it() -> None:
    documented = re.findall(r"--cap-add (\w+)", (ROOT / "README.md").read_text())
    assert manifest("kernel-collector").container["securityContext"]["capabilities"]["add"] == documented


def test_collectors_find_the_reducer() -> None:
    service = manifest("reducer").objects["Service"]
    [intake] = [each for each in service["spec"]["ports"] if each["name"] == "intake"]
    address = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    for name in ("kernel-collector", "k8s-collector"):
        variables = {each["name"]: each.get("value") for each in manifest(name).container["env"]}
        assert variables["EBPF_NET_INTAKE_HOST"] == address
        assert variables["EBPF_NET_INTAKE_PORT"] == f"{intake['port']}"
    ports = {each["name"] for each in manifest("reducer").container["ports"]}
    assert {each["targetPort"] for each in service["spec"]["ports"]} == ports
