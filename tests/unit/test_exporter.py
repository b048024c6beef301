from __future__ import annotations

import asyncio
import logging
import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from reducer.outputs import exporter
from reducer.outputs.exporter import Exporter
from reducer.outputs.request import Request, Signal
from reducer.outputs.store import MemoryStore, WindowExport
from reducer.outputs.transport import GrpcTransport, HttpTransport, Transport
from tests.otlp_sink import Answer, OtlpSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reducer.outputs.store import Acknowledgements

UNAVAILABLE = Answer(grpc.StatusCode.UNAVAILABLE, "draining")
SESSION = b"s" * 16


def request(value: int, points: int = 10) -> Request:
    message = ExportMetricsServiceRequest()
    metric = message.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    for _ in range(points):
        metric.sum.data_points.add(as_int=value)
    return Request(points, message.SerializeToString())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it is another thread's doing
            await asyncio.sleep(0.005)


class Rig:
    """An exporter that runs between a memory store and the sink."""

    def __init__(self, transport: Transport) -> None:
        self.store = MemoryStore()
        self.safe: list[Acknowledgements] = []
        self.exporter = Exporter(self.store, transport, self.safe.append, most_backoff_s=1.0)

    def put(self, number: int, *requests: Request) -> None:
        self.store.put(WindowExport(number, requests, {SESSION: number}))
        self.exporter.wake()

    def run(self, condition: Callable[[], bool] | None = None) -> None:
        """Run until *condition* holds, else until all is delivered."""

        async def main() -> None:
            running = asyncio.create_task(self.exporter.run())
            await until(condition or (lambda: not self.store.statistics().requests))
            self.exporter.finish(0.0)
            await running

        asyncio.run(main())


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(params=["grpc", "http"])
def rig(request: pytest.FixtureRequest, sink: OtlpSink) -> Iterator[Rig]:
    transport = (
        GrpcTransport(sink.grpc_endpoint)
        if request.param == "grpc"
        else HttpTransport(f"{sink.http_endpoint}/v1/metrics")
    )
    yield Rig(transport)
    transport.close()


def test_logs_and_metrics_keep_their_order_and_their_counts(sink: OtlpSink) -> None:
    transport = GrpcTransport(sink.grpc_endpoint, list(Signal))
    rig = Rig(transport)
    logs = Request(3, b"\x0a\x00", Signal.LOGS)
    rig.put(1, request(1), logs, request(2), logs)
    rig.run()
    assert (sink.requests, sink.log_requests) == ([request(1).body, request(2).body], [logs.body] * 2)
    assert rig.safe == [{SESSION: 1}]
    assert {signal: each.points_sent for signal, each in rig.exporter.statistics.items()} == {"metrics": 20, "logs": 6}
    transport.close()


def test_all_arrive_in_order_and_become_safe(rig: Rig, sink: OtlpSink) -> None:
    requests = [request(value) for value in range(6)]
    for number in range(3):
        rig.put(number + 1, *requests[2 * number : 2 * number + 2])
    rig.run()
    assert sink.requests == [each.body for each in requests]
    assert rig.safe == [{SESSION: 1}, {SESSION: 2}, {SESSION: 3}]
    statistics = rig.exporter.statistics[Signal.METRICS]
    assert (statistics.requests_sent, statistics.points_sent) == (6, 60)
    assert statistics.bytes_sent == sum(len(each.body) for each in requests)


def test_unavailable_is_sent_again_unchanged_and_before_what_follows(
    rig: Rig, sink: OtlpSink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "reducer")
    # The second answer is lost though the request was taken.
    sink.answers.extend([UNAVAILABLE, Answer(grpc.StatusCode.UNAVAILABLE, kept=True)])
    first, second = request(1), request(2)
    rig.put(1, first)
    rig.put(2, second)
    rig.run()
    assert sink.requests == [first.body, first.body, second.body]
    assert rig.safe == [{SESSION: 1}, {SESSION: 2}]
    assert rig.exporter.statistics[Signal.METRICS].requests_failed == 2
    messages = [record.getMessage() for record in caplog.records if record.name == "reducer.outputs.exporter"]
    assert len(messages) == 2
    assert "cannot take metrics" in messages[0]
    assert "takes metrics again" in messages[1]


def test_receiver_that_is_not_there(rig: Rig, sink: OtlpSink) -> None:
    sink.stop()
    rig.put(1, request(1))
    rig.run(lambda: rig.exporter.statistics[Signal.METRICS].requests_failed >= 2)
    assert rig.safe == []
    assert not rig.exporter.connected


