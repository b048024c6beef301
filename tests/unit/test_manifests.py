"""What deploy/kubernetes has is what the commands take, and what the documentation says they need."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

import k8s_collector.cli
import kernel_collector.cli
import reducer.cli
from tests.packages import ROOT

if TYPE_CHECKING:
    import click

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
    text = (ROOT / "deploy" / "kubernetes" / f"{name}.yaml").read_text()
    objects = {each["kind"]: each for each in yaml.safe_load_all(text)}
    [pod] = [each["spec"]["template"]["spec"] for each in objects.values() if "template" in each.get("spec", {})]
    [container] = pod["containers"]
    return Manifest(objects, pod, container)


def test_each_daemon_of_a_cluster_has_one() -> None:
    assert {path.stem for path in (ROOT / "deploy" / "kubernetes").iterdir()} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_takes_its_arguments_and_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container = manifest(name).container
    assert container["image"] == container["name"] == name
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
