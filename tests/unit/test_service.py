from __future__ import annotations

import asyncio
import dataclasses
import json
import time

import polars as pl
import pytest
from ebpf_net.v1 import intake_pb2
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from daemon.errors import StartupError
from daemon.version import PROTOCOL_VERSION
from reducer.options import Settings
from reducer.service import Reducer
from reducer.session import Stream
from tests.otlp_sink import OtlpSink
from tests.rows import session_id, tcp_rows

QUIET = Settings(port=0, prometheus=None, internal_prometheus="127.0.0.1:0")
ROW = {
    "socket": 1,
    "process": 1,
    "local_address": "10.0.0.1",
    "remote_address": "10.0.0.2",
    "local_port": 40000,
    "remote_port": 80,
    "role": intake_pb2.ROLE_CONNECTOR,
    "bytes_sent": 1000,
    "bytes_received": 50,
    "opened": 1,
}


async def run(settings, rows=(ROW,)):
    """Run a reducer that takes rows, and end it in good order; return the page of its own metrics then."""
    reducer = Reducer(settings)
    try:
        await reducer.start()
        session = session_id(0)
        reducer.pipeline.hello(session, intake_pb2.Host(name="node", zone="z"))
        processes = [intake_pb2.Process(id=1, name="curl")]
        batch = intake_pb2.Batch(number=1, entities=intake_pb2.Entities(processes=processes))
        now_ns = time.time_ns()
        reducer.pipeline.next_due(now_ns)
        reducer.pipeline.take(session, 1, now_ns, batch, {"tcp": tcp_rows(*rows)})
        stopping = asyncio.Event()
        stopping.set()
        await reducer.run(stopping)
        return (await reducer._own_metrics.render()).decode()
    finally:
        await reducer.close()


def settings_for(sink, **changes):
    return dataclasses.replace(QUIET, otlp_grpc_endpoint=sink.grpc_endpoint, **changes)


@pytest.fixture
def sink():
    with OtlpSink() as sink:
        yield sink


def test_flow_logs_are_sent_besides_metrics_without_series_of_nodes(sink):
    page = asyncio.run(run(settings_for(sink, flow_logs=True)))
    assert sink.total("tcp.bytes") == 1050
    assert {point.attributes["aggregation"] for point in sink.points()} == {"az_az"}
    bodies = sorted(record.body.string_value for record in sink.log_records())
    assert [body.split()[:5] for body in bodies] == [
        ["10.0.0.1", "curl", "10.0.0.2", "(unknown)", "1000"],
        ["10.0.0.2", "(unknown)", "10.0.0.1", "curl", "50"],
    ]
    assert 'ebpf_net_otlp_grpc_metrics_sent_total{client_type="logs"} 2\n' in page


def test_of_its_own_metrics_it_gives_those_that_are_not_disabled(sink):
    page = asyncio.run(run(settings_for(sink, disable_metrics="ebpf_net.all", enable_metrics="ebpf_net.pipeline.rows")))
    assert sink.total("tcp.bytes") == 1050
    assert [line for line in page.splitlines() if line[0] != "#"] == ["ebpf_net_pipeline_rows_total 1"]


