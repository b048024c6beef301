"""How many rows a second the reducer takes, from its gRPC server to an OTLP receiver, and what a million rows cost.

The collectors are simulated by one other process, the receiver is this one: all share the machine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from benchmarks.conditions import conditions, usage
from benchmarks.reducer_load import CONNECT_S
from tests.lab.daemons import INTAKE_PORT, INTERNAL_PORT, OTLP_PORT, Lab, script


def exported_bytes(requests: list[bytes]) -> tuple[int, int]:
    """Return the sum of tcp.bytes at level az_az, and how many points there are of all metrics."""
    total = points = 0
    for request in set(requests):  # one that was answered too late came again, the same
        for resource in ExportMetricsServiceRequest.FromString(request).resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                data = getattr(metric, metric.WhichOneof("data")).data_points
                points += len(data)
                if metric.name == "tcp.bytes":
                    total += sum(
                        point.as_int
                        for point in data
                        if any(a.key == "aggregation" and a.value.string_value == "az_az" for a in point.attributes)
                    )
    return total, points


def rows_taken(lab: Lab) -> float:
    """Return how many rows the reducer says it took."""
    page = lab.centre.get(f"http://127.0.0.1:{INTERNAL_PORT}/metrics", timeout_s=30)
    return float(page.split("\nebpf_net_pipeline_rows_total ")[1].split("\n")[0])


def run(collectors: int, rows: int, seconds: float, window: int, *options: str) -> None:
    """Run one load, and print what it gave."""
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
        reducer = lab.programs.start(
            "reducer",
            *(script("reducer"), "--port", f"{INTAKE_PORT}", "--window", f"{window}", "--enable-id-id"),
            *("--enable-otlp-grpc-metrics", "--otlp-grpc-metrics-host", "127.0.0.1"),
            *("--otlp-grpc-metrics-port", f"{OTLP_PORT}", "--log-console", "--no-log-file"),
            host=lab.centre,
        )
        lab.wait_until_ready(reducer)
        idle = usage(reducer.pid)
        size = ("--collectors", f"{collectors}", "--rows", f"{rows}", "--seconds", f"{seconds}")
        command = (sys.executable, "-m", "benchmarks.reducer_load", f"127.0.0.1:{INTAKE_PORT}", *size, *options)
        load = lab.programs.start("load", *command, host=lab.centre)
        time.sleep(CONNECT_S + seconds / 2)
        before, begin = rows_taken(lab), time.monotonic()
        time.sleep(max(0.0, seconds / 2 - 1))
        rows_per_second = (rows_taken(lab) - before) / (time.monotonic() - begin)
        if load.wait(seconds + 300):
            raise SystemExit(f"{load.tail()}\n{reducer.tail()}")
        sent = json.loads(load.output())
        used = usage(reducer.pid)
        lab.finish(reducer)
        total, points = exported_bytes(lab.sink.requests)
        if total != sent["bytes"]:
            raise SystemExit(f"sent {sent['bytes']} bytes, exported {total}\n{reducer.tail()}")
    print(
        f"{' '.join(options) or 'plain':8} {rows_per_second:10.0f} rows/s, "
        f"{1e6 * (used.cpu_s - idle.cpu_s) / sent['rows']:6.2f} CPU s a million rows, "
        f"RSS at most {used.peak_mib:.0f} MiB (idle {idle.resident_mib:.0f}); "
        f"{sent['message_bytes'] / rows:.0f} bytes a row before compression; {points} points, totals exact"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collectors", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=1_000, help="of a collector in a batch")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--window", type=int, default=10)
    arguments = parser.parse_args()
    print(
        f"# What the reducer takes\n{conditions()}; {arguments.collectors} collectors, {arguments.rows} rows a batch, "
        f"windows of {arguments.window} s; rows/s of the second half of {arguments.seconds:g} s"
    )
    for options in ((), ("--compress",)):
        run(arguments.collectors, arguments.rows, arguments.seconds, arguments.window, *options)


if __name__ == "__main__":
    main()
