from __future__ import annotations

import asyncio
import dataclasses
import subprocess
from dataclasses import dataclass

import pytest
from ebpf_net.v1 import intake_pb2
from prometheus_client.parser import text_string_to_metric_families

from reducer.internal_metrics import (
    COLLECTOR_TABLE,
    FIGURES,
    MOST_COLLECTORS,
    MOST_OBSERVATIONS,
    TABLE,
    InternalMetrics,
    Snapshot,
    render,
)
from reducer.outputs.exporter import ExportStatistics
from reducer.outputs.prometheus import PrometheusStatistics
from reducer.outputs.store import StoreStatistics
from reducer.pipeline import PipelineStatistics
from reducer.sessions import IntakeCounters
from tests.packages import debian_program


@dataclass
class Collector:
    host: str
    kind: str = "COLLECTOR_KIND_KERNEL"
    clock_offset_ns: int = 0
    statistics: intake_pb2.CollectorStatistics | None = None


def samples(text: bytes) -> dict[str, float]:
    """Return values by name, and by host where there is one."""
    return {
        "/".join(filter(None, (sample.name, sample.labels.get("host")))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("group", "record"),
    [
        ("intake", IntakeCounters),
        ("pipeline", PipelineStatistics),
        ("queue", StoreStatistics),
        ("otlp", ExportStatistics),
        ("prometheus", PrometheusStatistics),
    ],
)
def test_every_field_of_a_record_is_a_metric(group: str, record: type) -> None:
    fields = record._fields if issubclass(record, tuple) else [field.name for field in dataclasses.fields(record)]
    assert sorted(metric.field for metric in TABLE if metric.group == group) == sorted(fields)


def test_every_statistic_of_collectors_is_a_metric() -> None:
    fields = {field.name for field in intake_pb2.CollectorStatistics.DESCRIPTOR.fields}
    assert {metric.field for metric in COLLECTOR_TABLE} == fields - FIGURES.keys() | {"clock_offset_ns"}
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
        f'ebpf_net_collector_ring_events_lost_total{{{labels},ring="tcp"}} 2.0',
        f'ebpf_net_collector_ring_fullest_bytes{{{labels},ring="tcp"}} 100.0',
        f'ebpf_net_collector_map_entries{{{labels},map="udp_sockets"}} 3.0',
        f'ebpf_net_collector_program_run_time_seconds_total{{{labels},program="packet_sent"}} 2.0',
        f'ebpf_net_collector_agreement_counted_by_kernel_total{{{labels},measure="tcp.segments_sent"}} 100.0',
        f'ebpf_net_collector_agreement_ratio{{{labels},measure="tcp.segments_sent"}} 0.98',
    ):
        assert line in text
    assert 'ratio{host="a",kind="kernel",measure="tcp.retransmits"' not in text


def test_figures_are_bounded() -> None:
    def collector(number: int) -> Collector:
        statistics = intake_pb2.CollectorStatistics()
        for i in range(64):
            statistics.programs.add(name=f"program-{i}")
        return Collector(f"host-{number}", statistics=statistics)

    text = render(Snapshot({}, [collector(number) for number in range(40)])).decode()
    told = [line for line in text.splitlines() if line.startswith("ebpf_net_collector_program_runs_total{")]
    assert len(told) == MOST_OBSERVATIONS
    assert "overflow" not in text


def test_values() -> None:
    groups = {
        "intake": IntakeCounters(messages=5, duplicates=2),
        "queue": StoreStatistics(most_bytes=2000, bytes=1000, windows_dropped=3),
        "otlp": ExportStatistics(points_rejected=7, connected=False),
        "prometheus": PrometheusStatistics(4, 1),
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
            "ebpf_net_otlp_points_rejected_total": 7,
            "ebpf_net_otlp_connected": 0,
            "ebpf_net_prometheus_series": 4,
        }.items()
    )
    assert not [name for name in found if name.startswith(("ebpf_net_pipeline", "ebpf_net_collector_"))]


def test_collectors_are_told_apart_and_times_are_seconds() -> None:
    collectors = [
        Collector(
            "a", "COLLECTOR_KIND_KERNEL", -250_000_000, intake_pb2.CollectorStatistics(events_lost=3, cpu_time_ns=10**9)
        ),
        Collector("b", "COLLECTOR_KIND_K8S", 0, intake_pb2.CollectorStatistics(events_lost=4)),
        Collector("said nothing yet"),
    ]
    text = render(Snapshot({}, collectors))
    found = samples(text)
    assert found["ebpf_net_connections"] == 3
    assert found["ebpf_net_collector_events_lost_total/a"] == 3
    assert found["ebpf_net_collector_events_lost_total/b"] == 4
    assert found["ebpf_net_collector_clock_offset_seconds/a"] == -0.25
    assert found["ebpf_net_collector_cpu_time_seconds_total/a"] == 1
    assert 'kind="k8s"' in text.decode()
    assert "said nothing" not in text.decode()


def test_collectors_are_bounded_now_and_over_time() -> None:
    def fleet(name: str) -> list[Collector]:
        count = MOST_COLLECTORS + 10
        return [Collector(f"{name}{i}", statistics=intake_pb2.CollectorStatistics()) for i in range(count)]

    for name in ("spring", "summer", "autumn"):
        found = samples(render(Snapshot({}, fleet(name))))
        hosts = {key.partition("/")[2] for key in found if key.startswith("ebpf_net_collector_")}
        assert hosts == {f"{name}{i}" for i in range(MOST_COLLECTORS)}
        assert found["ebpf_net_connections"] == MOST_COLLECTORS + 10
        assert found["ebpf_net_collectors_omitted"] == 10


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
    groups = {"intake": IntakeCounters(), "queue": StoreStatistics(1), "otlp": ExportStatistics()}
    text = render(Snapshot(groups, [Collector("a", statistics=intake_pb2.CollectorStatistics(events_lost=3))]))
    checked = subprocess.run(
        [debian_program("usr/bin/promtool", "promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, b"")