def test_metrics_and_logs_are_of_the_resource_that_the_variables_name(sink, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=east")
    asyncio.run(run(settings_for(sink, flow_logs=True)))
    assert {point.resource["service.instance.id"] for point in sink.points()} == {"east"}
    [request] = sink.log_requests
    [logs] = ExportLogsServiceRequest.FromString(request).resource_logs
    assert ("service.instance.id", "east") in [(each.key, each.value.string_value) for each in logs.resource.attributes]


def test_its_own_metrics_are_of_that_resource_as_well(sink, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=east")

    async def main():
        reducer = Reducer(settings_for(sink))
        telling = asyncio.create_task(reducer._own_metrics.export(reducer._own_transport, 0.01))
        await asyncio.to_thread(sink.wait, lambda sink: sink.requests)
        telling.cancel()
        await reducer.close()

    asyncio.run(main())
    assert {point.resource["service.instance.id"] for point in sink.points()} == {"east"}


def test_no_logs_are_sent_where_nobody_asked(sink):
    asyncio.run(run(settings_for(sink)))
    assert (len(sink.requests), sink.log_requests) == (1, [])


def test_requests_have_at_most_as_many_points_as_were_asked_for(sink):
    asyncio.run(run(settings_for(sink, otlp_batch_size=3, flow_logs=True)))
    assert len(sink.points()) > 3 * (len(sink.requests) - 1)
    assert len(sink.requests) > 1


def test_flows_are_written_to_files(tmp_path):
    path, directory = tmp_path / "flows.jsonl", tmp_path / "parquet"
    settings = dataclasses.replace(QUIET, flow_logs_file=path, parquet_directory=str(directory))
    page = asyncio.run(run(settings))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["bytes"] for line in lines) == [50, 1000]
    table = pl.read_parquet(directory / "**/*.parquet")
    assert sorted(table["bytes"].to_list()) == [50, 1000]
    assert f'ebpf_net_flow_files_flows_written_total{{place="{path}"}} 2\n' in page
    assert f'ebpf_net_flow_files_flows_written_total{{place="{directory}"}} 2\n' in page


def test_a_directory_that_fails_costs_nothing_else(sink, tmp_path, caplog):
    settings = settings_for(sink, parquet_directory=str(tmp_path / "parquet"), flow_logs_file=tmp_path / "flows")
    reducer_run = run(settings)

    async def main():
        running = asyncio.ensure_future(reducer_run)
        await asyncio.sleep(0)
        (tmp_path / "parquet").rmdir()
        (tmp_path / "parquet").touch()  # no directory any more
        return await running

    asyncio.run(main())
    assert sink.total("tcp.bytes") == 1050
    assert len((tmp_path / "flows").read_text().splitlines()) == 2
    assert f"1 windows of flows could not be written to {tmp_path / 'parquet'} and are lost" in caplog.text


def test_what_was_safe_at_the_end_is_safe_when_it_starts_again(sink, tmp_path):
    settings = settings_for(sink, data_directory=tmp_path)
    asyncio.run(run(settings))
    hello = intake_pb2.Hello(
        protocol_version=PROTOCOL_VERSION, kind=intake_pb2.COLLECTOR_KIND_KERNEL, session_id=session_id(0)
    )

    async def main():
        reducer = Reducer(settings)
        try:
            message = intake_pb2.FromCollector(hello=hello).SerializeToString()
            return reducer._sessions.received(Stream(lambda: None), message, time.time_ns())
        finally:
            await reducer.close()

    assert asyncio.run(main()).welcome.acknowledged == 1


def test_a_protocol_that_is_not_in_use_is_warned_of_once(sink, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    asyncio.run(run(settings_for(sink, flow_logs=True)))
    assert caplog.text.count("OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'") == 1


def test_flow_logs_need_a_receiver():
    with pytest.raises(StartupError, match="--enable-flow-logs needs --enable-otlp-grpc-metrics or"):
        asyncio.run(run(dataclasses.replace(QUIET, flow_logs=True)))


def test_series_are_within_the_limit(sink):
    rows = [ROW | {"socket": number, "remote_address": f"10.0.1.{number}"} for number in range(1, 100)]
    page = asyncio.run(run(settings_for(sink, enable_id_id=True, series_limit=10), rows))
    by_node = [p for p in sink.points() if p.metric == "tcp.bytes" and p.attributes["aggregation"] == "id_id"]
    assert 0 < len(by_node) <= 10
    assert sum(point.value for point in by_node) == 99 * 1050
    assert "\nebpf_net_pipeline_series_rolled_up_total 19" in page


def exported_metrics(sink):
    """Return the names of the metrics that were sent, the reducer's own left out, with their temporalities."""
    return {(point.metric, point.temporality) for point in sink.points() if not point.metric.startswith("ebpf_net.")}


def test_metrics_are_those_chosen_by_the_names_chosen(sink):
    asyncio.run(run(settings_for(sink, disable_metrics="tcp.all", enable_metrics="tcp.bytes", metric_names="otel")))
    assert exported_metrics(sink) == {("network.flow.io", 1)}


def test_totals_are_sent_where_they_are_asked_for(sink):
    asyncio.run(run(settings_for(sink, disable_metrics="tcp.all", enable_metrics="tcp.bytes", otlp_cumulative=True)))
    assert exported_metrics(sink) == {("tcp.bytes", 2)}
