"""What real receivers make of the reducer's output, for as long as it is told.

    python -m tests.long.receivers scrape --minutes 10
    python -m tests.long.receivers series --series 1000000
    python -m tests.long.receivers outages --minutes 10

`scrape`: Prometheus scrapes under load; no scrape fails, nothing is in its log, `promtool check metrics` is silent, the
sums are those of the load. `series`: an OpenTelemetry Collector gets the OTLP of a window with so many series, and
VictoriaMetrics with cumulative temporality; both have the sums of the load. `outages`: the receiver refuses
connections, is unavailable, asks for pauses, and then is slow; the totals are exact, in memory and, killed in between,
with a data directory, over gRPC and over HTTP. Needs root; each has network namespaces of its own, so they can run side
by side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData

from tests.lab.daemons import INTERNAL_PORT, OTLP_PORT, PROMETHEUS_PORT, Lab
from tests.lab.network import wait_for_listener
from tests.lab.otelcol import otelcol
from tests.lab.waiting import wait_until
from tests.long.outages import outages
from tests.long.rig import LEVELS, WINDOW_S, complaints, end_load, own_metric, start_load, start_reducer, told_by
from tests.packages import debian_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from tests.lab.programs import Program

PROMETHEUS_UI_PORT = 9090
VICTORIA_PORT = 8428
HTTP_PORT = 4318
_NATIVE = ("--enable-feature=native-histograms",)
# Series a pair of hosts and processes, both ways, has in the load: what `series` is asked for is that many at least.
_SERIES_A_DIRECTION = 8


def promql(lab: Lab, port: int, query: str) -> dict[tuple[str, ...], float]:
    """Return the numbers that an instant query gives, by the values of their labels."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    result = json.loads(lab.centre.get(url, 60))["data"]["result"]
    return {tuple(each["metric"].values()): float(each["value"][1]) for each in result}


def scrape(lab: Lab, seconds: float, collectors: int = 100, *, native: bool = False) -> str:
    """Have Prometheus scrape the reducer under load for *seconds*; *native*: by protobuf, with native histograms."""
    prometheus = debian_program("usr/bin/prometheus", "prometheus")
    promtool = debian_program("usr/bin/promtool", "prometheus")
    interval_s = min(15.0, seconds / 2.5)
    configuration = lab.directory / "prometheus.yml"
    targets = [f"127.0.0.1:{PROMETHEUS_PORT}", f"127.0.0.1:{INTERNAL_PORT}"]
    configuration.write_text(f"""
global: {{scrape_interval: {round(1000 * interval_s)}ms, scrape_timeout: {round(1000 * min(interval_s, 10))}ms}}
scrape_configs:
  - {{job_name: reducer, static_configs: [{{targets: {targets}}}]}}
  - {{job_name: prometheus, static_configs: [{{targets: ["127.0.0.1:{PROMETHEUS_UI_PORT}"]}}]}}
""")
    reducer = start_reducer(lab, "--enable-percentile-latencies")
    server = lab.programs.start(
        "prometheus",
        *(prometheus, f"--config.file={configuration}", f"--storage.tsdb.path={lab.directory}/prometheus"),
        *(f"--web.listen-address=127.0.0.1:{PROMETHEUS_UI_PORT}", *(_NATIVE if native else ())),
        host=lab.centre,
    )
    wait_for_listener(lab.centre, PROMETHEUS_UI_PORT)
    load = start_load(lab, "--collectors", f"{collectors}", "--neighbours", "10")
    time.sleep(seconds)
    told = end_load(load)
    names = {
        "bytes_sent": "tcp_bytes_total",
        "segments_sent": "tcp_packets_total",
        "srtt_count": "tcp_rtt_seconds_count",
    }

    def sums(name: str) -> dict[tuple[str, ...], float]:
        found = promql(lab, PROMETHEUS_UI_PORT, f"sum by (aggregation) ({names[name]})")
        if native and name == "srtt_count":
            assert not found, "there are buckets beside the native histograms"
            return promql(lab, PROMETHEUS_UI_PORT, "sum by (aggregation) (histogram_count(tcp_rtt_seconds))")
        return found

    for name in names:
        expected = {(level,): told[name] for level in LEVELS}
        with contextlib.suppress(AssertionError):
            wait_until(lambda: sums(name) == expected, 3 * WINDOW_S + 2 * interval_s, name)  # noqa: B023
        assert sums(name) == expected, f"{name} should be {expected}, is {sums(name)}"
    pages = [lab.centre.get(f"http://{target}/metrics", 60) for target in targets]
    for page in pages:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=page, text=True, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), checked
    over = f"[{round(seconds + 60)}s]"
    scrapes = promql(lab, PROMETHEUS_UI_PORT, f'sum(count_over_time(up{{job="reducer"}}{over}))')[()]
    failed = scrapes - promql(lab, PROMETHEUS_UI_PORT, f'sum(sum_over_time(up{{job="reducer"}}{over}))')[()]
    refused = promql(lab, PROMETHEUS_UI_PORT, 'sum({__name__=~"prometheus_target_scrapes_.*_total"})')
    assert scrapes >= 2 * (seconds / interval_s - 2), scrapes
    assert (failed, refused[()]) == (0, 0)
    slowest = promql(lab, PROMETHEUS_UI_PORT, f'max(max_over_time(scrape_duration_seconds{{job="reducer"}}{over}))')[()]
    assert not complaints(server), complaints(server)
    assert not complaints(reducer), complaints(reducer)
    lab.finish(reducer)
    samples = len(re.findall("^[^#]", pages[0], re.MULTILINE))
    size = f"{samples} samples, {len(pages[0]) >> 10} KiB of text"
    return f"{scrapes:.0f} scrapes, the slowest with Prometheus' own work {slowest:.2f} s; {size}"


