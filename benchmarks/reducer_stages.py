"""What each stage of the reducer costs, without gRPC: CPU seconds a million rows, points a second, bytes a flow.

One process a run, so that memory is that run's. Curves of flows and of series stop where memory does: ten million
flows need about 16 GiB, and are run only if they are asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from benchmarks.conditions import conditions, forget_peak, usage
from benchmarks.reducer_load import NEIGHBOURS, Collector, numbered, simulated
from intake.clock import SECOND_NS
from reducer.heap import keep_freed_memory
from reducer.outputs.otlp import OtlpEncoder
from reducer.outputs.prometheus import PrometheusSeries
from reducer.pipeline import Pipeline
from reducer.session import Stream
from reducer.sessions import ReducerSessions

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WINDOW_S, POLL_S, GRACE_S = 10, 5, 1
BEGIN_NS = 1_000_000 * SECOND_NS
FLOWS = (10_000, 100_000, 1_000_000)
# Series, about, by level, collectors and processes of a collector on each side.
SERIES = {
    100: ("az_az", 100, 5),
    1_000: ("az_az", 100, 50),
    10_000: ("id_id", 50, 10),
    100_000: ("id_id", 500, 10),
    1_000_000: ("id_id", 1_000, 50),
}
ROWS = 1_000  # of a collector in a batch
MOST_FLOWS, MOST_SERIES = 1 << 24, 1 << 21


@dataclass(frozen=True)
class Run:
    """A load: every collector sends as many equal batches in each window."""

    levels: tuple[str, ...] = ("az_az", "id_id")
    collectors: int = 1_000
    rows: int = ROWS
    processes: int = 2
    batches: int = 1
    windows: int = 3
    requests: float = 0.0


def measured(run: Run) -> dict[str, float]:
    """Return what the last window of a run cost."""
    delay_ns, window_ns = (POLL_S + GRACE_S) * SECOND_NS, WINDOW_S * SECOND_NS
    pipeline = Pipeline(
        window_ns,
        GRACE_S * SECOND_NS,
        POLL_S * SECOND_NS,
        run.levels,
        most_flows=MOST_FLOWS,
        most_series=MOST_SERIES,
    )
    sessions = ReducerSessions(pipeline, window_ns, POLL_S * SECOND_NS)
    pipeline.next_due(BEGIN_NS)
    encoder, prometheus = OtlpEncoder(), PrometheusSeries(most_series=MOST_SERIES)
    streams = [_connected(sessions, run, index) for index in range(run.collectors)]
    rows = sum(collector.rows for collector, _ in streams) * run.batches
    idle = usage("self")
    most_mib = rise_mib = 0.0
    for window in range(run.windows):
        begin_ns = BEGIN_NS + window * window_ns
        take_s = sum(_receive(sessions, streams, begin_ns + batch) for batch in range(run.batches))
        before = usage("self")
        forget_peak()
        sealed, seal_s = _timed(pipeline.seal, begin_ns + window_ns + delay_ns)
        assert sealed is not None
        rise_mib = max(rise_mib, usage("self").peak_mib - before.resident_mib)
        most_mib = max(most_mib, before.peak_mib)
        requests, encode_s = _timed(encoder.encode, sealed)
        points = sum(request.points for request in requests)
        del requests
    used = usage("self")
    assert sealed is not None
    prometheus.observe(sealed)
    scraped, scrape_s = _timed(lambda: sum(len(part) for part in prometheus.render()))
    flows = pipeline._matcher.flows  # noqa: SLF001 - what it takes is nobody else's business
    return {
        "rows": rows,
        "flows": len(flows),
        "series": sum(len(level.source) for level in sealed.levels),
        "take": 1e6 * take_s / rows,
        "seal": 1e6 * seal_s / rows,
        "encode": 1e6 * encode_s / rows,
        "points": points,
        "points_per_second": points / encode_s,
        "scrape_s": scrape_s,
        "scrape_mib": scraped / (1 << 20),
        "resident": (used.resident_mib - idle.resident_mib) * (1 << 20) / len(flows),
        "most": (max(most_mib, used.peak_mib) - idle.resident_mib) * (1 << 20) / len(flows),
        "rise": rise_mib * (1 << 20) / len(flows),
        "table": flows.bytes_per_flow(),
    }


def _connected(sessions: ReducerSessions, run: Run, index: int) -> tuple[Collector, Stream]:
    collector = simulated(
        index, run.collectors, run.rows, processes=run.processes, requests=run.requests, compresses=False
    )
    stream = Stream(lambda: None)
    for message in (collector.hello, collector.snapshot):
        sessions.received(stream, message, BEGIN_NS)
    return collector, stream


def _receive(sessions: ReducerSessions, streams: list[tuple[Collector, Stream]], at_ns: int) -> float:
    """Let each collector send a batch; return the CPU seconds that it takes to take them."""
    messages = [(stream, numbered(collector, at_ns)) for collector, stream in streams]
    _, took_s = _timed(lambda: [sessions.received(stream, message, at_ns) for stream, message in messages])
    return took_s


def _timed(do: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """Return what *do* returns, and the CPU seconds, of all threads, that it takes."""
    began = time.process_time()
    returned = do(*arguments)
    return returned, time.process_time() - began


def in_process_of_its_own(run: Run) -> dict[str, float]:
    """Return what `measured` does, in a new process."""
    command = (sys.executable, "-m", "benchmarks.reducer_stages", "--one", json.dumps(asdict(run)))
    measured_there: dict[str, float] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    return measured_there


def tell(run: Run) -> None:
    """Run it, and print a line."""
    told = in_process_of_its_own(run)
    total = sum(told[stage] for stage in ("take", "seal", "encode"))
    print(
        f"{told['rows']:9} {told['flows']:8} {told['series']:8} {told['take']:6.2f} {told['seal']:6.2f} "
        f"{told['encode']:7.2f} {total:6.2f} {told['points']:9} {told['points_per_second'] / 1e6:9.2f} "
        f"{told['scrape_s']:7.2f} {told['resident']:9.0f} {told['most']:7.0f} {told['rise']:8.0f} {told['table']:6.0f}",
        flush=True,
    )


def of_flows(flows: int, batches: int, requests: float) -> Run:
    """Return a run with as many flows."""
    collectors = max(2 * NEIGHBOURS, min(1_000, 2 * flows // ROWS))
    return Run(collectors=collectors, rows=2 * flows // collectors, batches=batches, requests=requests)


def of_series(series: int) -> Run:
    """Return a run with about as many series."""
    level, collectors, processes = SERIES[series]
    return Run(levels=(level,), collectors=collectors, processes=processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, nargs="*", default=FLOWS)
    parser.add_argument("--series", type=int, nargs="*", default=tuple(SERIES), choices=tuple(SERIES))
    parser.add_argument("--batches", type=int, default=6, help="of a collector in a window, as many as polls")
    parser.add_argument("--requests", type=float, default=0.0, help="rows of DNS and of HTTP, for each row of TCP")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        keep_freed_memory()
        run = json.loads(arguments.one)
        print(json.dumps(measured(Run(**run | {"levels": tuple(run["levels"])}))))
        return
    print(f"# What the stages of the reducer cost\n{conditions()}; CPU seconds a million rows")
    print(
        "     rows    flows   series   take   seal  encode    all    points M points/s  scrape "
        "RSS/flow at most  sealing  table"
    )
    for flows in arguments.flows:
        tell(of_flows(flows, arguments.batches, arguments.requests))
    for series in arguments.series:
        tell(of_series(series))


if __name__ == "__main__":
    main()
