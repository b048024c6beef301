from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from daemon.version import VERSION
from intake.clock import SECOND_NS
from k8s_collector import cli
from k8s_collector.cluster import Choice
from k8s_collector.options import Settings
from tests.commands import asking

VARIABLES = {
    "EBPF_NET_INTAKE_HOST": None,
    "EBPF_NET_INTAKE_PORT": None,
    "K8S_COLLECTOR_HOSTNAME": None,
    "K8S_COLLECTOR_DELETE_TTL_SECS": None,
    "K8S_COLLECTOR_DELETE_CAPACITY": None,
    "KUBECONFIG": None,
    "KUBERNETES_SERVICE_HOST": None,
}


@pytest.fixture
def asked(monkeypatch):
    return asking(monkeypatch, cli, "collect", VARIABLES)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("K8S_COLLECTOR_HOSTNAM", "K8S_COLLECTOR_HOSTNAME"), ("EBPF_NET_INTAKE_HOSTS", "EBPF_NET_INTAKE_HOST")],
)
def test_variables_that_are_nearly_an_options_are_refused(asked, name, meant):
    assert f"the variable {name} is no option's: is {meant} meant?" in asked(exit_code=1, **{name: "x"})


def test_defaults(asked):
    settings = asked()
    assert settings == Settings(hostname=socket.gethostname())
    assert (settings.intake.host, settings.intake.port) == ("127.0.0.1", 8000)
    assert settings.choice == Choice((), (), 60 * SECOND_NS, 10_000)


def test_variables_of_the_reference(asked):
    settings = asked(
        EBPF_NET_INTAKE_HOST="reducer.example",
        EBPF_NET_INTAKE_PORT="7000",
        K8S_COLLECTOR_HOSTNAME="here",
        K8S_COLLECTOR_DELETE_TTL_SECS="5",
        K8S_COLLECTOR_DELETE_CAPACITY="7",
        KUBECONFIG="/some/file",
    )
    assert (settings.intake.host, settings.intake.port, settings.hostname) == ("reducer.example", 7000, "here")
    assert (settings.choice.delete_ttl_ns, settings.choice.delete_capacity) == (5 * SECOND_NS, 7)
    assert settings.kubeconfig == "/some/file"


def test_an_option_comes_before_its_variable(asked):
    settings = asked(
        "--intake-host", "a", "--hostname", "b", "--kubeconfig", "c", EBPF_NET_INTAKE_HOST="x", KUBECONFIG="y"
    )
    assert (settings.intake.host, settings.hostname, settings.kubeconfig) == ("a", "b", "c")


def test_options_that_may_be_given_several_times(asked):
    settings = asked(
        *("--namespace", "a", "--namespace", "b", "--namespace", "a", "--pod-label", "x", "--pod-label", "y"),
        *("--pod-annotation", "z", "--label-selector", "app=web"),
    )
    assert (settings.namespaces, settings.label_selector) == (("a", "b"), "app=web")
    assert (settings.choice.pod_labels, settings.choice.pod_annotations) == (("x", "y"), ("z",))


def test_the_host_of_the_labels_names_it(asked, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("labels: {host: north, environment: production}\n")
    settings = asked("--config-file", str(path))
    assert (settings.hostname, settings.intake.labels["environment"]) == ("north", "production")


def test_version(asked):
    assert VERSION in asked("--version")


def test_what_cannot_be_is_refused(asked):
    assert "--delete-ttl-secs" in asked("--delete-ttl-secs", "-1", exit_code=2)


def test_without_credentials_it_says_what_to_do(monkeypatch, tmp_path):
    for variable, value in (VARIABLES | {"HOME": str(tmp_path)}).items():
        monkeypatch.delenv(variable, raising=False)
        if value:
            monkeypatch.setenv(variable, value)
    result = CliRunner().invoke(cli.main, ["--once", "--no-log-file"])
    assert result.exit_code == 1
    assert "no credentials for a cluster" in result.output
    assert "--kubeconfig" in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "cannot be read"),
        ("clusters: []\n", "has no current context: see to --context; it has none"),
        (
            "apiVersion: v1\ncurrent-context: a\ncontexts: []\nclusters: []\nusers: []\n",
            "has no context a: see to --context; it has none",
        ),
    ],
)
def test_a_kubeconfig_that_is_none(tmp_path, content, message):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    result = CliRunner().invoke(cli.main, ["--once", "--no-log-file", "--kubeconfig", str(path)])
    assert result.exit_code == 1
    assert str(path) in result.output
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments", [("--namespace", "../../nodes"), ("--namespace", "Shop"), ("--lease-name", "a/b")], ids=" ".join
)
def test_what_is_no_name_is_refused(asked, arguments):
    option, value = arguments
    assert f"{option} '{value}' is no name of Kubernetes" in asked(*arguments, exit_code=1)


def test_an_empty_namespace_stands_for_all(asked):
    assert asked("--namespace", "").namespaces == ("",)