def exported(lab: Lab) -> float:
    """Return how many points were sent, once nothing waits any more; 0 while something does."""
    page = lab.centre.get(f"http://127.0.0.1:{INTERNAL_PORT}/metrics", 60)
    sent = re.findall(r"^ebpf_net_otlp_grpc_metrics_sent_total{.*} (\S+)", page, re.MULTILINE)
    return 0 if own_metric(page, "queue_requests") else sum(map(float, sent))


def load_of(series: int) -> tuple[str, ...]:
    """Return the options of a load that makes *series* at the level id_id, in one poll."""
    collectors = max(3, min(200, series // 400))
    neighbours = min(collectors - 1, max(1, round(series / (_SERIES_A_DIRECTION * 4 * collectors))))
    return ("--collectors", f"{collectors}", "--neighbours", f"{neighbours}", "--polls", "1", "--interval", "0")


def export(lab: Lab, reducer: Program, series: int) -> tuple[Program, float]:
    """Have so many series told and exported, and end the reducer; return the load, and the seconds that it took."""
    begin = time.monotonic()
    load = start_load(lab, *load_of(series))
    assert load.wait(300) == 0, load.tail()
    wait_until(lambda: exported(lab) >= series, 300, f"the points of {series} series to be exported")
    lab.finish(reducer)
    return load, time.monotonic() - begin


def series_at_collector(lab: Lab, series: int) -> str:
    """Have an OpenTelemetry Collector get a window with so many series."""
    lab.stop_sink()  # it has the port
    output = lab.directory / "metrics.proto"
    configuration = lab.directory / "otelcol.yaml"
    configuration.write_text(f"""
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{OTLP_PORT}"}}}}}}}}
exporters: {{file: {{path: {output}, format: proto}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{metrics: {{receivers: [otlp], exporters: [file]}}}}
""")
    collector = lab.programs.start("otelcol", otelcol(), "--config", str(configuration), host=lab.centre)
    collector.wait_for("Everything is ready", timeout_s=60)
    options = ("--series-limit", "10000000", "--disable-prometheus-metrics", "--enable-otlp-grpc-metrics")
    reducer = start_reducer(lab, *options, "--otlp-grpc-metrics-host", "127.0.0.1", window_s=10)
    load, seconds = export(lab, reducer, series)
    assert collector.stop(signal.SIGTERM, 120) == 0, collector.tail()
    told, points, sums = told_by(load), 0, Counter()
    for metrics in delimited(output, MetricsData):
        for name, level, value in values(metrics):
            points += 1
            sums[name, level] += value
    for level in LEVELS:
        assert sums["tcp.bytes", level] == told["bytes_sent"], (sums, told)
        assert sums["tcp.packets", level] == told["segments_sent"], (sums, told)
        assert sums["tcp.rtt", level] == told["srtt_count"], (sums, told)
    assert points >= series, points
    assert not complaints(reducer), complaints(reducer)
    assert not complaints(collector), complaints(collector)
    return f"{points} points in {output.stat().st_size >> 20} MiB, {seconds:.0f} s from the first row to the last byte"


def values(metrics: MetricsData) -> Iterator[tuple[str, str, int]]:
    """Yield the name, the level and the value of each point of flows: of a histogram its count, of a gauge 0."""
    for resource in metrics.resource_metrics:
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            kind = metric.WhichOneof("data")
            for point in getattr(metric, kind).data_points:
                level = {each.value.string_value for each in point.attributes if each.key == "aggregation"}
                value = {"sum": "as_int", "exponential_histogram": "count"}.get(kind)
                if level:
                    yield metric.name, level.pop(), getattr(point, value) if value else 0


def delimited(path: Path, message: type[Message]) -> Iterator[Message]:
    """Yield the messages of a file, each after its length in four bytes."""
    with path.open("rb") as file:
        while length := file.read(4):
            yield message.FromString(file.read(int.from_bytes(length, "big")))


def series_at_victoria(lab: Lab, series: int) -> str:
    """Have VictoriaMetrics get a window with so many series, and the one after it, with cumulative temporality."""
    victoria = debian_program("usr/bin/victoria-metrics", "victoria-metrics", release="sid")
    options = (
        *(f"-httpListenAddr=127.0.0.1:{VICTORIA_PORT}", f"-storageDataPath={lab.directory}/victoria"),
        *(
            "-search.latencyOffset=0s",
            "-search.maxUniqueTimeseries=10000000",
            "-opentelemetry.usePrometheusNaming=false",
        ),
        "-search.maxQueryDuration=120s",
    )
    receiver = lab.programs.start("victoria", victoria, *options, host=lab.centre)
    wait_for_listener(lab.centre, VICTORIA_PORT)
    reducer = start_reducer(
        lab,
        *("--series-limit", "10000000", "--disable-prometheus-metrics", "--enable-otlp-http-metrics"),
        window_s=max(5, min(60, series // 15_000)),  # it gets all series in each window
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"http://127.0.0.1:{VICTORIA_PORT}/opentelemetry/v1/metrics",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="cumulative",
    )
    load, seconds = export(lab, reducer, series)
    told = told_by(load)
    lab.centre.get(f"http://127.0.0.1:{VICTORIA_PORT}/internal/force_flush", 60)
    for name, metric in {
        "bytes_sent": "tcp.bytes",
        "segments_sent": "tcp.packets",
        "srtt_count": "tcp.rtt_count",
    }.items():
        query = f'sum(last_over_time({{__name__="{metric}"}}[1h])) by (aggregation)'
        assert promql(lab, VICTORIA_PORT, query) == {(level,): told[name] for level in LEVELS}, (name, told)
    known = json.loads(lab.centre.get(f"http://127.0.0.1:{VICTORIA_PORT}/api/v1/series/count", 60))["data"][0]
    assert known >= series, known
    assert not complaints(reducer), complaints(reducer)
    assert not complaints(receiver), complaints(receiver)
    return f"{known} series, {seconds:.0f} s from the first row to the last byte"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scrape", "series", "outages"], nargs="+")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--series", type=int, default=1_000_000)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    runs: dict[str, list[tuple[str, Callable[[Lab], str]]]] = {
        "scrape": [
            ("Prometheus", lambda lab: scrape(lab, seconds)),
            ("Prometheus with native histograms", lambda lab: scrape(lab, seconds, native=True)),
        ],
        "series": [
            ("OpenTelemetry Collector", lambda lab: series_at_collector(lab, arguments.series)),
            ("VictoriaMetrics", lambda lab: series_at_victoria(lab, arguments.series)),
        ],
        "outages": [
            ("gRPC, in memory", lambda lab: outages(lab, seconds, http=False, durable=False)),
            ("HTTP, on disk, killed", lambda lab: outages(lab, seconds, http=True, durable=True)),
        ],
    }
    for what in arguments.what:
        for name, run in runs[what]:
            with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
                try:
                    result = run(lab)
                except BaseException:
                    for program in lab.programs.started:
                        sys.stderr.write(f"--- {program}\n{program.tail()}\n")
                    raise
                print(f"{what}: {name}: {result}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
