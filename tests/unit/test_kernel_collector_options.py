from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.version import VERSION
from kernel_collector import cli
from kernel_collector.options import Settings, _default_host_directory
from tests.commands import asking

VARIABLES = {
    "EBPF_NET_INTAKE_HOST": None,
    "EBPF_NET_INTAKE_PORT": None,
    "EBPF_NET_INTAKE_ENCODER": None,
    "EBPF_NET_HOST_DIR": None,
    "EBPF_NET_AGENT_ZONE": None,
    "DOCKER_NS_LABEL": None,
}


@pytest.fixture
def asked(monkeypatch):
    return asking(monkeypatch, cli, "collect", VARIABLES)


def config(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


def test_defaults(asked):
    assert asked() == Settings(host_directory=_default_host_directory())
    assert (Settings().intake_host, Settings().intake_port) == ("127.0.0.1", 8000)


def test_encoders(asked):
    assert asked().intake_encoder == "intake"
    assert asked("--intake-encoder", "otlp_log").intake_encoder == "otlp_log"
    assert asked(EBPF_NET_INTAKE_ENCODER="otlp_log").intake_encoder == "otlp_log"
    assert asked(EBPF_NET_INTAKE_ENCODER="binary").intake_encoder == "intake"  # as the reference calls it
    assert "'json' is not one of" in asked(EBPF_NET_INTAKE_ENCODER="json", exit_code=2)


def test_recording(asked, tmp_path):
    assert (asked().record, asked().record_limit) == (None, 1 << 30)
    settings = asked("--record", str(tmp_path / "file"), "--record-limit", "3")
    assert (settings.record, settings.record_limit) == (tmp_path / "file", 3 << 20)


def test_bpf_stats(asked):
    assert not asked().bpf_stats
    assert asked("--enable-bpf-stats").bpf_stats
    assert asked(EBPF_NET_ENABLE_BPF_STATS="1").bpf_stats


def test_command_line_length(asked):
    assert asked().command_line_length == 256
    assert asked("--command-line-length", "0").command_line_length == 0
    assert asked(EBPF_NET_COMMAND_LINE_LENGTH="20").command_line_length == 20
    assert "0<=x<=256" in asked("--command-line-length", "257", exit_code=2)


def test_option_before_variable_before_file(asked, tmp_path):
    path = config(tmp_path, "intake: {host: file, port: 1}\nlabels: {zone: z}\n")
    settings = asked("--config-file", path)
    assert (settings.intake_host, settings.intake_port, settings.labels) == ("file", 1, {"zone": "z"})
    settings = asked("--config-file", path, EBPF_NET_INTAKE_HOST="variable", EBPF_NET_INTAKE_PORT="2")
    assert (settings.intake_host, settings.intake_port) == ("variable", 2)
    arguments = ("--config-file", path, "--intake-host", "option", "--intake-port", "3")
    settings = asked(*arguments, EBPF_NET_INTAKE_HOST="variable", EBPF_NET_INTAKE_PORT="2")
    assert (settings.intake_host, settings.intake_port) == ("option", 3)


def test_labels_of_variables(asked):
    assert asked(EBPF_NET_AGENT_ZONE="a").labels == {"zone": "a"}


def test_network_namespaces(asked):
    settings = asked("--network-namespace", "/run/netns/a", "--network-namespace", "/run/netns/b")
    assert settings.network_namespaces == (Path("/run/netns/a"), Path("/run/netns/b"))


def test_host_directory(asked, tmp_path):
    assert asked(EBPF_NET_HOST_DIR=str(tmp_path)).proc == Path("/proc")  # it has none
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").touch()
    assert asked("--host-dir", str(tmp_path)).proc == tmp_path / "proc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("intakes: {}", "did you mean 'intake'"),
        ("intake: {hots: a}", "did you mean 'host'"),
        ("intake: 8000", "intake must be a mapping"),
        ("intake: {port: many}", "from 1 to 65535"),
        ("intake: {port: 70000}", "from 1 to 65535"),
        ("labels: {zome: a}", "did you mean 'zone'"),
        ("labels: [", "is not YAML"),
    ],
)
def test_configuration_files_that_are_refused(asked, tmp_path, text, message):
    output = asked("--config-file", config(tmp_path, text), exit_code=1)
    assert message in output
    assert output.startswith("error: ")
    assert output.count("\n") == 1


def test_unknown_option(asked):
    output = asked("--intake-hots", "a", exit_code=2)
    assert "--intake-host" in output


