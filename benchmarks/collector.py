"""What the kernel collector itself uses: CPU and memory with idle sockets, with new connections, and a connection."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.conditions import Usage, conditions, usage
from benchmarks.rig import POLL_INTERVAL_S, start_collector, start_intake_sink
from tests.lab.daemons import Lab
from tests.lab.traffic import Nginx, Wrk

if TYPE_CHECKING:
    from tests.lab.network import Host
    from tests.lab.programs import Program

WARM_UP_S = 2 * POLL_INTERVAL_S


def measure(title: str, collector: Program, seconds: float) -> float:
    """Print what the collector uses in *seconds*; return its CPU seconds."""
    time.sleep(WARM_UP_S)
    before = usage(collector.pid)
    time.sleep(seconds)
    after = usage(collector.pid)
    used = after.cpu_s - before.cpu_s
    print(f"{title:40} {100 * used / seconds:6.2f}% of a core, {memory(after)}")
    return used


def memory(used: Usage) -> str:
    """Return resident memory as text."""
    return f"RSS {used.resident_mib:.0f} MiB, at most {used.peak_mib:.0f}"


def load(lab: Lab, host: Host, *arguments: str) -> Program:
    """Start a load of connections over loopback."""
    program = lab.programs.start("load", sys.executable, "-m", "benchmarks.connections", *arguments, host=host)
    program.wait_for("open", timeout_s=60)
    return program


def many_connections(lab: Lab, client: Host, server: Host, requests: int) -> None:
    """Print the collector's CPU a connection, its start left out, at as many connections/s as wrk and nginx give."""
    collector = start_collector(lab, [client, server])
    nginx = Nginx(lab.programs, server, lab.directory / "nginx")
    time.sleep(WARM_UP_S)
    before, begin = usage(collector.pid), time.monotonic()
    Wrk(lab.programs, nginx, client, requests=requests, connections=64).finish(600)
    seconds = time.monotonic() - begin
    time.sleep(WARM_UP_S)
    after = usage(collector.pid)
    used = after.cpu_s - before.cpu_s
    print(
        f"{f'{requests} connections, {requests / seconds:.0f}/s, both ends':40} {1e6 * used / requests:6.1f} us of CPU "
        f"a connection, {memory(after)}"
    )
    collector.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement")
    parser.add_argument("--sockets", type=int, default=10_000, help="idle sockets")
    parser.add_argument("--rate", type=int, default=1_000, help="new connections a second")
    parser.add_argument("--requests", type=int, default=200_000, help="connections at full speed")
    arguments = parser.parse_args()
    print(f"# What the kernel collector uses\n{conditions()}; polls each {POLL_INTERVAL_S:g} s")
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
        host, client, server = (lab.host(name) for name in ("node", "client", "server"))
        start_intake_sink(lab)

        collector = start_collector(lab, [host])
        measure("no socket", collector, arguments.seconds)
        idle = load(lab, host, "idle", f"{arguments.sockets // 2}")
        measure(f"{arguments.sockets} idle sockets", collector, arguments.seconds)
        busy = load(lab, host, "new", f"{arguments.rate}")
        used = measure(f"and {arguments.rate} new connections/s", collector, arguments.seconds)
        print(f"{'':40} {1e6 * used / arguments.seconds / arguments.rate:6.1f} us of CPU a connection, all included")
        for program in (busy, idle, collector):
            program.stop()
        many_connections(lab, client, server, arguments.requests)


if __name__ == "__main__":
    main()
