"""Real receivers get the metrics and answer for the right sums."""

from __future__ import annotations

import json
import re
import signal
import urllib.parse
from typing import TYPE_CHECKING

from tests.lab.daemons import INTERNAL_PORT, PROMETHEUS_PORT
from tests.lab.network import wait_for_listener
from tests.lab.otelcol import otelcol
from tests.lab.transfer import Transfer
from tests.lab.waiting import wait_until
from tests.packages import ROOT, debian_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.daemons import Lab
    from tests.lab.network import Host

SIZE = 100 << 20
VICTORIA_PORT = 8428
PROMETHEUS_UI_PORT = 9090
OTELCOL_PROMETHEUS_PORT = 8889


def promql(host: Host, port: int, query: str) -> float:
    """Return the one number that an instant query gives, 0 if there is nothing."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    result = json.loads(host.get(url))["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def run_transfer(transfer: Transfer) -> int:
    """Run a transfer to its end and return the payload bytes of its client, control connection included."""
    transfer.watch()
    transfer.begin(SIZE, "200M")  # some windows
    transfer.wait()
    sent, _ = transfer.sent(transfer.client)
    assert sent > SIZE
    return sent


def test_victoria_metrics_by_otlp_over_http(lab: Lab) -> None:
    # Older releases leave out sums that are not cumulative.
    victoria = debian_program("usr/bin/victoria-metrics", "victoria-metrics", release="sid")
    options = (
        f"-httpListenAddr=127.0.0.1:{VICTORIA_PORT}",
        f"-storageDataPath={lab.directory}/victoria",
        "-search.latencyOffset=0s",  # else it does not tell of the last 30 s
    )
    lab.programs.start("victoria", victoria, *options, host=lab.centre)
    wait_for_listener(lab.centre, VICTORIA_PORT)
    transfer = Transfer(lab)
    endpoint = f"http://127.0.0.1:{VICTORIA_PORT}/opentelemetry/v1/metrics"
    transfer.reducer = lab.start_reducer(
        "--enable-otlp-http-metrics", env={"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": endpoint}
    )
    sent = run_transfer(transfer)
    lab.finish(transfer.reducer, *transfer.collectors)
    lab.centre.get(f"http://127.0.0.1:{VICTORIA_PORT}/internal/force_flush")
    ends = f'source\\.ip="{transfer.client.ipv4}",dest\\.ip="{transfer.server.ipv4}"'
    query = f'sum(sum_over_time({{__name__="tcp.bytes",aggregation="id_id",{ends}}}[1h]))'
    wait_until(lambda: promql(lab.centre, VICTORIA_PORT, query) == sent, 60, f"{sent} bytes at VictoriaMetrics")


def test_opentelemetry_collector_with_the_configuration_for_development(lab: Lab) -> None:
    lab.stop_sink()  # it has the port
    points, records = lab.directory / "points.jsonl", lab.directory / "records.jsonl"
    to_file = f"""
