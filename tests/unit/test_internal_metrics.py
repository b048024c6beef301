from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import time
from dataclasses import dataclass, replace

import grpc
import pytest
from ebpf_net.v1 import intake_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from reducer import internal_metrics
from reducer.internal_export import InternalMetrics, encode, prometheus_name, render
from reducer.internal_metrics import COLLECTOR_TABLE, FIGURES, SESSION_TABLE, TABLE, Snapshot
from reducer.outputs.exporter import ExportStatistics
from reducer.outputs.flow_files import FlowFileStatistics
from reducer.outputs.prometheus import PrometheusStatistics
from reducer.outputs.resource import encoded_resource
from reducer.outputs.store import StoreStatistics
from reducer.outputs.transport import GrpcTransport
from reducer.pipeline_statistics import PipelineStatistics
from reducer.sessions import IntakeCounters
from tests.otlp_sink import Answer, OtlpSink, points_of
from tests.packages import debian_program


class Connected:
    connected = True


NOW_NS = 1_700_000_000_000_000_000


@dataclass
class Collector:
    host: str
    kind: str = "COLLECTOR_KIND_KERNEL"
    clock_offset_ns: int = 0
    statistics: intake_pb2.CollectorStatistics | None = None
    about: tuple[tuple[str, str], ...] = ()
    heard_unix_ns: int = NOW_NS


