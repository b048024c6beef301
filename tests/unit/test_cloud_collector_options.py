from __future__ import annotations

import pytest

from cloud_collector import cli
from cloud_collector.options import Settings
from tests.commands import asking

VARIABLES = {
    "EBPF_NET_INTAKE_HOST": None,
    "EBPF_NET_INTAKE_PORT": None,
    "EBPF_NET_AGENT_HOST": None,
    "CLOUD_COLLECTOR_PROVIDERS": None,
}
ROLE = "arn:aws-cn:iam::123456789012:role/path/reader"


@pytest.fixture
def asked(monkeypatch):
    return asking(monkeypatch, cli, "collect", VARIABLES)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("CLOUD_COLLECTOR_PROVIDER", "CLOUD_COLLECTOR_PROVIDERS"), ("EBPF_NET_INTAKE_HOSTS", "EBPF_NET_INTAKE_HOST")],
)
def test_variables_that_are_nearly_an_options_are_refused(asked, name, meant):
    assert f"the variable {name} is no option's: is {meant} meant?" in asked(exit_code=1, **{name: "x"})


def test_defaults(asked):
    settings = asked()
    assert settings == Settings(hostname=settings.hostname)
    assert (settings.providers, settings.poll_interval_s, settings.timeout_s) == (("aws",), 30, 10)


def test_options_of_the_reference(asked):
    settings = asked("--ec2-poll-interval-ms", "1000", "--aws-timeout", "500", EBPF_NET_INTAKE_HOST="reducer.example")
    assert (settings.poll_interval_s, settings.timeout_s, settings.intake.host) == (1, 0.5, "reducer.example")


def test_several_providers_and_accounts(asked):
    settings = asked("--provider", "gcp", "--provider", "aws", "--aws-assume-role", ROLE, "--aws-assumed-only")
    assert (settings.providers, settings.aws_roles, settings.aws_own_account) == (("gcp", "aws"), (ROLE,), False)


def test_what_is_no_role_is_refused(asked):
    said = asked("--aws-assume-role", "reader", exit_code=1)
    assert (
        said == "error: --aws-assume-role 'reader' is no ARN of a role, such as arn:aws:iam::123456789012:role/NAME\n"
    )


def test_nothing_to_read_is_refused(asked):
    said = asked("--aws-assumed-only", exit_code=1)
    assert "--aws-assumed-only leaves nothing to read: give --aws-assume-role" in said
