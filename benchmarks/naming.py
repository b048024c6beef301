"""What it costs to name ends by their addresses: CPU time to seal a window of flows that only one end is told of.

The same flows, by what is known of the other end: nothing; pods; pods that are replaced all the time; names of the DNS.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from ebpf_net.v1 import intake_pb2

from benchmarks.conditions import conditions
from intake.clock import SECOND_NS
from intake.columns import empty_columns
from reducer.pipeline import Pipeline

WINDOW_S, POLL_S, GRACE_S = 30, 5, 1
ROWS = 50_000  # of a session
WINDOWS = 3
CLUSTER = b"k" * 16


def addresses(numbers: np.ndarray, first: int) -> np.ndarray:
    """Return the IPv4 addresses FIRST.x.y.z, as rows of 16 bytes."""
    found = np.zeros((len(numbers), 16), "u1")
    found[:, 10:12], found[:, 12] = 0xFF, first
    found[:, 13], found[:, 14], found[:, 15] = numbers >> 16, numbers >> 8 & 0xFF, numbers & 0xFF
    return found


def pods(count: int, start_s: int) -> list[intake_pb2.Pod]:
    """Return pods with the first *count* addresses."""
    held = addresses(np.arange(count), 10)
    return [
        intake_pb2.Pod(
            uid=f"{start_s}-{number}",
            name=f"pod-{number}",
            owner_name=f"workload-{number // 10}",
            node=f"node-{number % 100}",
            addresses=[held[number].tobytes()],
            start_time_unix_ns=start_s * SECOND_NS,
        )
        for number in range(count)
    ]


def names(count: int) -> list[intake_pb2.DnsName]:
    held = addresses(np.arange(count), 10)
    return [
        intake_pb2.DnsName(name=f"{number // 8}.example", addresses=[held[number].tobytes()]) for number in range(count)
    ]


def rows_of(session: int, remote: np.ndarray) -> dict[str, np.ndarray]:
    columns = empty_columns(len(remote))
    number = np.arange(len(remote))
    columns["socket"], columns["process"] = (number + 1).astype("<u8"), (number % 10 + 1).astype("<u4")
    columns["local_address"] = addresses(np.full(len(remote), session), 192).view("V16").ravel()
    columns["remote_address"] = addresses(remote, 10).view("V16").ravel()
    columns["local_port"], columns["remote_port"][:] = number.astype("<u2"), 80
    for name in ("role", "opened", "closed", "bytes_sent"):
        columns[name][:] = 1
    return columns


def run(what: str, flows: int, known: int) -> None:
    """Seal windows of *flows*, of half of whose addresses something is known, and print what the last one took."""
    pipeline = Pipeline(WINDOW_S * SECOND_NS, GRACE_S * SECOND_NS, POLL_S * SECOND_NS)
    pipeline.next_due(0)
    pipeline.hello(CLUSTER, intake_pb2.Host(name="cluster"), intake_pb2.COLLECTOR_KIND_K8S)
    random = np.random.default_rng(1)
    for window in range(WINDOWS):
        begin_s = window * WINDOW_S
        told = intake_pb2.Entities()
        if what == "pods" and window == 0:
            told.pods.extend(pods(known, 1))
        if what == "replaced":
            told.pods.extend(pods(known, begin_s + 12))
            told.retired_pods.extend(f"{begin_s - WINDOW_S + 12}-{number}" for number in range(known))
        pipeline.take(CLUSTER, window + 1, (begin_s + 12) * SECOND_NS, intake_pb2.Batch(entities=told), {})
        for session in range(flows // ROWS):
            session_id = session.to_bytes(16, "big")
            batch = intake_pb2.Batch()
            if window == 0:
                pipeline.hello(session_id, intake_pb2.Host(name=f"host-{session}"))
                batch.entities.processes.extend(intake_pb2.Process(id=each, name=f"p{each}") for each in range(1, 11))
                if what == "names":
                    batch.entities.dns_names.extend(names(known))
            rows = rows_of(session, random.integers(0, 2 * known, ROWS))
            at_s = begin_s + (3, 20)[session % 2]
            pipeline.take(session_id, window + 1, at_s * SECOND_NS, batch, {"tcp": rows})
        began = time.process_time()
        sealed = pipeline.seal((begin_s + WINDOW_S + POLL_S + GRACE_S) * SECOND_NS)
        took = time.process_time() - began
    assert sealed is not None
    unknown = pipeline.statistics().ends_unknown
    print(
        f"{what:9} {1e6 * took / flows:5.2f} CPU s a million flows, {len(sealed.levels[0].source):6} series, unknown: "
        + ", ".join(f"{reason} {count // WINDOWS}" for reason, count in unknown.items() if count)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--known", type=int, default=20_000, help="pods; addresses with a name, on each machine")
    arguments = parser.parse_args()
    print(f"# What naming by address costs\n{conditions()}; {arguments.flows} flows, {arguments.known} addresses known")
    for what in ("nothing", "pods", "replaced", "names"):
        run(what, arguments.flows, arguments.known)


if __name__ == "__main__":
    main()