def samples(text: bytes) -> dict[str, float]:
    """Return values by name, and by host or client_type where there is one."""
    return {
        "/".join(
            filter(None, (sample.name, sample.labels.get("host") or sample.labels.get("client_type")))
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("group", "record"),
    [
        ("intake", IntakeCounters),
        ("pipeline", PipelineStatistics),
        ("queue", StoreStatistics),
        ("otlp_grpc", ExportStatistics),
        ("flow_files", FlowFileStatistics),
        ("prometheus", PrometheusStatistics),
    ],
)
def test_every_field_of_a_record_is_a_metric(group: str, record: type) -> None:
    fields = record._fields if issubclass(record, tuple) else [field.name for field in dataclasses.fields(record)]
    assert sorted(metric.field for metric in TABLE if metric.group == group) == sorted(fields)


def test_every_statistic_of_collectors_is_a_metric() -> None:
    fields = {field.name for field in intake_pb2.CollectorStatistics.DESCRIPTOR.fields}
    assert {metric.field for metric in COLLECTOR_TABLE} == fields - FIGURES.keys()
    for name, (_, metrics) in FIGURES.items():
        of_figure = {field.name for field in getattr(intake_pb2.CollectorStatistics(), name).add().DESCRIPTOR.fields}
        assert {metric.field for metric in metrics} - {"ratio"} == of_figure - {"name", "measure"}


def test_figures_of_collectors() -> None:
    statistics = intake_pb2.CollectorStatistics()
    statistics.rings.add(name="tcp", size_bytes=4096, fullest_bytes=100, events_lost=2)
    statistics.maps.add(name="udp_sockets", entries=3, most_entries=10)
    statistics.programs.add(name="packet_sent", runs=5, run_time_ns=2_000_000_000)
    statistics.agreements.add(measure="tcp.segments_sent", counted=98, counted_by_kernel=100)
    statistics.agreements.add(measure="tcp.retransmits", counted=0, counted_by_kernel=0)
    text = render(Snapshot({}, [Collector("a", statistics=statistics), Collector("silent")])).decode()
    labels = 'host="a",kind="kernel"'
    for line in (
        f'ebpf_net_collector_ring_events_lost_total{{{labels},ring="tcp"}} 2',
        f'ebpf_net_collector_ring_fullest_bytes{{{labels},ring="tcp"}} 100',
        f'ebpf_net_collector_map_entries{{{labels},map="udp_sockets"}} 3',
        f'ebpf_net_collector_program_run_time_seconds_total{{{labels},program="packet_sent"}} 2.0',
        f'ebpf_net_collector_agreement_counted_by_kernel_total{{{labels},measure="tcp.segments_sent"}} 100',
        f'ebpf_net_collector_agreement_ratio{{{labels},measure="tcp.segments_sent"}} 0.98',
    ):
        assert line in text
    assert 'ratio{host="a",kind="kernel",measure="tcp.retransmits"' not in text


def test_figures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reducer.internal_metrics.MOST_FIGURES", 1900)

    def collector(number: int) -> Collector:
        statistics = intake_pb2.CollectorStatistics()
        for i in range(64):
            statistics.programs.add(name=f"program-{i}")
        return Collector(f"host-{number}", statistics=statistics)

    text = render(Snapshot({}, [collector(number) for number in range(40)])).decode()
    told = [line for line in text.splitlines() if line.startswith("ebpf_net_collector_program_runs_total{")]
    assert len(told) == 1900


def test_values() -> None:
    groups = {
        "intake": IntakeCounters(messages=5, duplicates=2),
        "queue": StoreStatistics(most_bytes=2000, bytes=1000, windows_dropped=3),
        "otlp_grpc": {
            (("client_type", "metrics"),): ExportStatistics(points_rejected=7, points_sent=5),
            (("client_type", "logs"),): ExportStatistics(points_sent=6),
        },
        "prometheus": PrometheusStatistics(4, 2, 1),
    }
    found = samples(render(Snapshot(groups, [])))
    assert (
        found.items()
        >= {
            "ebpf_net_up": 1,
            "ebpf_net_connections": 0,
            "ebpf_net_intake_messages_total": 5,
            "ebpf_net_intake_duplicates_total": 2,
            "ebpf_net_queue_bytes": 1000,
            "ebpf_net_queue_windows_dropped_total": 3,
            "ebpf_net_otlp_grpc_points_rejected_total/metrics": 7,
            "ebpf_net_otlp_grpc_metrics_sent_total/metrics": 5,
            "ebpf_net_otlp_grpc_metrics_sent_total/logs": 6,
            "ebpf_net_prometheus_series": 4,
        }.items()
    )
    assert not [name for name in found if name.startswith(("ebpf_net_pipeline", "ebpf_net_collector_"))]


def test_metrics_that_are_not_wanted_are_left_out() -> None:
    snapshot = Snapshot({}, [], NOW_NS, lambda name: name == "ebpf_net.connections")
    assert list(samples(render(snapshot))) == ["ebpf_net_connections"]
    (request,) = encode(snapshot, 1)
    assert {point.metric for point in points_of(ExportMetricsServiceRequest.FromString(request))} == {
        "ebpf_net.connections"
    }


@dataclass
class ByReason:
    ends_unknown: dict[str, int]


def test_reasons_are_an_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [metric for metric in TABLE if metric.field == "ends_unknown"]
    monkeypatch.setattr("reducer.internal_metrics.TABLE", table)
    snapshot = Snapshot({"pipeline": ByReason({"no_collector": 3, "late": 4})}, [])
    assert b'ebpf_net_pipeline_ends_unknown_total{reason="late"} 4\n' in render(snapshot)
    (request,) = encode(snapshot, 1)
    points = points_of(ExportMetricsServiceRequest.FromString(request))
    assert {point.attributes["reason"]: point.value for point in points} == {"no_collector": 3, "late": 4}
    assert render(Snapshot({"pipeline": ByReason({})}, [])) == b""


def test_collectors_are_told_apart_and_times_are_seconds() -> None:
    collectors = [
        Collector(
            "a", "COLLECTOR_KIND_KERNEL", -250_000_000, intake_pb2.CollectorStatistics(events_lost=3, cpu_time_ns=10**9)
        ),
        Collector("b", "COLLECTOR_KIND_K8S", 0, intake_pb2.CollectorStatistics(events_lost=4)),
        Collector("new", about=(("version", "1.2"), ("zone", "z"))),
    ]
    text = render(Snapshot({}, collectors, NOW_NS))
    found = samples(text)
    assert found["ebpf_net_connections"] == 3
    assert found["ebpf_net_collector_events_lost_total/a"] == 3
    assert found["ebpf_net_collector_events_lost_total/b"] == 4
    assert found["ebpf_net_clock_offset_ns/a"] == -250_000_000
    assert found["ebpf_net_collector_cpu_time_seconds_total/a"] == 1
    assert 'kind="k8s"' in text.decode()
    assert "ebpf_net_collector_events_lost_total/new" not in found
    assert 'ebpf_net_pipeline_agent_connections{host="new",kind="kernel",version="1.2",zone="z"} 1\n' in text.decode()


def test_collectors_that_are_silent_are_not_healthy() -> None:
    collectors = [Collector("a"), Collector("b", heard_unix_ns=NOW_NS - 31_000_000_000)]
    found = samples(render(Snapshot({}, collectors, NOW_NS)))
    assert (found["ebpf_net_collector_health/a"], found["ebpf_net_collector_health/b"]) == (0, 1)
    assert found["ebpf_net_time_since_last_message_ns/b"] == 31_000_000_000


def test_collectors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal_metrics, "MOST_COLLECTORS", 30)
    fleet = [Collector(f"{i}", statistics=intake_pb2.CollectorStatistics()) for i in range(40)]
    found = samples(render(Snapshot({}, fleet)))
    hosts = {key.partition("/")[2] for key in found if key.startswith("ebpf_net_collector_events")}
    assert hosts == {f"{i}" for i in range(30)}
    assert found["ebpf_net_connections"] == 40
    assert found["ebpf_net_collectors_omitted"] == 10


