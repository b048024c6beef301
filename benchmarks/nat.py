"""What it costs the collector to follow address translation, in CPU of one core and memory.

In a network namespace that translates a service's address to another, a program opens connections at a steady pace
(UDP: a datagram each), which the kernel forgets 5 s later. This process follows them as the collector does: it reads
events five times a second, and at each poll gives two rows a connection their endpoints, the client's and the server's.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.conditions import conditions
from intake.columns import empty_columns
from kernel_collector.columns.endpoints import ENDPOINTS, other_end
from kernel_collector.columns.structured import concatenated
from kernel_collector.nat.concern import READ_DELAY_S
from kernel_collector.nat.conntrack import Conntrack
from kernel_collector.nat.conntrack_messages import CONNECTION
from kernel_collector.nat.translations import Translations
from tests.lab.network import Network
from tests.lab.programs import Programs

if TYPE_CHECKING:
    from intake.columns import Tables

POLL_INTERVAL_S = 5.0
SERVICE, SERVER = "10.96.0.1", "127.0.0.1"
RULES = f"""table ip services {{
chain output {{ type nat hook output priority -100;
ip daddr {SERVICE} udp dport 53 dnat to {SERVER}:5353
}}
}}
"""


def open_connections(per_second: int) -> None:
    """Open connections at a steady pace, for ever."""
    begin, done = time.monotonic(), 0
    print("open: at a pace", flush=True)
    while True:
        due = int((time.monotonic() - begin) * per_second)
        for _ in range(due - done):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"x", (SERVICE, 53))
        done = due
        time.sleep(0.01)


def rows_of(connections: np.ndarray, network_namespace: int) -> Tables:
    """Return a row of each end of each connection."""
    endpoints = concatenated([connections["original"].copy(), other_end(connections["translated"])])
    rows = empty_columns(len(endpoints), "udp")
    rows["socket"] = np.arange(len(endpoints), dtype=np.uint64)
    rows["network_namespace"][:] = network_namespace
    return {"udp": rows | {name: np.ascontiguousarray(endpoints[name]) for name in ENDPOINTS.names or ()}}


def follow(conntrack: Conntrack, seconds: float) -> None:
    """Follow the connections, and print what it took."""
    translations = Translations({conntrack.inode})
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu_begin, polled = time.monotonic(), time.thread_time(), time.monotonic()
    events = rows = 0
    lookups_s = entered_s = 0.0
    waiting: list[np.ndarray] = []
    new = [np.empty(0, CONNECTION)]
    while (now := time.monotonic()) < begin + seconds:
        connections = conntrack.drain()
        waiting.append(connections)
        events += len(connections)
        new.append(connections.compress(~connections["ended"]))
        if now >= polled + POLL_INTERVAL_S:
            polled, cpu = now, time.thread_time()
            tables = rows_of(concatenated(new), conntrack.inode)
            cpu_begin += time.thread_time() - cpu  # the rows are there without it
            new = new[:1]
            cpu = time.thread_time()
            translations.update(concatenated(waiting), conntrack.inode, time.monotonic_ns())
            waiting.clear()
            entered_s += time.thread_time() - cpu
            cpu = time.thread_time()
            given = translations.translate(tables)
            assert (given["udp"]["remote_port"] != 53).all()
            translations.forget(time.monotonic_ns())
            lookups_s += time.thread_time() - cpu
            rows += len(given["udp"]["socket"])
        time.sleep(READ_DELAY_S)
    used, elapsed = time.thread_time() - cpu_begin, time.monotonic() - begin
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    print(f"{events / elapsed:.0f} events/s and {rows / elapsed:.0f} rows/s: {100 * used / elapsed:.2f}% of a core")
    read_s = used - lookups_s - entered_s
    print(
        f"{1e6 * read_s / events:.2f} us to read an event, {1e6 * entered_s / events:.2f} us to enter it, "
        f"{1e6 * lookups_s / rows:.2f} us a row"
    )
    print(f"{len(translations)} translations at the end, {grown_kib / 1024:.0f} MiB more at most")
    print(f"{conntrack.overruns} overruns, {conntrack.unread} messages not read, {translations.untracked} untracked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5_000, help="connections a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--open", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        open_connections(arguments.open)
    print(f"# What address translation costs\n{conditions()}; polls each {POLL_INTERVAL_S:g} s")
    with contextlib.closing(Network()) as network, contextlib.ExitStack() as stack:
        host = network.centre
        host.run("nft", "-f", "-", input=RULES)
        host.run("ip", "route", "add", f"{SERVICE}/32", "dev", "switch")
        host.run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=5")
        namespace = stack.enter_context(host.namespace.open())
        conntrack = stack.enter_context(Conntrack(namespace.fileno()))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        programs = stack.enter_context(contextlib.closing(Programs(directory)))
        command = (sys.executable, "-m", "benchmarks.nat", "--open", f"{arguments.rate}")
        programs.start("load", *command, host=host).wait_for("open")
        follow(conntrack, arguments.seconds)


if __name__ == "__main__":
    main()
