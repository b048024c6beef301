"""Sends the intake what nobody should: it may refuse with a reason, and nothing else may happen.

    python -m tests.fuzz.intake --inputs 1000000 --seed 7

Sessions, pipeline, budgets and all outputs are the real ones, time is virtual, and the clock is set now and then. What
some sessions send is made at random; one in between is well behaved: all that it says must be in the series, to the
byte. Prints what happened, and the input that broke something as hex.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from daemon.version import PROTOCOL_VERSION
from reducer.columns.series import FLOWS, LEVELS
from reducer.internal_export import encode, render
from reducer.internal_metrics import Snapshot
from reducer.outputs.flow_logs import FlowLogEncoder
from reducer.outputs.flow_records import FlowRecords
from reducer.outputs.otlp import OtlpEncoder
from reducer.outputs.prometheus import PrometheusSeries
from reducer.pipeline import Pipeline
from reducer.session import Stream
from reducer.sessions import ReducerSessions, RejectedError
from reducer.windows.rows import SOCKETS
from reducer.windows.window import Windows
from tests.fuzz.messages import GREATEST_COUNT, SECOND_NS, Messages
from tests.rows import packed_rows, tcp_rows

if TYPE_CHECKING:
    from intake.columns import Columns
    from reducer.columns.series import SealedWindow

START_NS = 1_700_000_010 * SECOND_NS
STEP_NS = 2_000_000  # of virtual time an input
WINDOW_NS = 10 * SECOND_NS
SESSIONS = 32
HONEST = b"honest collector"
HONEST_PROCESS = "honest"
HONEST_PORT = 40000  # nobody else has it
EACH_HONEST = 50
HONEST_SEGMENTS = 2 * GREATEST_COUNT  # of each of some hundred batches in a window
EACH_RENDERING = 20_000
EACH_CLOCK_SET = 3_000
SERIES_LIMIT = 500
MOST_ENDS = 10_000


@dataclass
class Outcome:
    """What happened: `answers` by kind, and the memory at each twentieth of the run, bytes."""

    inputs: int = 0
    answers: Counter = field(default_factory=Counter)
    windows: int = 0
    honest_bytes: int = 0
    honest_bytes_refused: int = 0
    memory: list[int] = field(default_factory=list)
    seconds: float = 0.0


class WitnessedWindows(Windows):
    """Windows that tell what of the honest collector they refuse, since a window's sums would be too great.

    A clock that is set back makes one window of several: one may then get more batches than a session's share has room
    for, or be more than two can hold.
    """

    honest_bytes_refused = 0

    def take(self, session: bytes, number: int, event_time_ns: int, rows: Columns | None, table: str = SOCKETS) -> None:
        refused = self.refused_rows
        super().take(session, number, event_time_ns, rows, table)
        if session == HONEST and self.refused_rows > refused:
            self.honest_bytes_refused += int(rows["bytes_sent"].sum())

    def _absorb_later(self, present: int) -> None:
        before = self._honest_bytes()
        super()._absorb_later(present)
        self.honest_bytes_refused += before - self._honest_bytes()

    def _honest_bytes(self) -> int:
        waiting = self.later().get(SOCKETS, [])
        return sum(int(rows["bytes_sent"][rows["local_port"] == HONEST_PORT].sum()) for rows in waiting)


class Fuzzer:
    """The reducer but for its sockets, and who sends to it."""

    def __init__(self, seed: int) -> None:
        self.outcome = Outcome()
        self._random = random.Random(seed)
        self._messages = Messages(seed)
        self._now_ns = START_NS
        self._pipeline = Pipeline(
            WINDOW_NS,
            SECOND_NS,
            SECOND_NS,
            (*LEVELS, FLOWS),
            keep_loopback=True,
            most_series=SERIES_LIMIT,
            most_flows=20_000,
        )
        self._windows = self._pipeline._windows = WitnessedWindows(WINDOW_NS, 2 * SECOND_NS)
        # So few that the table is full, and begun anew, time and again: memory must not grow then.
        self._pipeline._names._most_ends = MOST_ENDS
        self._sessions = ReducerSessions(self._pipeline, WINDOW_NS, SECOND_NS, most_sessions=4 * SESSIONS)
        self._streams: list[Stream] = []
        self._prometheus = PrometheusSeries()
        self._outputs_of_flows = (FlowLogEncoder().encode, FlowRecords().table)
        self._outputs_of_series = (OtlpEncoder().encode, self._prometheus.observe)
        self._honest = Stream(superseded=self._impossible)
        self._sessions.received(self._honest, _honest_hello(), self._now_ns)
        self._honest_number = 0
        self._honest_sent = 0
        self._pipeline.next_due(self._now_ns)

    def run(self, inputs: int) -> Outcome:
        """Send *inputs* messages, and see that nothing is lost but what was refused; `outcome` is what happened."""
        begin = time.monotonic()
        try:
            self._run(inputs)
        finally:
            self.outcome.honest_bytes_refused = self._windows.honest_bytes_refused
            self.outcome.seconds = time.monotonic() - begin
        return self.outcome

    def _run(self, inputs: int) -> None:
        for index in range(inputs):
            self.outcome.inputs = index + 1
            self._now_ns += STEP_NS
            if index % EACH_CLOCK_SET == EACH_CLOCK_SET - 1:
                self._now_ns += self._random.choice((-3600, -11, -5, 5, 3600)) * SECOND_NS
            self._send(index)
            if index % EACH_HONEST == 0:
                self._send_honest()
            self._seal()
            if index % EACH_RENDERING == 0:
                self._render()
            if index % max(1, inputs // 20) == 0:
                self.outcome.memory.append(resident_bytes())
        for window in self._pipeline.finish(self._now_ns):
            self._output(window)
        self._render()
        told = self.outcome.honest_bytes + self._windows.honest_bytes_refused
        assert self._honest_sent == told, (self._honest_sent, told)

    def _send(self, index: int) -> None:
        if len(self._streams) < SESSIONS or self._random.random() < 0.002:
            self._open()
            return
        stream = self._random.choice(self._streams)
        data = self._messages.next(self._now_ns)
        try:
            answer = self._sessions.received(stream, data, self._now_ns)
        except RejectedError as error:
            self._reject(error)
            self._close(stream)
        except BaseException:
            sys.stderr.write(f"input {index}: {data.hex()}\n")
            raise
        else:
            self._count(answer)

    def _count(self, answer: intake_pb2.FromReducer | None) -> None:
        kind = "taken" if answer is None else answer.WhichOneof("message")
        self.outcome.answers[kind] += 1
        if kind == "refusal":
            assert answer is not None
            assert answer.refusal.reason
            self.outcome.answers[f"refused: {_general(answer.refusal.reason)}"] += 1

    def _reject(self, error: RejectedError) -> None:
        assert error.reason
        self.outcome.answers[f"rejected: {_general(error.reason)}"] += 1

    def _open(self) -> None:
        """Connect as an old session or a new one, or fail to."""
        if len(self._streams) > SESSIONS:
            self._close(self._random.choice(self._streams))
        session = bytes([self._random.randrange(4 * SESSIONS)]) * 16
        hello = self._messages.hello(session)
        if self._random.random() < 0.3:
            hello = self._messages.next(self._now_ns)
        stream = Stream(superseded=lambda: self._streams.remove(stream))
        try:
            self._sessions.received(stream, hello, self._now_ns)
        except RejectedError as error:
            self._reject(error)
        else:
            self._streams.append(stream)

    def _close(self, stream: Stream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
        self._sessions.closed(stream, self._now_ns)

    def _impossible(self) -> None:
        raise AssertionError("nobody knows the session of the honest collector")

    def _send_honest(self) -> None:
        self._honest_number += 1
        moved = self._random.randint(1, 1000)
        row = {"socket": 1, "process": 1, "local_address": "192.0.2.1", "remote_address": "192.0.2.2"}
        # The most active of all, so that it is not rolled up.
        row |= {"local_port": HONEST_PORT, "remote_port": 80, "role": 1}
        row |= {"bytes_sent": moved, "segments_sent": HONEST_SEGMENTS}
        batch = intake_pb2.Batch(number=self._honest_number, time_unix_ns=self._now_ns)
        batch.entities.processes.add(id=1, name=HONEST_PROCESS)
        batch.tcp.CopyFrom(packed_rows("tcp", tcp_rows(row)))
        data = intake_pb2.FromCollector(batch=batch).SerializeToString()
        self._honest_sent += moved
        assert self._sessions.received(self._honest, data, self._now_ns) is None

    def _seal(self) -> None:
        while window := self._pipeline.seal(self._now_ns):
            self._output(window)

    def _output(self, window: SealedWindow) -> None:
        self.outcome.windows += 1
        for output in self._outputs_of_flows:
            output(window)
        of_series = replace(window, levels=[level for level in window.levels if level.name != FLOWS])
        for output in self._outputs_of_series:
            output(of_series)
        by_workload = window.levels[0]
        assert all(len(level.source) <= SERIES_LIMIT for level in window.levels)
        for row, end in enumerate(by_workload.source.tolist()):
            if ("process.name", HONEST_PROCESS) in window.ends.labels[end]:
                self.outcome.honest_bytes += int(by_workload.values["bytes"][row])
        self._sessions.safe(window.acknowledge)

    def _render(self) -> None:
        """Ask for all that can be asked for."""
        snapshot = Snapshot(
            {"intake": self._sessions.counters, "pipeline": self._pipeline.statistics()},
            list(self._sessions.connected()),
            self._now_ns,
        )
        for text in (render(snapshot), b"".join(self._prometheus.render())):
            text.decode()
        encode(snapshot, START_NS)


def _honest_hello() -> bytes:
    host = intake_pb2.Host(name="honest", zone="z")
    hello = intake_pb2.Hello(protocol_version=PROTOCOL_VERSION, kind=1, session_id=HONEST, host=host)
    return intake_pb2.FromCollector(hello=hello).SerializeToString()


def _general(reason: str) -> str:
    """Return a reason without what differs from one message to the next."""
    return re.sub(r"(?<=column )\w+|\d+", "…", reason)[:80]


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    fuzzer = Fuzzer(arguments.seed)
    try:
        fuzzer.run(arguments.inputs)
    finally:
        print_outcome(fuzzer.outcome)


def print_outcome(outcome: Outcome) -> None:
    memory = ", ".join(f"{each >> 20}" for each in outcome.memory)
    sys.stdout.write(f"{outcome.inputs} inputs in {outcome.seconds:.0f} s, {outcome.windows} windows\n")
    sys.stdout.write(f"of the honest collector: {outcome.honest_bytes} bytes, {outcome.honest_bytes_refused} refused\n")
    sys.stdout.write(f"resident MiB by twentieths: {memory}\n")
    for answer, count in outcome.answers.most_common():
        sys.stdout.write(f"{count:9} {answer}\n")


if __name__ == "__main__":
    main()
