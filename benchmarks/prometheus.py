"""How long Prometheus takes for a scrape of many series, by its own account, and what of that is whose.

It scrapes the page of the reducer in each format; then the same body, compressed before, from a server that has nothing
to do but send it: what remains is Prometheus' own work. Before that a client that only reads takes the page. Between
scrapes the series get another window.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from aiohttp import web

from benchmarks.conditions import conditions, usage
from benchmarks.scrape import window_of
from daemon.http import HttpServer
from reducer.columns.series import EndTable
from reducer.heap import keep_freed_memory
from reducer.http import flow_metrics_page
from reducer.outputs.expositions import OPENMETRICS, PROTOBUF, TEXT
from reducer.outputs.prometheus import PrometheusSeries
from tests.packages import debian_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.http import Page

SERVER_PORT, PROMETHEUS_PORT = 17_010, 17_090
EXPOSITIONS = {"text": TEXT, "openmetrics": OPENMETRICS, "protobuf": PROTOBUF}
WINDOW_S = 10.0


def in_format(page: Page, media_type: str) -> Page:
    """Return *page* in one format, whatever is asked for."""

    async def asked_for(request: web.Request) -> web.StreamResponse:
        headers = request.headers.copy()
        headers["Accept"] = media_type
        return await page(request.clone(headers=headers))

    return asked_for


def kept(bodies: dict[str, bytes], name: str) -> Page:
    """Return the page that sends the gzipped body *name*."""

    async def page(_request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": EXPOSITIONS[name].content_type, "Content-Encoding": "gzip"}
        return web.Response(body=bodies[name], headers=headers)

    return page


async def serve(pairs: int) -> None:
    """Serve series of so many pairs of workloads until the standard input ends."""
    keep_freed_memory()
    random, ends = np.random.default_rng(1), EndTable()
    shown = PrometheusSeries(most_series=2 * pairs)
    window = window_of(ends, pairs, random)
    shown.observe(window)
    page = flow_metrics_page(shown)
    bodies: dict[str, bytes] = {}
    pages = {f"/{name}": in_format(page, exposition.media_type) for name, exposition in EXPOSITIONS.items()}
    pages |= {f"/kept-{name}": kept(bodies, name) for name in EXPOSITIONS}
    server = HttpServer("--prom", f"127.0.0.1:{SERVER_PORT}", pages)
    await server.start()
    for name in EXPOSITIONS:
        bodies[name] = await asyncio.to_thread(body_of, name)
    print("ready", flush=True)
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        await asyncio.wait([ended], timeout=WINDOW_S)
        await asyncio.to_thread(shown.observe, window)
    await server.stop()


def body_of(name: str) -> bytes:
    """Return what the reducer answers, compressed as it is."""
    address = f"http://127.0.0.1:{SERVER_PORT}/{name}"
    with urllib.request.urlopen(urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})) as response:
        body: bytes = response.read()
        return body


@contextlib.contextmanager
def running(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program, and end it."""
    with subprocess.Popen(command, text=True, **options) as program:  # type: ignore[call-overload]
        try:
            yield program
        finally:
            program.terminate()


def read_s(path: str) -> float:
    """Return how long a client takes that does nothing but read."""
    began_s = time.perf_counter()
    body_of(path)
    return time.perf_counter() - began_s


def scrapes(path: str, count: int, interval_s: int, server_pid: int) -> str:
    """Have Prometheus scrape *path* so many times, after the first, and return what it and the server took."""
    program = debian_program("usr/bin/prometheus", "prometheus")
    reading_s = statistics.median(read_s(path) for _ in range(count))
    with tempfile.TemporaryDirectory() as directory:
        configuration = Path(directory) / "prometheus.yml"
        configuration.write_text(f"""
global: {{scrape_interval: {interval_s}s, scrape_timeout: {interval_s}s}}
scrape_configs:
  - {{job_name: reducer, metrics_path: /{path}, static_configs: [{{targets: ["127.0.0.1:{SERVER_PORT}"]}}]}}
""")
        command = [program, f"--config.file={configuration}", f"--storage.tsdb.path={directory}/data"]
        command += [f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}", "--log.level=error"]
        command += ["--enable-feature=native-histograms"] if "protobuf" in path else []
        with running(command) as prometheus:
            wait_for(1)
            before = [usage(pid).cpu_s for pid in (server_pid, prometheus.pid)]
            wait_for(1 + count)
            took = [usage(pid).cpu_s - cpu_s for pid, cpu_s in zip((server_pid, prometheus.pid), before, strict=True)]
            [first, *durations] = history("scrape_duration_seconds")
            samples = history("scrape_samples_scraped")[-1]
            of_server, of_prometheus = (each / count for each in took)
    return (
        f"{path:17} {samples:8.0f} {reading_s:7.2f} {first:7.2f} "
        f"{statistics.median(durations):7.2f} {max(durations):7.2f} {of_server:9.2f} {of_prometheus:12.2f}"
    )


def wait_for(scrapes: int) -> None:
    """Wait until Prometheus has scraped so often."""
    while len(history("scrape_duration_seconds")) < scrapes:
        time.sleep(0.2)


def history(name: str) -> list[float]:
    """Return the samples of a metric of Prometheus' own."""
    query = urllib.parse.urlencode({"query": f"{name}[1h]"})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?{query}", timeout=60) as answer:
            result = json.loads(answer.read())["data"]["result"]
    except OSError:  # it does not listen yet
        return []
    return [float(value) for _, value in result[0]["values"]] if result else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=22_000, help="of workloads; each has 24 series as text")
    parser.add_argument("--scrapes", type=int, default=3)
    parser.add_argument("--interval", type=int, default=15, help="between scrapes, seconds")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.pairs))
        return
    print(f"# What a scrape takes\n{conditions()}; {arguments.pairs} pairs of workloads; kept: sent as it was before")
    print("format             samples  read s  first s  median     max  server CPU s  Prometheus CPU s a scrape")
    command = [sys.executable, "-m", "benchmarks.prometheus", "--serve", "--pairs", f"{arguments.pairs}"]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        for name in EXPOSITIONS:
            for path in (name, f"kept-{name}"):
                print(scrapes(path, arguments.scrapes, arguments.interval, server.pid), flush=True)
        print(f"RSS of the server at most {usage(server.pid).peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
