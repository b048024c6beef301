from __future__ import annotations

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

from daemon.errors import StartupError
from daemon.version import VERSION
from reducer.outputs.resource import encoded_resource

OWN = {"service.name": "ebpf-net-reducer", "service.version": VERSION}


def told(**variables: str) -> dict[str, str]:
    resource = ResourceMetrics.FromString(encoded_resource(variables)).resource
    return {each.key: each.value.string_value for each in resource.attributes}


def test_the_reducer_says_what_it_is() -> None:
    assert told() == OWN


@pytest.mark.parametrize(
    ("variables", "more"),
    [
        ({"OTEL_RESOURCE_ATTRIBUTES": ""}, {}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=a, deployment.environment.name = prod ,"},
            {"service.instance.id": "a", "deployment.environment.name": "prod"},
        ),
        ({"OTEL_RESOURCE_ATTRIBUTES": "list=a%2Cb%3Dc,empty="}, {"list": "a,b=c", "empty": ""}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=net,service.version=2"},
            {"service.name": "net", "service.version": "2"},
        ),
        ({"OTEL_SERVICE_NAME": "first", "OTEL_RESOURCE_ATTRIBUTES": "service.name=second"}, {"service.name": "first"}),
        ({"OTEL_SERVICE_NAME": " ", "OTEL_RESOURCE_ATTRIBUTES": "service.name=second"}, {"service.name": "second"}),
    ],
)
def test_variables_say_more_of_it(variables: dict[str, str], more: dict[str, str]) -> None:
    assert told(**variables) == OWN | more


@pytest.mark.parametrize("value", ["a=1,b", "=1", "a=1,=2", "\udcff=1"])
def test_what_is_no_attribute_is_refused(value: str) -> None:
    with pytest.raises(StartupError, match="OTEL_RESOURCE_ATTRIBUTES must be NAME=VALUE"):
        told(OTEL_RESOURCE_ATTRIBUTES=value)