exporters: {{file: {{path: {points}}}, file/logs: {{path: {records}}}}}
service: {{pipelines: {{metrics: {{exporters: [debug, prometheus, file]}}, logs: {{exporters: [debug, file/logs]}}}}}}
"""
    addition = lab.directory / "to-file.yaml"
    addition.write_text(to_file)
    configuration = ROOT / "dev" / "otel" / "otel-config.yaml"
    collector = lab.programs.start(
        "otelcol", otelcol(), "--config", str(configuration), "--config", str(addition), host=lab.centre
    )
    collector.wait_for("Everything is ready", timeout_s=60)
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink("--enable-flow-logs")
    sent = run_transfer(transfer)
    lab.finish(transfer.reducer, *transfer.collectors)

    page = lab.centre.get(f"http://127.0.0.1:{OTELCOL_PROMETHEUS_PORT}/metrics")
    assert bytes_on_page(page, transfer.client, transfer.server) == sent
    assert collector.stop(signal.SIGTERM) == 0
    assert "tcp.bytes" in collector.output()
    assert sum_of_bytes(points, transfer.client, transfer.server) == sent
    assert sums_of_flow_logs(records, transfer.client, transfer.server) == (sent, sent)


def bytes_on_page(page: str, source: Host, dest: Host) -> float:
    """Return the bytes from one host to another on a page for Prometheus."""
    wanted = {"aggregation": "id_id", "source_ip": source.ipv4, "dest_ip": dest.ipv4}
    return sum(
        float(value)
        for labels, value in re.findall(r"^tcp_bytes_total{(.*)} (\S+)", page, re.MULTILINE)
        if wanted.items() <= dict(re.findall(r'(\w+)="([^"]*)"', labels)).items()
    )


def sum_of_bytes(path: Path, source: Host, dest: Host) -> int:
    """Return the tcp.bytes from one host to another in a file of the Collector's file exporter."""
    wanted = {"source.ip": source.ipv4, "dest.ip": dest.ipv4, "aggregation": "id_id"}
    total = 0
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceMetrics"]:
            metrics = [metric for scope in resource["scopeMetrics"] for metric in scope["metrics"]]
            for point in (p for m in metrics if m["name"] == "tcp.bytes" for p in m["sum"]["dataPoints"]):
                attributes = {item["key"]: item["value"]["stringValue"] for item in point["attributes"]}
                total += int(point["asInt"]) if wanted.items() <= attributes.items() else 0
    return total


def sums_of_flow_logs(path: Path, source: Host, dest: Host) -> tuple[int, int]:
    """Return the bytes from one host to another in flow logs: by their attributes, and by their bodies."""
    by_attribute = by_body = 0
    for line in path.read_text().splitlines():
        resources = json.loads(line)["resourceLogs"]
        records = [
            record for resource in resources for scope in resource["scopeLogs"] for record in scope["logRecords"]
        ]
        for record in records:
            values = {item["key"]: next(iter(item["value"].values())) for item in record["attributes"]}
            if (values["source.ip"], values["dest.ip"]) == (source.ipv4, dest.ipv4):
                by_attribute += int(values.get("tcp.bytes", 0))
                by_body += int(record["body"]["stringValue"].split(" ")[4])
    return by_attribute, by_body


def test_prometheus_by_scraping(lab: Lab) -> None:
    prometheus = debian_program("usr/bin/prometheus", "prometheus")
    configuration = lab.directory / "prometheus.yml"
    targets = [f"127.0.0.1:{PROMETHEUS_PORT}", f"127.0.0.1:{INTERNAL_PORT}"]
    configuration.write_text(f"""
global: {{scrape_interval: 1s}}
scrape_configs: [{{job_name: ebpf-net, static_configs: [{{targets: {targets}}}]}}]
""")
    lab.programs.start(
        "prometheus",
        prometheus,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={lab.directory}/prometheus",
        f"--web.listen-address=127.0.0.1:{PROMETHEUS_UI_PORT}",
        host=lab.centre,
    )
    wait_for_listener(lab.centre, PROMETHEUS_UI_PORT)
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer()
    sent = run_transfer(transfer)
    ends = f'source_ip="{transfer.client.ipv4}",dest_ip="{transfer.server.ipv4}"'
    query = f'sum(tcp_bytes_total{{aggregation="id_id",source_process_name="iperf3",{ends}}})'
    wait_until(lambda: promql(lab.centre, PROMETHEUS_UI_PORT, query) == sent, 60, f"{sent} bytes at Prometheus")
    wait_until(lambda: promql(lab.centre, PROMETHEUS_UI_PORT, "sum(up)") == 2, 60, "both endpoints to be scraped")

    # It stays the sum, however often it is asked, until something more is sent.
    for _ in range(3):
        page = lab.centre.get(f"http://127.0.0.1:{PROMETHEUS_PORT}/metrics")
        assert bytes_on_page(page, transfer.client, transfer.server) == sent
    lab.finish(transfer.reducer, *transfer.collectors)
