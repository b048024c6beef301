"""What the kernel collector uses to watch the DNS: CPU and memory at a rate of queries, both ends of each.

By one socket or by a socket a query, of names that are asked again and again or of names that are all new.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from benchmarks.collector import measure
from benchmarks.conditions import conditions
from benchmarks.rig import POLL_INTERVAL_S, start_collector, start_intake_sink
from tests.lab.daemons import Lab

LOADS = (
    ("a socket for all, 1,000 names", 1_000, 1 << 30),
    ("a socket for all, new names", 1 << 30, 1 << 30),
    ("a socket for 100, 1,000 names", 1_000, 100),
    ("a socket a query, 1,000 names", 1_000, 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement")
    parser.add_argument("--rate", type=int, default=10_000, help="queries a second")
    arguments = parser.parse_args()
    print(f"# What the DNS costs\n{conditions()}; polls each {POLL_INTERVAL_S:g} s; {arguments.rate} queries/s")
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
        client, server = lab.host("client"), lab.host("server")
        start_intake_sink(lab)
        command = (sys.executable, "-m", "benchmarks.dns_load")
        lab.programs.start("serve", *command, "serve", server.ipv4, host=server).wait_for("serving")
        for title, names, per_socket in LOADS:
            collector = start_collector(lab, [client, server])
            numbers = map(str, (arguments.rate, names, per_socket))
            asking = lab.programs.start("ask", *command, "ask", server.ipv4, *numbers, host=client)
            measure(title, collector, arguments.seconds)
            print(f"{'':40} {asking.tail().splitlines()[-1]}")
            asking.kill()
            collector.stop()


if __name__ == "__main__":
    main()
