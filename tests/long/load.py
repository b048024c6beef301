"""Simulated collectors, each with a real client that keeps what is not acknowledged, in a ring of connections.

Each second, or as often as it is told, every one of them tells the same rows: both ends of each connection. It ends at
SIGTERM, when the reducer has taken all, and prints as JSON what was told, each byte once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

from ebpf_net.v1 import intake_pb2

from benchmarks.reducer_load import PROCESSES, rows_of
from daemon.events import set_within
from intake.client import IntakeClient
from intake.clock import read_clocks

FINISH_S = 300
# The columns of the wire whose sums are printed.
TOLD = ("bytes_sent", "segments_sent", "srtt_count", "srtt_sum_us")


def entities() -> intake_pb2.Entities:
    """Return the processes that rows refer to."""
    names = [f"{part}-{number}" for part in ("client", "server") for number in range(PROCESSES)]
    return intake_pb2.Entities(
        processes=[intake_pb2.Process(id=number, pid=number, name=name) for number, name in enumerate(names, 1)]
    )


def client(target: str, index: int) -> IntakeClient:
    """Return the client of a collector."""
    host = intake_pb2.Host(name=f"node-{index}", zone=f"zone-{index % 3}", environment="load")
    hello = intake_pb2.Hello(kind=intake_pb2.COLLECTOR_KIND_KERNEL, version="load", host=host)
    address, _, port = target.rpartition(":")
    return IntakeClient(address, int(port), hello, lambda: [entities()])


async def tell(arguments: argparse.Namespace) -> dict[str, int]:
    """Tell rows until SIGTERM, or as often as asked for; return what was told."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    clients = [client(arguments.target, index) for index in range(arguments.collectors)]
    running = [asyncio.create_task(each.run()) for each in clients]
    tables = [
        rows_of(index, arguments.collectors, 2 * arguments.neighbours * arguments.each, arguments.neighbours)
        for index in range(arguments.collectors)
    ]
    polls = 0
    while not stopping.is_set() and polls != arguments.polls:
        now = read_clocks()
        for each, rows in zip(clients, tables, strict=True):
            each.submit(now.unix_ns, intake_pb2.Entities(), {"tcp": rows})
        polls += 1
        if polls == 1:
            sys.stderr.write("telling\n")
            sys.stderr.flush()
        await set_within(stopping, arguments.interval)
    if not all(await asyncio.gather(*(each.finish(FINISH_S) for each in clients))):
        raise SystemExit(f"the reducer has not taken all within {FINISH_S} s")
    for task in running:
        task.cancel()
    return {name: polls * sum(int(rows[name].sum()) for rows in tables) for name in TOLD}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", help="host:port of the reducer")
    parser.add_argument("--collectors", type=int, default=10)
    parser.add_argument("--neighbours", type=int, default=1, help="that each connects to")
    parser.add_argument("--each", type=int, default=PROCESSES, help="connections to each of them")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two polls")
    parser.add_argument("--polls", type=int, default=-1, help="end after as many, not at SIGTERM")
    print(json.dumps(asyncio.run(tell(parser.parse_args()))))  # noqa: T201


if __name__ == "__main__":
    main()
