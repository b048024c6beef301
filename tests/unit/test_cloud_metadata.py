"""The metadata services of the clouds, read from servers on loopback."""

from __future__ import annotations

import ipaddress
import threading
import time

import pytest

from kernel_collector.machine import cloud_metadata
from kernel_collector.machine.bounded_http import AnswerError
from kernel_collector.machine.cloud_metadata import MOST_ADDRESSES, CloudMetadata, aws, azure, google
from kernel_collector.machine.foreign_json import LONGEST_VALUE
from tests.cloud_services import AZURE_DOCUMENT, aws_v1, aws_v2, of_azure, of_google, served
from tests.lab.waiting import wait_until


def soon():
    return time.monotonic() + 60


def described(cloud):
    named = {field.name: value for field, value in cloud.ListFields() if field.name != "addresses"}
    return named, {text(pair.public): text(pair.private) for pair in cloud.addresses}


def text(packed):
    return str(ipaddress.IPv6Address(packed).ipv4_mapped)


@pytest.mark.parametrize("version", [aws_v2, aws_v1])
def test_aws(version):
    with served(version) as service:
        assert described(aws(service, soon())) == (
            {
                "provider": "aws",
                "zone": "us-east-1d",
                "instance_id": "i-1234567890abcdef0",
                "instance_type": "m5.large",
                "account": "123456789012",
                "role": "web-server",
            },
            {"203.0.113.25": "10.158.112.84"},
        )


def test_google():
    with served(of_google) as service:
        assert described(google(service, soon())) == (
            {
                "provider": "gcp",
                "zone": "europe-west1-b",
                "instance_id": "4152124796919337364",
                "instance_type": "n1-standard-1",
                "account": "my-project",
                "role": "1234-compute@developer.gserviceaccount.com",
            },
            {"203.0.113.7": "10.132.0.2"},
        )


@pytest.mark.parametrize("part", ["service-accounts", "machine-type", "project-id", "network-interfaces"])
@pytest.mark.parametrize("answer", [None, (200, {"Metadata-Flavor": "Google"}, "[")])
def test_what_google_does_not_tell_is_left_out(part, answer):
    with served(lambda *request: answer if part in request[1] else of_google(*request)) as service:
        found = google(service, soon())
    assert (found.zone, found.instance_id) == ("europe-west1-b", "4152124796919337364")
    told = (found.role, found.instance_type, found.account, found.addresses)
    assert sum(map(bool, told)) == len(told) - (answer is None or part.endswith("s"))


def test_azure():
    with served(of_azure) as service:
        named, addresses = described(azure(service, soon()))
    assert named == {
        "provider": "azure",
        "zone": "westeurope-2",
        "instance_id": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
        "instance_type": "Standard_D2s_v3",
        "account": "8d10da13-8125-4ba9-a717-bf7490507b3d",
    }
    assert addresses == {"203.0.113.9": "10.144.133.132"}


def test_a_region_of_azure_without_zones():
    document = {"compute": AZURE_DOCUMENT["compute"] | {"zone": ""}}
    with served(lambda *request: of_azure(*request, document)) as service:
        assert azure(service, soon()).zone == "westeurope"


@pytest.mark.parametrize(
    ("answer", "provider"), [(aws_v2, "aws"), (aws_v1, "aws"), (of_google, "gcp"), (of_azure, "azure")]
)
def test_the_service_that_is_there_is_found_among_the_three(answer, provider):
    found = []
    with served(answer) as service:
        metadata = CloudMetadata(service)
        wait_until(lambda: found.append(metadata.take()) or found[-1], 60, "an answer")
    assert found[-1].provider == provider
    assert metadata.take() is None


def drip(*_):
    time.sleep(20)
    return 200, {}, "x"


HUGE = b" " * (1 << 20)
HOSTILE = {
    "all not found": lambda *_: None,
    "slow": drip,
    "huge": lambda *_: (200, {"Metadata-Flavor": "Google"}, HUGE),
    "redirecting": lambda *_: (302, {"Location": "http://127.0.0.1:1/latest"}, ""),
    "a page to log in to": lambda *_: (200, {"Content-Type": "text/html"}, "<html>log in</html>"),
    "empty": lambda *_: (200, {"Metadata-Flavor": "Google"}, "{}"),
    "other types": lambda *_: (
        200,
        {"Metadata-Flavor": "Google"},
        '{"compute": [], "availabilityZone": 7, "default": 1}',
    ),
    "deep": lambda *_: (200, {"Metadata-Flavor": "Google"}, "[" * 100_000),
    "no text": lambda *_: (200, {"Metadata-Flavor": "Google"}, b"\xff\x00\r\n"),
}


@pytest.mark.parametrize("ask", [aws, google, azure])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_service_is_an_error_in_time(name, ask):
    started = time.monotonic()
    with served(HOSTILE[name]) as service, pytest.raises((OSError, AnswerError)):
        ask(service, started + 0.5)
    assert time.monotonic() - started < 2


def test_hostile_values_are_cut_and_addresses_checked():
    compute = AZURE_DOCUMENT["compute"] | {"vmSize": "\n\ud800" + "x" * 1000}
    pairs = [{"privateIpAddress": f"10.0.{i // 256}.{i % 256}", "publicIpAddress": "203.0.113.9"} for i in range(100)]
    pairs[0] = {"privateIpAddress": "10.0.0", "publicIpAddress": None}
    document = {"compute": compute, "network": {"interface": [{"ipv4": {"ipAddress": pairs}}] * 5}}
    with served(lambda *request: of_azure(*request, document)) as service:
        found = azure(service, soon())
    assert (len(found.instance_type), found.instance_type[:3]) == (LONGEST_VALUE, " \N{REPLACEMENT CHARACTER}x")
    assert len(found.addresses) == MOST_ADDRESSES
    assert {len(pair.private) for pair in found.addresses} == {16}
    found.SerializeToString()


def test_what_is_late_is_left_out():
    given_up = threading.Event()

    def slow_after_identity(method, path, headers):
        if path.startswith("/latest/meta-data"):
            given_up.wait(60)
        return aws_v2(method, path, headers)

    with served(slow_after_identity) as service:
        found = aws(service, time.monotonic() + 2)
        given_up.set()
    assert (found.zone, found.role) == ("us-east-1d", "")


def test_nothing_is_waited_for(monkeypatch):
    monkeypatch.setattr(cloud_metadata, "TIMEOUT_S", 60)
    looked = threading.Event()

    def slow(method, path, headers):
        looked.wait(60)
        return aws_v2(method, path, headers)

    with served(slow) as service:
        started = time.monotonic()
        assert CloudMetadata(service).take() is None
        assert time.monotonic() - started < 1
        looked.set()
