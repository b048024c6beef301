"""What the kernel collector uses on a node that does everything at once, with both ends of all of it on the node.

10,000 idle sockets, 1,000 new connections/s, 5,000 HTTP requests/s with keep-alive and 2,000 DNS queries/s, of which
each has a socket of its own: CPU, memory now, and memory at most.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.collector import WARM_UP_S, load, memory
from benchmarks.conditions import conditions, usage
from benchmarks.rig import POLL_INTERVAL_S, start_collector, start_intake_sink
from benchmarks.wrk import wrk_command, wrk_figures
from tests.lab.daemons import Lab
from tests.lab.traffic import Nginx

HTTP_CONNECTIONS = 50
NAMES = 1_000
START_S = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="of the measurement")
    parser.add_argument("--sockets", type=int, default=10_000, help="idle sockets")
    parser.add_argument("--connections", type=int, default=1_000, help="new connections a second")
    parser.add_argument("--requests", type=int, default=5_000, help="HTTP requests a second")
    parser.add_argument("--queries", type=int, default=2_000, help="DNS queries a second")
    parser.add_argument("--queries-a-socket", type=int, default=1)
    arguments = parser.parse_args()
    print(f"# What the kernel collector uses\n{conditions()}; polls each {POLL_INTERVAL_S:g} s", flush=True)
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
        node, client, server = (lab.host(name) for name in ("node", "client", "server"))
        start_intake_sink(lab)
        collector = start_collector(lab, [node, client, server])
        load(lab, node, "idle", f"{arguments.sockets // 2}")
        connecting = load(lab, node, "new", f"{arguments.connections}")
        answering = (sys.executable, "-m", "benchmarks.dns_load")
        lab.programs.start("serve", *answering, "serve", server.ipv4, host=server).wait_for("serving")
        rates = map(str, (arguments.queries, NAMES, arguments.queries_a_socket))
        asking = lab.programs.start("ask", *answering, "ask", server.ipv4, *rates, host=client)
        Nginx(lab.programs, server, lab.directory / "nginx")
        seconds = arguments.seconds + round(WARM_UP_S)
        command = wrk_command(server, seconds, lab.directory, connections=HTTP_CONNECTIONS, rate=arguments.requests)
        requesting = lab.programs.start("wrk", *command, host=client)

        time.sleep(WARM_UP_S)
        before = usage(collector.pid)
        time.sleep(arguments.seconds)
        after = usage(collector.pid)
        requesting.wait(START_S)
        print(f"{arguments.sockets} idle sockets, {connecting.tail().splitlines()[-1]}")
        print(f"{wrk_figures(requesting.output())['requests/s']:.0f} HTTP requests/s")
        print(f"{asking.tail().splitlines()[-1]}, {arguments.queries_a_socket} a socket")
        used = 100 * (after.cpu_s - before.cpu_s) / arguments.seconds
        print(f"the collector: {used:.2f}% of a core, {memory(after)} MiB")


if __name__ == "__main__":
    main()
