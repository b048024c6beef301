"""Many collectors in one process, that send the same rows, encoded once, again and again.

They send as fast as they are taken, or at rates; what they could not send in time they send afterwards, with the times
at which it was due.

Each collector's sockets are connected to those of its neighbours in a ring, and both ends of each connection are told
of. Prints, as JSON, the rows sent, the payload bytes in them (each counted once), and how long it took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass

import grpc
import numpy as np
from ebpf_net.v1 import intake_pb2

from daemon.version import PROTOCOL_VERSION
from intake.columns import Columns, empty_columns
from intake.compression import compress
from intake.wire import CLIENT_OPTIONS, METHOD, SERVICE
from tests.rows import packed_rows

NEIGHBOURS = 10
PROCESSES = 2
FIRST_CLIENT_PORT = 20_000
FIRST_SERVER_PORT = 8_000
CONNECT_S = 5.0
# How often a collector looks whether a batch is due.
_LOOK_S = 0.2
_Call = grpc.aio.StreamStreamCall[bytes, intake_pb2.FromReducer]


@dataclass
class Collector:
    """A simulated collector: `tables` is a message with its rows, to which number and time of a batch are prepended."""

    hello: bytes
    snapshot: bytes
    tables: bytes
    rows: int
    bytes_sent: int
    compresses: bool
    sent: int = 0
    last: int = 0


@dataclass(frozen=True)
class Times:
    """When sending begins and ends, seconds of the monotonic clock, and how much is due when.

    Attributes:
        begin: of all.
        end: of all.
        seconds: since the beginning, at which the rate changes; empty where all is sent as fast as it is taken.
        rounds: how many batches of each collector are due then.

    """

    begin: float
    end: float
    seconds: tuple[float, ...] = ()
    rounds: tuple[float, ...] = ()

    def due(self, share: float) -> int:
        """Return how many batches are due of a collector that is a *share* of a batch ahead of the first."""
        return int(np.interp(time.monotonic() - self.begin, self.seconds, self.rounds) + share)

    def due_unix_ns(self, number: int) -> int:
        """Return when a batch was due."""
        ago_s = time.monotonic() - self.begin - float(np.interp(number, self.rounds, self.seconds))
        return time.time_ns() - int(1e9 * max(0.0, ago_s))


def times_of(begin: float, seconds: float, rates: list[float], rows: int) -> Times:
    """Return the times of sending: at *rates* one after the other, rows a second, as long each; *rows* in a round."""
    if not rates:
        return Times(begin, begin + seconds)
    each = seconds / len(rates)
    rounds = np.cumsum([0.0, *(rate * each / rows for rate in rates)])
    return Times(begin, begin + seconds, tuple(each * n for n in range(len(rates) + 1)), tuple(rounds.tolist()))


def rows_of(
    index: int, collectors: int, rows: int, neighbours: int = NEIGHBOURS, processes: int = PROCESSES
) -> Columns:
    """Return the table of one collector: half of its sockets connect to its neighbours, half accept from as many."""
    each = rows // (2 * neighbours)
    hop, number = (grid.ravel() for grid in np.meshgrid(np.arange(1, neighbours + 1), np.arange(each), indexing="ij"))
    kind = number % processes
    columns = empty_columns(2 * len(hop))
    for half, role in enumerate((intake_pb2.ROLE_CONNECTOR, intake_pb2.ROLE_ACCEPTOR)):
        part = slice(half * len(hop), (half + 1) * len(hop))
        connector = np.full_like(hop, index) if not half else (index - hop) % collectors
        client_port, server_port = FIRST_CLIENT_PORT + hop * each + number, FIRST_SERVER_PORT + kind
        there, back = 1_000 + connector * 7 + client_port, 50_000 + connector * 11 + client_port
        peer = (index + hop) % collectors if not half else connector
        columns["process"][part] = 1 + kind + half * processes
        columns["local_address"][part] = _addresses(np.full_like(hop, index))
        columns["remote_address"][part] = _addresses(peer)
        columns["local_port"][part] = server_port if half else client_port
        columns["remote_port"][part] = client_port if half else server_port
        columns["role"][part] = role
        columns["bytes_sent"][part] = back if half else there
        columns["bytes_received"][part] = there if half else back
        columns["segments_sent"][part] = columns["segments_received"][part] = 40
        columns["srtt_sum_us"][part] = 300 + number
        columns["srtt_count"][part] = 1
        columns["min_rtt_us"][part] = 200
    columns["socket"] = (1 + np.arange(len(columns["socket"]))).astype("<u8")
    columns["network_namespace"][:] = 4026531840
    return columns


def requests_of(columns: Columns, share: float) -> dict[str, Columns]:
    """Return the rows of DNS and HTTP, with their latencies, of a *share* of the sockets in *columns*, on both ends."""
    # A connection is told of by the row at the same place in the other half.
    half = len(columns["socket"]) // 2
    some = np.flatnonzero(np.arange(2 * half) % half < share * half)
    shared = {name: columns[name][some] for name in (*_SOCKET, "role")}
    count = len(some)
    dns, http, bins = (empty_columns(count, table) | shared for table in ("dns", "http", "bins"))
    for table, names in ((dns, ("queries", "noerror")), (http, ("requests", "status_2xx"))):
        for name in (*names, "latency_count"):
            table[name] += 3
        table["latency_sum_us"] += 900
    dns["transport"] += np.uint8(6)
    bins["transport"] += np.uint8(6)
    bins["kind"] += np.uint8(intake_pb2.BIN_KIND_HTTP_LATENCY)
    bins["bin"] += np.uint16(140)
    bins["count"] += np.uint32(3)
    return {"dns": dns, "http": http, "bins": bins}


_SOCKET = (
    *("socket", "process", "network_namespace", "local_address", "remote_address", "local_port", "remote_port"),
    "cgroup",
)


def _addresses(index: np.ndarray) -> np.ndarray:
    """Return 10.0.0.0/8 addresses, IPv4 in IPv6."""
    address = np.zeros((len(index), 16), "u1")
    address[:, 10:12] = 0xFF
    address[:, 12] = 10
    address[:, 13], address[:, 14], address[:, 15] = index >> 16, index >> 8 & 0xFF, index & 0xFF
    return address.view("V16").ravel()


def simulated(
    index: int, collectors: int, rows: int, *, compresses: bool, processes: int = PROCESSES, requests: float = 0.0
) -> Collector:
    """Return a collector with its messages encoded."""
    columns = rows_of(index, collectors, rows, processes=processes)
    tables = {"tcp": columns, **(requests_of(columns, requests) if requests else {})}
    host = intake_pb2.Host(name=f"node-{index}", zone=f"zone-{index % 3}", environment="load")
    hello = intake_pb2.Hello(
        protocol_version=PROTOCOL_VERSION,
        kind=intake_pb2.COLLECTOR_KIND_KERNEL,
        version="load",
        session_id=os.urandom(16),
        time_unix_ns=time.time_ns(),
        host=host,
    )
    names = [f"{part}-{number}" for part in ("client", "server") for number in range(processes)]
    named = [intake_pb2.Process(id=number, pid=number, name=name) for number, name in enumerate(names, 1)]
    snapshot = intake_pb2.Snapshot(entities=intake_pb2.Entities(processes=named))
    batch = intake_pb2.Batch()
    for table, rows_of_table in tables.items():
        getattr(batch, table).CopyFrom(packed_rows(table, rows_of_table))
    return Collector(
        intake_pb2.FromCollector(hello=hello).SerializeToString(),
        intake_pb2.FromCollector(snapshot=snapshot).SerializeToString(),
        intake_pb2.FromCollector(batch=batch).SerializeToString(),
        sum(len(table["socket"]) for table in tables.values()),
        int(columns["bytes_sent"].sum()),
        compresses,
    )


async def send(
    target: str, collector: Collector, everyone: list[Collector], ended: asyncio.Barrier, times: Times
) -> None:
    """Send batches from one time to the other, on a connection of its own; wait until all are acknowledged.

    Both ends of a connection have told the same in the end: everyone sends as many batches as the fastest.
    """
    async with grpc.aio.insecure_channel(target, CLIENT_OPTIONS) as channel:
        connect: grpc.aio.StreamStreamMultiCallable[bytes, intake_pb2.FromReducer] = channel.stream_stream(
            f"/{SERVICE}/{METHOD}", response_deserializer=intake_pb2.FromReducer.FromString
        )
        call = connect()
        await call.write(collector.hello)
        reader = asyncio.create_task(_read(call, collector))
        await call.write(collector.snapshot)
        await asyncio.sleep(times.begin - time.monotonic())
        await _send_what_is_due(call, collector, everyone, times)
        await ended.wait()
        most = max(each.sent for each in everyone)
        await ended.wait()
        while collector.sent < most:
            await _send_batch(call, collector)
        # The last batch is acknowledged after all others; it alone tells the reader to end.
        collector.last = collector.sent + 1
        await _send_batch(call, collector)
        await reader


def numbered(collector: Collector, time_unix_ns: int) -> bytes:
    """Return the next batch of a collector."""
    collector.sent += 1
    # Two messages one after the other are, by the rules of protobuf, one message with the fields of both.
    head = intake_pb2.Batch(number=collector.sent, time_unix_ns=time_unix_ns)
    return intake_pb2.FromCollector(batch=head).SerializeToString() + collector.tables


async def _send_what_is_due(call: _Call, collector: Collector, everyone: list[Collector], times: Times) -> None:
    share = everyone.index(collector) / len(everyone)
    while True:
        over = time.monotonic() >= times.end
        if times.rounds and collector.sent < times.due(share):
            await _send_batch(call, collector, times.due_unix_ns(collector.sent))
        elif over:
            return
        elif times.rounds:
            await asyncio.sleep(_LOOK_S)
        else:
            await _send_batch(call, collector)


async def _send_batch(call: _Call, collector: Collector, time_unix_ns: int | None = None) -> None:
    message = numbered(collector, time_unix_ns or time.time_ns())
    await call.write(compress(message) if collector.compresses else message)


async def _read(call: _Call, collector: Collector) -> None:
    async for message in call:
        if message.HasField("refusal"):
            raise RuntimeError(message.refusal.reason)
        if message.HasField("ack") and message.ack.number == collector.last:
            return
    raise RuntimeError(f"the reducer ended the stream: {await call.details()}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="host:port of the reducer")
    parser.add_argument("--collectors", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True, help="of a collector in a batch")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--requests", type=float, default=0.0, help="rows of DNS, HTTP and bins for each row of TCP")
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[], help="rows a second, one after the other, as long each"
    )
    parser.add_argument("--processes", type=int, default=PROCESSES, help="of a collector on each side")
    parser.add_argument("--compress", action="store_true", help="as collectors do")
    arguments = parser.parse_args()
    collectors = [
        simulated(
            index,
            arguments.collectors,
            arguments.rows,
            compresses=arguments.compress,
            processes=arguments.processes,
            requests=arguments.requests,
        )
        for index in range(arguments.collectors)
    ]
    begin = time.monotonic() + CONNECT_S
    times = times_of(begin, arguments.seconds, arguments.rates, sum(collector.rows for collector in collectors))
    ended = asyncio.Barrier(len(collectors))
    async with asyncio.TaskGroup() as tasks:
        for collector in collectors:
            tasks.create_task(send(arguments.target, collector, collectors, ended, times))
    print(
        json.dumps(
            {
                "batches": statistics.mean(collector.sent for collector in collectors),
                "rows": sum(collector.sent * collector.rows for collector in collectors),
                "bytes": sum(collector.sent * collector.bytes_sent for collector in collectors),
                "message_bytes": statistics.mean(len(collector.tables) for collector in collectors),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