def test_port_that_is_none(asked):
    assert "EBPF_NET_INTAKE_PORT" in asked(exit_code=2, EBPF_NET_INTAKE_PORT="many")
    assert "65535" in asked("--intake-port", "65536", exit_code=2)


@pytest.mark.parametrize(
    "host", ["http://reducer", "reducer:8000", "[::1]:8000", "10.0.0.1/8", " ", "a b", "reducer\n", "\udcff"]
)
def test_host_that_is_none(asked, host):
    output = asked(exit_code=1, EBPF_NET_INTAKE_HOST=host)
    assert repr(host) in output
    assert "EBPF_NET_INTAKE_PORT" in output


@pytest.mark.parametrize("host", ["reducer.example", "10.0.0.1", "::1", "[::1]", "fe80::1%eth0"])
def test_hosts(asked, host):
    assert asked("--intake-host", host).intake_host == host.strip("[]")


def test_unwritable_log_file(monkeypatch):
    monkeypatch.setenv("EBPF_NET_LOG_FILE_PATH", "/nowhere/a.log")
    result = CliRunner().invoke(cli.main, [], env=VARIABLES)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "cannot write the log file /nowhere/a.log" in result.output


def test_network_namespace_that_is_not_there():
    arguments = ["--no-log-file", "--network-namespace", "/run/netns/nowhere"]
    result = CliRunner().invoke(cli.main, arguments, env=VARIABLES)
    assert result.exit_code == 1
    assert result.output.startswith("error: /run/netns/nowhere is no network namespace")


def test_version():
    assert VERSION in CliRunner().invoke(cli.main, ["--version"]).output


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("EBPF_NET_DISABLE_HTTP_METRIC", "EBPF_NET_DISABLE_HTTP_METRICS"),
        ("EBPF_NET_INTAKE_HOSTS", "EBPF_NET_INTAKE_HOST"),
        ("EBPF_NET_AGENT_ZONES", "EBPF_NET_AGENT_ZONE"),
        ("EBPF_NET_LOGFILE_PATH", "EBPF_NET_LOG_FILE_PATH"),
    ],
)
def test_variables_that_are_nearly_an_options_are_refused(asked, name, meant):
    assert f"the variable {name} is no option's: is {meant} meant?" in asked(exit_code=1, **{name: "x"})


def test_variables_of_the_reference_and_of_other_daemons_are_not(asked):
    reference = "DATA_DIR", "INSTALL_DIR", "DEBUG_MODE", "RUN_UNDER_GDB", "RUN_LOCAL", "KERNEL_HEADERS_AUTO_FETCH"
    others = "CLUSTER_NAME", "REDUCER_PORT", "AGENT_ENVIRONMENT", "INTAKE_PORT_8000_TCP", "INTAKE_SERVICE_HOST"
    asked(**{f"EBPF_NET_{name}": "x" for name in (*reference, *others)})


def test_preflight_does_not_start_the_daemon(asked):
    result = CliRunner().invoke(cli.main, ["preflight"], env=VARIABLES)
    assert "libbpf" in result.output


def test_udp_is_counted_unless_it_is_switched_off(asked):
    assert asked().udp_metrics
    assert not asked("--disable-udp-metrics").udp_metrics
    assert not asked(EBPF_NET_DISABLE_UDP_METRICS="true").udp_metrics


def test_the_dns_is_watched_unless_it_is_switched_off(asked):
    assert asked().dns_metrics
    assert not asked("--disable-dns-metrics").dns_metrics
    assert not asked(EBPF_NET_DISABLE_DNS_METRICS="true").dns_metrics


def test_http_is_counted_unless_disabled(asked):
    assert asked().http_metrics
    assert not asked("--disable-http-metrics").http_metrics
    for value in ("true", "yes", "1"):
        assert not asked(EBPF_NET_DISABLE_HTTP_METRICS=value).http_metrics
    assert asked(EBPF_NET_DISABLE_HTTP_METRICS="false").http_metrics


def test_options_about_docker(asked):
    assert asked("--docker-ns-label", "option", DOCKER_NS_LABEL="variable").docker_ns_label == "option"
    assert asked(DOCKER_NS_LABEL="variable").docker_ns_label == "variable"
    settings = asked("--force-docker-metadata", "--disable-nomad-metadata")
    assert (settings.force_docker_metadata, settings.disable_nomad_metadata) == (True, True)