def test_refused_is_dropped_counted_and_logged(rig: Rig, sink: OtlpSink, caplog: pytest.LogCaptureFixture) -> None:
    sink.answers.append(Answer(grpc.StatusCode.INVALID_ARGUMENT, "bad unit"))
    rig.put(1, request(1, points=7), request(2))
    rig.run()
    assert sink.requests == [request(2).body]
    assert rig.exporter.statistics[Signal.METRICS].points_refused == 7
    assert rig.exporter.statistics[Signal.METRICS].points_sent == 10
    assert "refused 7 points" in caplog.text
    assert re.search("(INVALID_ARGUMENT|400 Bad Request): bad unit", caplog.text)
    # What nobody takes need not be kept by collectors either.
    assert rig.safe == [{SESSION: 1}]


def test_a_receiver_that_refuses_all_is_told_of_seldom(
    rig: Rig, sink: OtlpSink, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_s = (0, 1, 2, exporter.LOSSES_INTERVAL_S + 1, exporter.LOSSES_INTERVAL_S + 2)
    monkeypatch.setattr(exporter, "time", SimpleNamespace(monotonic=iter(refused_s).__next__))
    sink.answers.extend([Answer(grpc.StatusCode.UNAUTHENTICATED, "no token")] * len(refused_s))
    rig.put(1, *(request(number, points=5) for number in range(len(refused_s))))
    rig.run()
    told = re.findall(r"refused (\d+) points, which are lost: .*no token; are OTEL_EXPORTER_OTLP_HEADERS", caplog.text)
    assert told == ["5", "15"]
    assert rig.exporter.statistics[Signal.METRICS].points_refused == 25


def test_partial_success_is_counted_and_logged(rig: Rig, sink: OtlpSink, caplog: pytest.LogCaptureFixture) -> None:
    sink.answers.append(Answer(rejected_points=3, message="too old"))
    rig.put(1, request(1))
    rig.run()
    statistics = rig.exporter.statistics[Signal.METRICS]
    assert (statistics.points_sent, statistics.points_rejected) == (7, 3)
    assert "rejected 3 points, which are lost: too old" in caplog.text


def test_receivers_wish_to_wait_is_heeded(rig: Rig, sink: OtlpSink) -> None:
    sink.answers.append(Answer(grpc.StatusCode.UNAVAILABLE, retry_after_s=1.0))
    rig.put(1, request(1))
    started = time.monotonic()
    rig.run()
    assert time.monotonic() - started >= 1.0
    assert sink.seen == 2


def test_what_is_put_later_goes_out_at_once(rig: Rig, sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "IDLE_S", 3600.0)

    async def main() -> None:
        running = asyncio.create_task(rig.exporter.run())
        await asyncio.sleep(0.2)
        rig.put(1, request(1))
        await until(lambda: bool(rig.safe))
        rig.exporter.finish(0.0)
        await running

    asyncio.run(main())
    assert len(sink.requests) == 1


def test_finish_sends_what_is_left_without_waiting_out_the_pause(rig: Rig, sink: OtlpSink) -> None:
    rig.exporter._most_backoff_s = 60.0

    async def main() -> float:
        sink.answers.append(Answer(grpc.StatusCode.UNAVAILABLE, retry_after_s=60.0))
        rig.put(1, request(1), request(2))
        running = asyncio.create_task(rig.exporter.run())
        await until(lambda: rig.exporter.statistics[Signal.METRICS].requests_failed > 0)
        started = time.monotonic()
        rig.exporter.finish(60.0)
        await running
        return time.monotonic() - started

    assert asyncio.run(main()) < 0.9
    assert rig.safe == [{SESSION: 1}]
    assert len(sink.requests) == 2


def test_finish_does_not_wait_for_a_receiver_that_does_not_answer(rig: Rig, sink: OtlpSink) -> None:
    sink.default = Answer(delay_s=60.0)

    async def main() -> float:
        rig.put(1, request(1))
        running = asyncio.create_task(rig.exporter.run())
        await until(lambda: sink.seen > 0)
        started = time.monotonic()
        rig.exporter.finish(0.5)
        await running
        return time.monotonic() - started

    assert 0.4 < asyncio.run(main()) < 2.0
    assert rig.safe == []
    assert rig.store.statistics().requests == 1


def test_finish_waits_for_an_answer_that_comes_in_time(rig: Rig, sink: OtlpSink) -> None:
    sink.default = Answer(delay_s=0.3)

    async def main() -> None:
        rig.put(1, request(1))
        running = asyncio.create_task(rig.exporter.run())
        await until(lambda: sink.seen > 0)
        rig.exporter.finish(60.0)
        await running

    asyncio.run(main())
    assert rig.safe == [{SESSION: 1}]
    assert len(sink.requests) == 1


def test_finish_gives_up_in_time(rig: Rig, sink: OtlpSink) -> None:
    sink.default = UNAVAILABLE

    async def main() -> float:
        rig.put(1, request(1))
        running = asyncio.create_task(rig.exporter.run())
        await asyncio.sleep(0.1)
        started = time.monotonic()
        rig.exporter.finish(1.0)
        await running
        return time.monotonic() - started

    assert 0.9 < asyncio.run(main()) < 2.0
    assert rig.store.statistics().requests == 1
