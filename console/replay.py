"""Plays recordings of collectors through a reducer's pipeline, with the time that they tell, and prints the metrics."""

from __future__ import annotations

import heapq
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ebpf_net.v1 import intake_pb2
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from daemon.errors import StartupError
from kernel_collector.replay.player import RecordedCollector
from kernel_collector.replay.transcript import TranscriptError
from reducer.service import metrics_of, otlp_encoder, pipeline, with_levels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from kernel_collector.replay.player import Submission
    from reducer.columns.series import SealedWindow
    from reducer.options import Settings
    from reducer.outputs.otlp import OtlpEncoder


class _Told(NamedTuple):
    time_unix_ns: int
    session: bytes
    number: int
    submission: Submission


def replay(paths: Sequence[Path], settings: Settings) -> Iterator[str]:
    """Yield the metrics of each window as lines of OTLP's JSON, a metric a line, its points in a fixed order.

    Raises:
        StartupError: a file is no recording, or one of another version.

    """
    try:
        yield from _lines(_windows(paths, settings), otlp_encoder(settings, metrics_of(settings)))
    except TranscriptError as error:
        raise StartupError(str(error)) from error


def _windows(paths: Sequence[Path], settings: Settings) -> Iterator[SealedWindow]:
    reducer = pipeline(settings)
    parts = []
    for place, path in enumerate(paths):
        collector, session = RecordedCollector(path), place.to_bytes(16)
        reducer.hello(session, collector.host)
        parts.append(_told(session, collector.submissions()))
    sessions = [place.to_bytes(16) for place in range(len(paths))]
    now_ns = 0
    for told in heapq.merge(*parts):
        # A clock that was set back does not open windows again.
        now_ns = max(now_ns, told.time_unix_ns)
        for session in sessions:  # all until now was taken
            reducer.heard(session, now_ns)
        while window := reducer.seal(now_ns):
            yield with_levels(window, settings)
        batch = intake_pb2.Batch(entities=told.submission.entities)
        reducer.take(told.session, told.number, told.time_unix_ns, batch, told.submission.tables)
    if now_ns:
        for window in reducer.finish(now_ns):
            yield with_levels(window, settings)


def _told(session: bytes, submissions: Iterable[Submission]) -> Iterator[_Told]:
    for number, submission in enumerate(submissions, 1):
        yield _Told(submission.time_unix_ns, session, number, submission)


def _lines(windows: Iterable[SealedWindow], encoder: OtlpEncoder) -> Iterator[str]:
    for window in windows:
        metrics: dict[str, dict[str, Any]] = {}
        for request in encoder.encode(window):
            for metric in _metrics(request.body):
                known = metrics.setdefault(metric["name"], metric)
                if known is not metric:
                    _points(known).extend(_points(metric))
        for name in sorted(metrics):
            _points(metrics[name]).sort(key=lambda point: json.dumps(point["attributes"]))
            scope = {"scopeMetrics": [{"metrics": [metrics[name]]}]}
            yield json.dumps({"resourceMetrics": [scope]})


def _metrics(body: bytes) -> Iterator[dict[str, Any]]:
    request = MessageToDict(ExportMetricsServiceRequest.FromString(body), use_integers_for_enums=True)
    for resource in request["resourceMetrics"]:
        for scope in resource["scopeMetrics"]:
            yield from scope["metrics"]


def _points(metric: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points of a metric, of whatever kind it is."""
    [data] = (value for value in metric.values() if isinstance(value, dict))
    points: list[dict[str, Any]] = data["dataPoints"]
    return points
