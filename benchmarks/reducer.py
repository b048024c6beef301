"""How many rows a second the reducer takes, from its gRPC server to an OTLP receiver, and what a million rows cost.

The collectors are simulated by one other process, the receiver is this one: all share the machine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from benchmarks.conditions import Usage, conditions, usage
from benchmarks.reducer_load import CONNECT_S
from benchmarks.reducer_stages import GRACE_S, POLL_S, SERIES
from intake.clock import SECOND_NS
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
                data = getattr(metric, str(metric.WhichOneof("data"))).data_points
                points += len(data)
                if metric.name == "tcp.bytes":
                    total += sum(
                        point.as_int
                        for point in data
                        if any(a.key == "aggregation" and a.value.string_value == "az_az" for a in point.attributes)
                    )
    return total, points


def last_bytes(requests: list[bytes], arrived_ns: list[int]) -> tuple[list[float], list[float], int]:
    """Return of each window how long after its end its first and last request were here, seconds, and its points."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    points: Counter[int] = Counter()
    for request, at_ns in zip(requests, arrived_ns, strict=True):
        for resource in ExportMetricsServiceRequest.FromString(request).resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                data = getattr(metric, str(metric.WhichOneof("data"))).data_points
                if any(attribute.key == "aggregation" for attribute in data[0].attributes):  # not the reducer's own
                    end_ns = data[0].time_unix_nano
                    points[end_ns] += len(data)
                    first.setdefault(end_ns, (at_ns - end_ns) / SECOND_NS)
                    last[end_ns] = (at_ns - end_ns) / SECOND_NS
    # The first has only what came after the start, and what comes after the end is sealed early.
    whole = sorted(points)[1:-2] or sorted(points)
    return [first[end] for end in whole], [last[end] for end in whole], max(points[end] for end in whole)


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

    def wait(self, timeout_s: float) -> None:
        """Wait for the load's end."""
        if self.load.wait(timeout_s):
            raise SystemExit(f"{self.load.tail()}\n{self.reducer.tail()}")

    def finish(self, timeout_s: float) -> tuple[dict[str, float], Usage, int]:
        """Wait for the load's end; return what was sent, what the reducer used, and how many points it exported.

        All bytes that were sent must have been exported, none twice.
        """
        self.wait(timeout_s)
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
        size = ["--collectors", f"{arguments.collectors}", "--rows", f"{arguments.rows}", "--seconds", f"{seconds}"]
        size += ["--requests", f"{arguments.requests}"]
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


def run_last_byte(arguments: argparse.Namespace, pairs: int) -> None:
    """Run a load of so many pairs of ends, a batch a poll, and print when a window's last byte was at the receiver."""
    level, collectors, processes = SERIES[pairs]
    arguments = argparse.Namespace(**vars(arguments) | {"collectors": collectors})
    rate = collectors * arguments.rows / POLL_S
    options = ("--processes", f"{processes}", "--rates", f"{rate}")
    with load(arguments, arguments.seconds, *options, by_node=level == "id_id") as running:
        sent, used, _ = running.finish(arguments.seconds + 300)
        first, last, points = last_bytes(running.lab.sink.requests, running.lab.sink.arrived_ns)
    print(
        f"{collectors * arguments.rows // 2:8} flows {points:8} points: "
        f"first request after {statistics.median(first):5.1f} s, last byte after {statistics.median(last):5.1f} s, "
        f"at most {max(last):5.1f} s, of {len(last)} windows; "
        f"{1e6 * (used.cpu_s - running.idle.cpu_s) / sent['rows']:.2f} CPU s a million rows",
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
    parser.add_argument(
        "--last-byte",
        type=int,
        nargs="+",
        choices=tuple(SERIES),
        metavar="PAIRS",
        help="measure the time from a window's end to its last byte instead, with as many pairs of ends",
    )
    parser.add_argument("--minutes", type=float, help="at full load, and as long again with overload, instead")
    arguments = parser.parse_args()
    # Pairs of ends need as many as they are.
    collectors = "" if arguments.last_byte else f"{arguments.collectors} collectors, "
    print(
        f"# What the reducer takes\n{conditions()}; {collectors}{arguments.rows} rows of a collector a batch, "
        f"windows of {arguments.window} s",
        flush=True,
    )
    if arguments.last_byte:
        print(f"from a window's end, of which {POLL_S + GRACE_S} s is the wait for the last poll's rows")
        for pairs in arguments.last_byte:
            run_last_byte(arguments, pairs)
        return
    if arguments.minutes:
        run_long(arguments)
        return
    print(f"rows/s of the second half of {arguments.seconds:g} s")
    for options in ((), ("--compress",)):
        run(arguments, *options)


if __name__ == "__main__":
    main()
