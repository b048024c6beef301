"""What the encoder otlp_log costs: rows to compressed requests, in one process, and what that takes of memory."""

from __future__ import annotations

import resource
import time

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import empty_columns
from kernel_collector.otlp_log.records import LogRecords

ROWS = (100, 1_000, 10_000)
ROUNDS = 10
PROCESSES = 50


def main() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    processes = [
        intake_pb2.Process(id=i, pid=1000 + i, name=f"program-{i}", command_line="program --option value")
        for i in range(1, PROCESSES + 1)
    ]
    records = LogRecords(intake_pb2.Host(name="node"), b"\1" * 16)
    list(records.encode(1, intake_pb2.Entities(processes=processes), {}, None))
    for rows in ROWS:
        columns = sockets(rows)
        best, size = float("inf"), 0
        for _ in range(ROUNDS):
            started = time.process_time()
            requests = list(records.encode(time.time_ns(), intake_pb2.Entities(), {"tcp": columns}, None))
            best = min(best, time.process_time() - started)
            size = sum(len(request.body) for request in requests)
        print(
            f"{rows:6} rows: {best * 1e3:6.1f} ms, {best / rows * 1e6:5.1f} us a row, "
            f"{size / rows:5.0f} bytes a row compressed, {len(requests)} requests"
        )
    print(f"most memory: {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.1f} MiB more")


def sockets(count: int) -> dict[str, np.ndarray]:
    """Return rows of busy sockets, each with a peer and numbers of its own."""
    random = np.random.default_rng(1)
    columns = empty_columns(count)
    addresses = np.zeros((count, 16), np.uint8)
    addresses[:, 10:12] = 0xFF
    addresses[:, 12:] = random.integers(1, 255, (count, 4))
    columns["remote_address"] = addresses.view("V16")[:, 0]
    addresses = addresses.copy()
    addresses[:, 12:] = (10, 0, 0, 1)
    columns["local_address"] = addresses.view("V16")[:, 0]
    columns["socket"][:] = np.arange(1 << 20, (1 << 20) + count)
    columns["process"][:] = random.integers(1, PROCESSES + 1, count)
    columns["local_port"][:] = 443
    columns["remote_port"][:] = random.integers(1024, 65536, count)
    columns["role"][:] = 2
    for name in ("bytes_sent", "bytes_received", "segments_sent", "segments_received", "srtt_sum_us"):
        columns[name][:] = random.integers(1, 1 << 24, count)
    columns["srtt_count"][:] = 1
    columns["min_rtt_us"][:] = random.integers(50, 5_000, count)
    return columns


if __name__ == "__main__":
    main()
