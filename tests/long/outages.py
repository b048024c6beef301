"""A receiver that goes through all that receivers do; see `tests.long.receivers`."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import grpc

from benchmarks.conditions import usage
from tests.lab.daemons import INTERNAL_PORT, Lab
from tests.lab.waiting import wait_until
from tests.long.rig import LEVELS, WINDOW_S, complaints, end_load, own_metric, start_load, start_reducer
from tests.otlp_sink import ACCEPT, Answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.programs import Program


class Outages:
    """A reducer with a receiver that goes through all that receivers do; and, where it has a directory, kills."""

    def __init__(self, lab: Lab, seconds: float, data_directory: Path | None, *, http: bool) -> None:
        self.lab = lab
        self.sink = lab.sink
        self.seconds = seconds
        self.timeout_s = min(10.0, seconds / 4)
        self._window_s = round(min(WINDOW_S, max(2.0, seconds / 6)))
        self._http = http
        self._data = ("--data-dir", str(data_directory)) if data_directory else ()
        self.reducer = self._start()
        self._kills = 0

    def _start(self) -> Program:
        transport = "--enable-otlp-http-metrics" if self._http else "--enable-otlp-grpc-metrics"
        endpoint = f"http://127.0.0.1:{self.sink.http_port if self._http else self.sink.grpc_port}"
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": f"{self.timeout_s:g}"}
        return start_reducer(self.lab, transport, *self._data, window_s=self._window_s, **environment)

    def run(self) -> str:
        """Go through all of it, and return what there is to say."""
        load = start_load(self.lab)
        self.sink.wait(lambda sink: bool(sink.requests), 60)
        third = self.seconds / 3
        self.lab.stop_sink()
        self._endure(third)
        self.lab.start_sink()
        pause_s = min(5.0, third / 3)
        self._answering(Answer(grpc.StatusCode.UNAVAILABLE, "not now"), third)
        asked = self._answering(Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", retry_after_s=pause_s), third)
        # Its own metrics wait for nobody, and a reducer that starts knows of no pause.
        most = third / pause_s + third / 10 + 3 + bool(self._data)
        assert asked <= most, f"{asked} requests in {third} s, pauses of {pause_s} s"
        self._answering(Answer(delay_s=0.6 * self.timeout_s), self.seconds / 2)
        self._answering(Answer(delay_s=1.2 * self.timeout_s), self.seconds / 2)
        peak_mib = usage(self.reducer.pid).peak_mib
        told = end_load(load)
        # What waits is told of at once; collectors were told that it is safe.
        wait_until(lambda: not self._waiting(), 300, "the queue to be empty")
        self.lab.finish(self.reducer)
        self._check(told)
        requests = self.sink.requests
        again = len(requests) - len(set(requests))
        return f"{len(requests)} requests, {again} of them again; {self._kills} kills; RSS at most {peak_mib:.0f} MiB"

    def _answering(self, answer: Answer, seconds: float) -> int:
        """Give this answer for so long; return how many requests got it."""
        seen = self.sink.seen
        self.sink.default = answer
        self._endure(seconds)
        self.sink.default = ACCEPT
        answered = self.sink.seen - seen
        time.sleep(self._window_s)
        return answered

    def _endure(self, seconds: float) -> None:
        """Wait; in the middle of it, a reducer with a data directory is killed."""
        time.sleep(seconds / 2)
        if self._data:
            self._kills += 1
            assert self.reducer.stop(signal.SIGKILL) == -signal.SIGKILL
            self.reducer = self._start()
        time.sleep(seconds / 2)

    def _waiting(self) -> float:
        return own_metric(self.lab.centre.get(f"http://127.0.0.1:{INTERNAL_PORT}/metrics", 60), "queue_requests")

    def _check(self, told: dict[str, int]) -> None:
        points: dict[tuple[object, ...], float] = {}
        ends = []
        for point in (point for point in self.sink.points() if "aggregation" in point.attributes):
            key = (point.metric, point.time_ns, *sorted(point.attributes.items()))
            if key not in points:
                ends.append(point.time_ns)
            assert points.setdefault(key, point.value) == point.value, f"sent again with another value: {point}"
        assert ends == sorted(ends), "windows came out of order"
        for name, metric in {"bytes_sent": "tcp.bytes", "segments_sent": "tcp.packets"}.items():
            for level in LEVELS:
                total = sum(
                    value for key, value in points.items() if key[0] == metric and ("aggregation", level) in key
                )
                assert total == told[name], f"{metric} at {level}: {total}, told were {told[name]}"
        reducers = [program for program in self.lab.programs.started if program.name == "reducer"]
        for reducer in reducers:
            odd = complaints(reducer, "cannot take metrics")
            assert not odd, odd


def outages(lab: Lab, seconds: float, *, http: bool, durable: bool) -> str:
    """Go through `Outages`: *seconds* of refusal, and as many of slowness."""
    return Outages(lab, seconds, lab.directory / "data" if durable else None, http=http).run()
