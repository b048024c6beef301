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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from benchmarks.conditions import Usage, conditions, usage
from benchmarks.reducer_load import CONNECT_S
from tests.lab.daemons import INTAKE_PORT, INTERNAL_PORT, OTLP_PORT, Lab, script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.programs import Program

# How often memory is looked at.
_LOOK_S = 5.0


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


@dataclass
class Load:
    """A reducer with a load on it."""

    lab: Lab
    reducer: Program
    load: Program
    idle: Usage

    def finish(self, timeout_s: float) -> tuple[dict[str, float], Usage, int]:
        """Wait for the load's end; return what was sent, what the reducer used, and how many points it exported.

        All bytes that were sent must have been exported, none twice.
        """
        if self.load.wait(timeout_s):
            raise SystemExit(f"{self.load.tail()}\n{self.reducer.tail()}")
        sent = json.loads(self.load.output())
        used = usage(self.reducer.pid)
        self.lab.finish(self.reducer)
        total, points = exported_bytes(self.lab.sink.requests)
        if total != sent["bytes"]:
            raise SystemExit(f"sent {sent['bytes']} bytes, exported {total}\n{self.reducer.tail()}")
        return sent, used, points


@contextlib.contextmanager
def load(arguments: argparse.Namespace, seconds: float, *options: str, by_node: bool) -> Iterator[Load]:
    """Start a reducer, and a load of so many seconds."""
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
        reducer = lab.programs.start(
            "reducer",
            *(script("reducer"), "--port", f"{INTAKE_PORT}", "--window", f"{arguments.window}"),
            *(("--enable-id-id",) if by_node else ()),
            *("--enable-otlp-grpc-metrics", "--otlp-grpc-metrics-host", "127.0.0.1"),
            *("--otlp-grpc-metrics-port", f"{OTLP_PORT}", "--log-console", "--no-log-file"),
            host=lab.centre,
        )
        lab.wait_until_ready(reducer)
        idle = usage(reducer.pid)
        size = ("--collectors", f"{arguments.collectors}", "--rows", f"{arguments.rows}", "--seconds", f"{seconds}")
        size += ("--requests", f"{arguments.requests}")
        command = (sys.executable, "-m", "benchmarks.reducer_load", f"127.0.0.1:{INTAKE_PORT}", *size, *options)
        yield Load(lab, reducer, lab.programs.start("load", *command, host=lab.centre), idle)


def run(arguments: argparse.Namespace, *options: str) -> None:
    """Run one load, and print what it gave."""
    seconds = arguments.seconds
    with load(arguments, seconds, *options, by_node=True) as running:
        time.sleep(CONNECT_S + seconds / 2)
        before, begin = rows_taken(running.lab), time.monotonic()
        time.sleep(max(0.0, seconds / 2 - 1))
        rows_per_second = (rows_taken(running.lab) - before) / (time.monotonic() - begin)
        sent, used, points = running.finish(seconds + 300)
    print(
        f"{' '.join(options) or 'plain':8} {rows_per_second:10.0f} rows/s, "
        f"{1e6 * (used.cpu_s - running.idle.cpu_s) / sent['rows']:6.2f} CPU s a million rows, "
        f"RSS at most {used.peak_mib:.0f} MiB (idle {running.idle.resident_mib:.0f}); "
        f"{sent['message_bytes'] * arguments.collectors * sent['batches'] / sent['rows']:.0f} bytes a row "
        f"before compression; {points} points, totals exact",
        flush=True,
    )


def run_long(arguments: argparse.Namespace) -> None:
    """Run at full load, then at twice of that followed by half of it, and print how memory and rows went."""
    seconds = 60 * arguments.minutes
    with load(arguments, seconds, by_node=False) as running:
        taken, resident = watched(running, seconds)
        running.finish(seconds + 300)
    settled = resident[len(resident) // 4 :]
    print(
        f"full load  {taken:10.0f} rows/s for {arguments.minutes:g} min; RSS after a quarter {settled[0]:.0f} MiB, "
        f"from there on {min(settled):.0f}-{max(settled):.0f}, at the end {settled[-1]:.0f}; totals exact",
        flush=True,
    )
    rates = ("--rates", f"{2 * taken:.0f}", f"{taken / 2:.0f}", f"{taken / 2:.0f}")
    with load(arguments, seconds, *rates, by_node=False) as running:
        overloaded, at_first = watched(running, seconds / 3)
        _, afterwards = watched(running, 2 * seconds / 3)
        sent, used, _ = running.finish(seconds + 300)
    print(
        f"twice      {overloaded:10.0f} rows/s of {2 * taken:.0f} for {seconds / 3:.0f} s, then half the load; "
        f"RSS {at_first[-1]:.0f} MiB at the end of overload, {afterwards[-1]:.0f} at the end, "
        f"at most {used.peak_mib:.0f}; {sent['rows']:.0f} rows, totals exact",
        flush=True,
    )


def watched(running: Load, seconds: float) -> tuple[float, list[float]]:
    """Return rows/s, and what the reducer's memory was, MiB, every few seconds for so long."""
    resident, begin = [], time.monotonic()
    before = rows_taken(running.lab)
    while (elapsed := time.monotonic() - begin) < seconds:
        time.sleep(min(_LOOK_S, seconds - elapsed))
        resident.append(usage(running.reducer.pid).resident_mib)
    return (rows_taken(running.lab) - before) / (time.monotonic() - begin), resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collectors", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=1_000, help="of TCP, of a collector in a batch")
    parser.add_argument("--requests", type=float, default=0.0, help="rows of DNS, HTTP and bins for each row of TCP")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--minutes", type=float, help="at full load, and as long again with overload, instead")
    arguments = parser.parse_args()
    print(
        f"# What the reducer takes\n{conditions()}; {arguments.collectors} collectors, {arguments.rows} rows a batch, "
        f"windows of {arguments.window} s",
        flush=True,
    )
    if arguments.minutes:
        run_long(arguments)
        return
    print(f"rows/s of the second half of {arguments.seconds:g} s")
    for options in ((), ("--compress",)):
        run(arguments, *options)


if __name__ == "__main__":
    main()
