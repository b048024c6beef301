from pathlib import Path

import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from reducer.columns.cells import CellKind
from reducer.columns.series import EndTable
from reducer.outputs.conventions import CONVENTIONS, OTEL, OTEL_METRICS, REFERENCE, schema
from reducer.outputs.metrics import METRICS
from reducer.outputs.otlp import OtlpEncoder
from reducer.outputs.prometheus import PrometheusSeries
from tests.otlp_sink import points_of
from tests.windows import sealed_window

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
POD = {
    "workload.name": "cart",
    "workload.uid": "u1",
    "namespace.name": "shop",
    "pod": "cart-7d9",
    "id": "node-1",
    "ip": "10.1.0.7",
    "availability_zone": "a",
    "resolution_type": "K8S_CONTAINER",
}
HOST = {
    "workload.name": "postgres",
    "id": "db-1",
    "ip": "10.2.0.1",
    "availability_zone": "b",
    "environment": "prod",
    "resolution_type": "PROCESS",
}
NEIGHBOUR = HOST | {"availability_zone": "a"}
TOLD = {"bytes": 5, "udp_bytes": 7, "failed_refused": 1, (CellKind.DNS_CLIENT, 200): 1, (CellKind.HTTP_STATUS, 404): 2}


def window():
    return sealed_window(EndTable(), {"id_id": [(POD, HOST, TOLD), (POD, NEIGHBOUR, {"bytes": 1})]})


def test_reference_changes_nothing():
    assert REFERENCE.metrics(METRICS) == METRICS
    labels = tuple(sorted(POD.items()))
    assert dict(REFERENCE.dest_attributes(labels)) == {f"dest.{name}": value for name, value in POD.items()}


def test_otel_in_otlp():
    (request,) = OtlpEncoder(METRICS, conventions=OTEL).encode(window())
    message = ExportMetricsServiceRequest.FromString(request.body)
    assert {scope.schema_url for resource in message.resource_metrics for scope in resource.scope_metrics} == {
        OTEL.schema_url
    }
    points = points_of(message)
    io = [p for p in points if p.metric == "network.flow.io"]
    assert [(p.attributes["network.transport"], p.value) for p in io] == [("tcp", 5), ("tcp", 1), ("udp", 7)]
    attributes = {name: value for name, value in io[0].attributes.items() if name != "network.flow.inter_zone"}
    assert attributes == {
        "source.name": "cart",
        "source.k8s.owner.name": "cart",
        "source.k8s.owner.uid": "u1",
        "source.k8s.namespace.name": "shop",
        "source.k8s.pod.name": "cart-7d9",
        "source.k8s.node.name": "node-1",
        "source.address": "10.1.0.7",
        "source.cloud.availability_zone": "a",
        "source.resolution_type": "K8S_CONTAINER",
        "destination.name": "postgres",
        "destination.host.name": "db-1",
        "destination.address": "10.2.0.1",
        "destination.cloud.availability_zone": "b",
        "destination.deployment.environment.name": "prod",
        "destination.resolution_type": "PROCESS",
        "aggregation": "id_id",
        "network.transport": "tcp",
    }
    zones = [
        item.value.bool_value
        for metric in message.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.sum.data_points
        for item in point.attributes
        if item.key == "network.flow.inter_zone" and metric.name == "network.flow.io"
    ]
    assert zones == [True, False, True]
    by_name = {p.metric: p for p in points}
    assert by_name["network.flow.tcp.failed_connects"].attributes["error.type"] == "refused"
    assert by_name["network.flow.http.responses"].attributes["http.response.status_code"] == "404"
    assert by_name["dns.lookup.duration"].attributes["destination.name"] == "postgres"


def test_otel_in_prometheus():
    series = PrometheusSeries(METRICS, conventions=OTEL)
    series.observe(window())
    families = {f.name: f for f in text_string_to_metric_families(b"".join(series.render()).decode())}
    found = {
        (s.labels["network_transport"], s.labels["network_flow_inter_zone"], s.labels["destination_name"]): s.value
        for s in families["network_flow_io_bytes"].samples
    }
    assert found == {("tcp", "true", "postgres"): 5, ("tcp", "false", "postgres"): 1, ("udp", "true", "postgres"): 7}
    assert "tcp_bytes" not in families


@pytest.mark.parametrize("name", CONVENTIONS)
def test_names_are_unique_and_describe_one_thing(name):
    metrics = CONVENTIONS[name].metrics(METRICS)
    assert len({metric.prometheus_name for metric in metrics}) == len(metrics)
    merged = [metric for metric in METRICS if OTEL_METRICS.get(metric.name, ("", ""))[1]]
    for new in {OTEL_METRICS[metric.name][0] for metric in merged}:
        parts = {(m.unit, m.instrument, m.number) for m in merged if OTEL_METRICS[m.name][0] == new}
        assert len(parts) == 1


@pytest.mark.parametrize("name", CONVENTIONS)
def test_each_schema_is_a_file_that_says_its_own_url(name):
    told = yaml.safe_load((SCHEMAS / f"{CONVENTIONS[name].schema}.yaml").read_text())
    assert told["schema_url"] == CONVENTIONS[name].schema_url
    assert CONVENTIONS[name].schema in told["versions"]


def test_schema_says_how_names_of_the_reference_become_those_of_otel():
    """A published schema never changes: where this fails, a new version is needed."""
    assert (SCHEMAS / f"{OTEL.schema}.yaml").read_text() == schema(METRICS)
    (names, attributes) = yaml.safe_load(schema(METRICS))["versions"][OTEL.schema]["metrics"]["changes"]
    assert names["rename_metrics"]["tcp.rtt"] == "network.flow.tcp.rtt"
    assert "tcp.bytes" not in names["rename_metrics"]
    assert attributes["rename_attributes"]["attribute_map"]["dest.ip"] == "destination.address"