def test_a_host_that_is_connected_twice_has_no_series_twice() -> None:
    statistics = [intake_pb2.CollectorStatistics(events_lost=number) for number in (1, 2)]
    text = render(Snapshot({}, [Collector("a", statistics=each) for each in statistics]))
    assert text.count(b"ebpf_net_collector_events_lost_total{") == 1
    assert samples(text)["ebpf_net_collector_events_lost_total/a"] == 2
    assert samples(text)["ebpf_net_collectors_omitted"] == 1


def test_names_from_the_network_are_escaped() -> None:
    host = 'a"} 1\nfake 2\\'
    found = samples(render(Snapshot({}, [Collector(host, statistics=intake_pb2.CollectorStatistics(events_lost=1))])))
    assert found[f"ebpf_net_collector_events_lost_total/{host}"] == 1
    assert "fake" not in found


def test_each_rendering_is_of_its_time() -> None:
    counters = IntakeCounters()
    metrics = InternalMetrics(lambda: Snapshot({"intake": counters}, []))
    for number in (1, 2):
        counters.batches = number
        assert samples(asyncio.run(metrics.render()))["ebpf_net_intake_batches_total"] == number


def test_promtool_understands_it() -> None:
    groups = {"intake": IntakeCounters(), "queue": StoreStatistics(1), "otlp_grpc": ExportStatistics()}
    text = render(Snapshot(groups, [Collector("a", statistics=intake_pb2.CollectorStatistics(events_lost=3))]))
    checked = subprocess.run(
        [debian_program("usr/bin/promtool", "promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
    )
    # The two that the reference has in nanoseconds.
    odd = [line for line in checked.stderr.decode().splitlines() if "_ns " not in line]
    assert odd == []
    assert checked.stderr.count(b"\n") == 2


def test_otlp_has_the_same_points() -> None:
    collectors = [
        Collector("a", clock_offset_ns=-5, statistics=intake_pb2.CollectorStatistics(events_lost=3, cpu_time_ns=10**9)),
        Collector("b", "COLLECTOR_KIND_K8S", statistics=intake_pb2.CollectorStatistics(sockets_tracked=1 << 40)),
    ]
    snapshot = Snapshot({"intake": IntakeCounters(messages=5), "otlp": Connected()}, collectors, NOW_NS)
    (whole,) = encode(snapshot, NOW_NS - 7)
    points = points_of(ExportMetricsServiceRequest.FromString(whole))
    assert encode(replace(snapshot, wanted=lambda _: False), NOW_NS) == []
    parts = encode(snapshot, NOW_NS - 7, most_request_bytes=2000)
    assert len(parts) > 1
    assert points == [point for part in parts for point in points_of(ExportMetricsServiceRequest.FromString(part))]
    of_prometheus = samples(render(snapshot))
    assert len(points) == len(of_prometheus)
    names = {metric.name: prometheus_name(metric) for metric in (*TABLE, *SESSION_TABLE, *COLLECTOR_TABLE)}
    for point in points:
        key = "/".join(filter(None, (names[point.metric], point.attributes.get("host"))))
        assert of_prometheus[key] == point.value
        assert (point.start_ns, point.time_ns) == (NOW_NS - 7, NOW_NS)
        is_counter = key.partition("/")[0].endswith("_total")
        assert (point.kind, point.temporality, point.monotonic) == (
            ("sum", 2, True) if is_counter else ("gauge", 0, False)
        )
        assert point.resource["service.name"] == "ebpf-net-reducer"


def test_they_are_sent_while_the_receiver_is_there_and_else_left_out() -> None:
    async def main(sink: OtlpSink) -> None:
        resource = encoded_resource({"OTEL_SERVICE_NAME": "east"})
        metrics = InternalMetrics(
            lambda: Snapshot({"intake": IntakeCounters(messages=5)}, [], time.time_ns()), resource
        )
        transport = GrpcTransport(sink.grpc_endpoint)
        exporting = asyncio.create_task(metrics.export(transport, 0.01))
        await asyncio.to_thread(sink.wait, lambda sink: sink.seen >= 3)
        exporting.cancel()
        transport.close()

    with OtlpSink() as sink:
        sink.answers.append(Answer(grpc.StatusCode.INVALID_ARGUMENT))
        asyncio.run(main(sink))
        assert sink.total("ebpf_net.intake.messages") == 5 * len(sink.requests)
        assert {point.resource["service.name"] for point in sink.points()} == {"east"}
        assert len(sink.requests) == sink.seen - 1


def test_why_ends_are_unknown_is_told_by_reason() -> None:
    fields = {field.name: 0 for field in dataclasses.fields(PipelineStatistics)}
    fields |= {"ends_unknown": {"no_collector": 3, "not_then": 2}}
    text = render(Snapshot({"pipeline": PipelineStatistics(**fields)}, []))
    found = {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == "ebpf_net_pipeline_ends_unknown_total"
    }
    assert found == {"no_collector": 3, "not_then": 2}
