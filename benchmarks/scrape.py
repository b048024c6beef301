"""What it costs to give series to Prometheus: CPU time to render them in each format, and to compress that."""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.conditions import conditions
from intake.clock import SECOND_NS
from reducer.columns.cells import Bins, CellKind
from reducer.columns.series import EndTable, Level, SealedWindow
from reducer.columns.value_columns import VALUE_COLUMNS, nothing
from reducer.heap import keep_freed_memory
from reducer.http import COMPRESSION_LEVEL, compressed
from reducer.outputs.expositions import OPENMETRICS, PROTOBUF, TEXT
from reducer.outputs.prometheus import PrometheusSeries

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDS = 400
BINS_A_SERIES = 4
WINDOWS = 3
_TOLD = ("bytes", "packets", "retransmits", "srtt_sum_us", "srtt_count", "min_rtt_us", "active", "opened", "closed")


def window_of(ends: EndTable, series: int, random: np.random.Generator) -> SealedWindow:
    """Return a window in which as many pairs of workloads of Kubernetes exchanged something by TCP."""
    for number in range(ENDS):
        labels = {
            "workload.name": f"workload-{number}",
            "workload.uid": f"0f9f7b1c-3d52-4c1e-9d5b-{number:012}",
            "namespace.name": f"team-{number % 20}",
            "environment": "production",
            "availability_zone": f"eu-west-1{'abc'[number % 3]}",
            "resolution_type": "K8S_CONTAINER",
            "process.name": "java",
            "container.name": "app",
            "image_version": "1.2.3",
        }
        ends.intern(tuple(sorted(labels.items())))
    pairs = np.sort(random.choice(ENDS * ENDS, series, replace=False))
    values = {name: nothing(series) for name in VALUE_COLUMNS}
    values |= {name: random.integers(1, 100_000, series) for name in _TOLD}
    place = np.repeat(np.arange(series), BINS_A_SERIES)
    key = np.unique(place << 16 | random.integers(100, 240, len(place)))
    bins = {CellKind.TCP_RTT: Bins(key >> 16, key & 0xFFFF, random.integers(1, 100, len(key)))}
    level = Level("az_az", (pairs // ENDS).astype(np.uint32), (pairs % ENDS).astype(np.uint32), values, bins)
    return SealedWindow(0, 30 * SECOND_NS, [level], ends)


def timed(parts: Iterator[bytes]) -> tuple[int, float]:
    """Return how many bytes *parts* are, and the CPU seconds that it took to make them."""
    begin = time.process_time()
    return sum(map(len, parts)), time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=50_000, help="pairs of ends")
    arguments = parser.parse_args()
    print(f"# What a scrape costs\n{conditions()}; {arguments.series} pairs of ends, gzip at level {COMPRESSION_LEVEL}")
    random, ends = np.random.default_rng(1), EndTable()
    shown = PrometheusSeries(most_series=2 * arguments.series)
    keep_freed_memory()
    window = window_of(ends, arguments.series, random)
    for number in range(WINDOWS):
        begin = time.process_time()
        shown.observe(window)
        print(f"window {number}: {time.process_time() - begin:.2f} CPU s to add it")
    samples = len(re.findall(rb"^[^#]", b"".join(shown.render(TEXT)), re.MULTILINE))
    for exposition in (TEXT, OPENMETRICS, PROTOBUF):
        size, rendering_s = timed(shown.render(exposition))
        compressed_size, both_s = timed(compressed(shown.render(exposition)))
        print(
            f"{exposition.media_type:32} {rendering_s:.2f} CPU s, compressed {both_s:.2f}; "
            f"{size >> 20} MiB, {compressed_size >> 20} MiB compressed; {samples} samples as text"
        )


if __name__ == "__main__":
    main()
