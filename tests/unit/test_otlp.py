from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, AGGREGATION_TEMPORALITY_DELTA

from daemon.version import VERSION
from reducer.columns.cells import CellKind
from reducer.columns.series import EndTable, Level, SealedWindow
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.outputs import otlp, otlp_histograms
from reducer.outputs.metrics import METRICS
from reducer.outputs.otlp import MOST_REQUEST_BYTES, OtlpEncoder
from tests.otlp_sink import Point, points_of
from tests.windows import START_NS, WINDOW_NS, sealed_window

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint

    from reducer.outputs.request import Request

WEB = {"workload.name": "web", "availability_zone": "a", "process.name": "nginx"}
DATABASE = {"workload.name": "db", "availability_zone": "b"}
CACHE = {"workload.name": "cache", "availability_zone": "a"}
STRANGER = {"workload.name": "(unknown)"}
NOWHERE = STRANGER | {"availability_zone": "(unknown)"}
TRAFFIC = {"bytes": 1000, "packets": 10}


def decode(requests: list[Request]) -> list[Point]:
    points = []
    for request in requests:
        of_request = points_of(ExportMetricsServiceRequest.FromString(request.body))
        assert len(of_request) == request.points
        points += of_request
    return points


def point(points: list[Point], metric: str, **attributes: str) -> Point:
    (found,) = [p for p in points if p.metric == metric and attributes.items() <= p.attributes.items()]
    return found


def test_point_has_the_attributes_of_both_ends_and_the_windows_time() -> None:
    window = sealed_window(EndTable(), {"az_az": [(WEB, DATABASE, TRAFFIC)]}, number=2)
    found = point(decode(OtlpEncoder().encode(window)), "tcp.bytes")
    assert found == Point(
        metric="tcp.bytes",
        unit="By",
        kind="sum",
        start_ns=START_NS + 2 * WINDOW_NS,
        time_ns=START_NS + 3 * WINDOW_NS,
        value=1000,
        attributes={
            "source.workload.name": "web",
            "source.availability_zone": "a",
            "source.process.name": "nginx",
            "dest.workload.name": "db",
            "dest.availability_zone": "b",
            "az_equal": "false",
            "aggregation": "az_az",
        },
        resource={"service.name": "ebpf-net-reducer", "service.version": VERSION},
        temporality=AGGREGATION_TEMPORALITY_DELTA,
        monotonic=True,
    )


OWN = ("reason", "rcode", "status_code")


def test_every_metric_has_its_value_type_and_unit() -> None:
    values = {name: number * 1000 for number, name in enumerate(VALUE_COLUMNS, 1)}
    window = sealed_window(EndTable(), {"id_id": [(WEB, DATABASE, values)]})
    points = decode(OtlpEncoder(METRICS).encode(window))
    columns = {name: np.array([value]) for name, value in values.items()}
    expected = [
        (metric.name, metric.unit, dict(part.attributes), part.value(columns)[0].item())
        for metric in METRICS
        for part in metric.points
    ]
    found = [
        (p.metric, p.unit, {name: p.attributes[name] for name in p.attributes if name in OWN}, p.value) for p in points
    ]
    assert found == expected
    assert {type(p.value) for p in points if p.unit == "s"} == {float}
    assert {type(p.value) for p in points if p.unit != "s"} == {int}
    kinds = {p.metric: p.kind for p in points}
    assert kinds["tcp.new_sockets"] == "sum"
    assert kinds["tcp.active"] == kinds["tcp.rtt.average"] == "gauge"


@pytest.mark.parametrize(
    ("source", "dest", "expected"),
    [
        (WEB, CACHE, "true"),
        (WEB, DATABASE, "false"),
        (WEB, STRANGER, None),
        (STRANGER, STRANGER, None),
        (WEB, NOWHERE, None),
        (NOWHERE, NOWHERE, None),
    ],
)
def test_az_equal(source: dict[str, str], dest: dict[str, str], expected: str | None) -> None:
    window = sealed_window(EndTable(), {"az_az": [(source, dest, TRAFFIC)]})
    assert point(decode(OtlpEncoder().encode(window)), "tcp.bytes").attributes.get("az_equal") == expected


def test_series_have_only_the_points_that_exist() -> None:
    rows = [
        (WEB, DATABASE, TRAFFIC | {"opened": 2, "failed_refused": 3}),
        (DATABASE, WEB, TRAFFIC | {"srtt_sum_us": 500, "srtt_count": 1}),
        (CACHE, WEB, TRAFFIC | {"failed_timed_out": 4, "failed_refused": 5}),
    ]
    points = decode(OtlpEncoder().encode(sealed_window(EndTable(), {"az_az": rows})))

    def by_source(metric: str) -> dict[str, float]:
        return {p.attributes["source.workload.name"]: p.value for p in points if p.metric == metric}

    assert by_source("tcp.bytes") == {"web": 1000, "db": 1000, "cache": 1000}
    assert by_source("tcp.new_sockets") == {"web": 2, "cache": 0}
    assert by_source("tcp.rtt.average") == {"db": 0.0005}
    failed = [
        (p.attributes["source.workload.name"], p.attributes["reason"], p.value) for p in points if "failed" in p.metric
    ]
    assert failed == [("web", "refused", 3), ("cache", "refused", 5), ("cache", "timed_out", 4)]


def test_levels_are_told_apart() -> None:
    levels = {"az_az": [(WEB, DATABASE, {"bytes": 5})], "id_id": [(WEB, DATABASE, {"bytes": 6})]}
    points = decode(OtlpEncoder().encode(sealed_window(EndTable(), levels)))
    assert point(points, "tcp.bytes", aggregation="az_az").value == 5
    assert point(points, "tcp.bytes", aggregation="id_id").value == 6


def test_window_without_series_gives_no_request() -> None:
    assert OtlpEncoder().encode(sealed_window(EndTable(), {})) == []
    assert OtlpEncoder().encode(sealed_window(EndTable(), {"az_az": []})) == []


def test_new_ends_and_a_cleared_table() -> None:
    encoder, ends = OtlpEncoder(), EndTable()
    for rows in ([(WEB, DATABASE, TRAFFIC)], [(WEB, DATABASE, TRAFFIC), (WEB, CACHE, TRAFFIC)]):
        points = decode(encoder.encode(sealed_window(ends, {"az_az": rows})))
        names = [(p.attributes["source.workload.name"], p.attributes["dest.workload.name"]) for p in points]
        assert set(names) == {(row[0]["workload.name"], row[1]["workload.name"]) for row in rows}
    ends.clear()
    points = decode(encoder.encode(sealed_window(ends, {"az_az": [(CACHE, STRANGER, TRAFFIC), (WEB, CACHE, TRAFFIC)]})))
    found = {
        (p.attributes["source.workload.name"], p.attributes["dest.workload.name"]): p.value
        for p in points
        if p.metric == "tcp.bytes"
    }
    assert found == {("cache", "(unknown)"): 1000, ("web", "cache"): 1000, ("web", "db"): 0}


def test_a_series_that_ends_has_one_point_of_zero_for_each_that_it_had() -> None:
    encoder, ends = OtlpEncoder(METRICS), EndTable()
    told = TRAFFIC | {"opened": 1, "failed_refused": 2, "srtt_sum_us": 7, "srtt_count": 1, (CellKind.TCP_RTT, 100): 1}
    windows = [
        [(WEB, DATABASE, told), (CACHE, WEB, {"bytes": 5})],
        [(CACHE, WEB, {"bytes": 6})],
        [(CACHE, WEB, {"bytes": 7})],
        [],
        [],
    ]
    found = [
        {(p.attributes["source.workload.name"], p.metric): p.value for p in decode(encoder.encode(of_window))}
        for of_window in (sealed_window(ends, {"az_az": rows}, n) for n, rows in enumerate(windows))
    ]
    of_web = {metric for name, metric in found[0] if name == "web"}
    without_bins = {metric for metric in of_web if metric != "tcp.rtt" and "latency" not in metric}
    assert {"tcp.bytes", "tcp.new_sockets", "tcp.failed_connects", "tcp.rtt.average"} <= without_bins < of_web
    assert {metric: value for (name, metric), value in found[1].items() if name == "web"} == dict.fromkeys(
        without_bins, 0
    )
    assert {name for name, _ in found[2]} == {"cache"}
    assert [each["cache", "tcp.bytes"] for each in found[:4]] == [5, 6, 7, 0]
    assert set(found[3].values()) == {0}
    assert found[4] == {}


def histograms(requests: list[Request], name: str) -> dict[str, ExponentialHistogramDataPoint]:
    """Return the points of a histogram by the name of their source."""
    found = {}
    for request in requests:
        for resource in ExportMetricsServiceRequest.FromString(request.body).resource_metrics:
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                if metric.name == name:
                    data = metric.exponential_histogram
                    assert data.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA
                    for each in data.data_points:
                        attributes = {item.key: item.value.string_value for item in each.attributes}
                        found[attributes["source.workload.name"]] = each
                        assert {"dest.workload.name", "aggregation"} <= attributes.keys()
    return found


def test_histograms_hold_the_readings() -> None:
    cells = {(CellKind.TCP_RTT, number): amount for number, amount in ((112, 1), (115, 300), (240, 70_000))}
    rows = [
        (WEB, DATABASE, cells | {"srtt_sum_us": 70_000_000_000}),
        (DATABASE, WEB, {(CellKind.TCP_RTT, 511): 2**40, "srtt_sum_us": 5}),
        (CACHE, WEB, {(CellKind.TCP_RTT, 160): 1, "srtt_sum_us": 1050}),
        (STRANGER, WEB, TRAFFIC),
    ]
    found = histograms(OtlpEncoder().encode(sealed_window(EndTable(), {"az_az": rows})), "tcp.rtt")
    assert found.keys() == {"web", "db", "cache"}
    web = found["web"]
    assert (web.scale, web.count, web.sum, web.zero_count) == (3, 70_301, 70_000, 0)
    assert (web.start_time_unix_nano, web.time_unix_nano) == (START_NS, START_NS + WINDOW_NS)
    base = 2 ** (2**-web.scale)
    buckets = {web.positive.offset + i: count for i, count in enumerate(web.positive.bucket_counts) if count}
    assert buckets == {-128: 1, -125: 300, 0: 70_000}
    assert base ** (112 - 240) == pytest.approx(2**-16)
    assert web.min == pytest.approx(2**-16, rel=0.045)
    assert web.max == pytest.approx(1, rel=0.045)
    assert list(found["db"].positive.bucket_counts) == [2**40]
    cache = found["cache"]
    assert cache.min == cache.max == cache.sum == pytest.approx(0.00105)


@pytest.mark.parametrize("most_bytes", [2_000, 1_000_000])
def test_histograms_of_many_series(monkeypatch: pytest.MonkeyPatch, most_bytes: int) -> None:
    """Encoded in parts, with counts of all lengths, they hold what went in."""
    monkeypatch.setattr(otlp_histograms, "_POINTS", 13)
    random = np.random.default_rng(5)
    expected = {}
    for series in range(100):
        numbers = np.unique(random.integers(0, 512, random.integers(1, 9))).tolist()
        expected[f"w{series}"] = {number: int(2 ** random.uniform(0, 50)) for number in numbers}
    rows = [
        ({"workload.name": name}, DATABASE, {(CellKind.HTTP_SERVER, number): count for number, count in bins.items()})
        for name, bins in expected.items()
    ]
    requests = OtlpEncoder(METRICS, most_bytes).encode(sealed_window(EndTable(), {"az_az": rows}))
    decode(requests)  # each request says how many points it holds
    found = {
        name: {each.positive.offset + 240 + i: count for i, count in enumerate(each.positive.bucket_counts) if count}
        for name, each in histograms(requests, "http.server.duration").items()
    }
    assert found == expected


def test_cumulative_counters_run_since_their_series_began_and_gauges_do_not() -> None:
    encoder, ends = OtlpEncoder(METRICS, cumulative=True), EndTable()
    cells = {(CellKind.TCP_RTT, 100): 1, (CellKind.TCP_RTT, 120): 2, (CellKind.HTTP_STATUS, 404): 3}
    told = cells | {"bytes": 5, "active": 2, "srtt_sum_us": 7, "srtt_count": 3}
    windows = [
        [(WEB, DATABASE, told)],
        [(CACHE, WEB, {"bytes": 1}), (WEB, DATABASE, told)],
        [(CACHE, WEB, {"bytes": 1})],
    ]
    found = []
    for number, rows in enumerate(windows):
        requests = encoder.encode(sealed_window(ends, {"az_az": rows}, number))
        points = {(p.attributes["source.workload.name"], p.metric): p for p in decode(requests)}
        found.append(points)
        assert {p.time_ns for p in points.values()} == {START_NS + (number + 1) * WINDOW_NS}
        assert {p.temporality for p in points.values() if p.kind != "gauge"} == {AGGREGATION_TEMPORALITY_CUMULATIVE}
        if number == 1:
            ends.clear()
    assert [each["web", "tcp.bytes"].value for each in found] == [5, 10, 10]
    assert {each["web", "tcp.bytes"].start_ns for each in found} == {START_NS}
    assert [each["cache", "tcp.bytes"].value for each in found[1:]] == [1, 2]
    assert {each["cache", "tcp.bytes"].start_ns for each in found[1:]} == {START_NS + WINDOW_NS}
    assert [each["web", "http.responses"].value for each in found] == [3, 6, 6]
    assert [each["web", "tcp.rtt"].value for each in found] == pytest.approx([7e-6, 14e-6, 14e-6])
    assert {each["web", "tcp.rtt"].start_ns for each in found} == {START_NS}
    assert [each["web", "tcp.active"].value for each in found] == [2, 2, 0]
    assert found[1]["web", "tcp.active"].start_ns == START_NS + WINDOW_NS


def test_codes_and_reasons_have_their_attribute() -> None:
    told = {(CellKind.HTTP_STATUS, 404): 2, (CellKind.HTTP_STATUS, 0): 1, (CellKind.DROPPED_BYTES, 1): 7}
    rows = [(WEB, DATABASE, told), (CACHE, WEB, {(CellKind.HTTP_STATUS, 404): 9})]
    points = decode(
        OtlpEncoder(METRICS).encode(sealed_window(EndTable(), {"az_az": rows}, 0, ["UNKNOWN", "NO_SOCKET"]))
    )
    found = {
        (p.attributes["source.workload.name"], p.attributes.get("status_code") or p.attributes.get("reason")): p.value
        for p in points
    }
    assert found == {("web", "404"): 2, ("web", "other"): 1, ("web", "NO_SOCKET"): 7, ("cache", "404"): 9}
    assert all(p.kind == "sum" and p.monotonic for p in points)


def test_percentiles() -> None:
    rows = [(WEB, DATABASE, {(CellKind.TCP_RTT, 160): 89, (CellKind.TCP_RTT, 240): 11})]
    points = decode(OtlpEncoder(METRICS).encode(sealed_window(EndTable(), {"az_az": rows})))
    found = {p.metric: (p.value, p.unit, p.kind) for p in points if p.metric.startswith("tcp.latency")}
    assert [round(value) for value, *_ in found.values()] == [1, 1044, 1044, 1044, 1044]
    assert {tuple(rest) for _, *rest in found.values()} == {("ms", "gauge")}


@pytest.mark.parametrize("length", [0, 1, 99, 100, 127, 128, 5_000, 16_384, 100_000])
def test_lengths_of_any_size(length: int) -> None:
    name = "n" * length
    window = sealed_window(EndTable(), {"az_az": [({"workload.name": name}, DATABASE, TRAFFIC)]})
    assert point(decode(OtlpEncoder().encode(window)), "tcp.bytes").attributes["source.workload.name"] == name


def test_names_of_all_alphabets_and_of_none() -> None:
    source, dest = {"process.name": "Größe-データ-🦀"}, {"process.name": "broken\udcff"}
    window = sealed_window(EndTable(), {"az_az": [(source, dest, TRAFFIC)]})
    found = point(decode(OtlpEncoder().encode(window)), "tcp.bytes")
    assert found.attributes["source.process.name"] == "Größe-データ-🦀"
    assert found.attributes["dest.process.name"] == "broken?"


def test_largest_values() -> None:
    window = sealed_window(EndTable(), {"az_az": [(WEB, DATABASE, {"bytes": 2**63 - 1})]})
    assert point(decode(OtlpEncoder().encode(window)), "tcp.bytes").value == 2**63 - 1


def many_series(count: int) -> SealedWindow:
    ends = EndTable()
    indexes = [ends.intern((("process.name", "p" * (i % 7)), ("workload.name", f"w{i}"))) for i in range(200)]
    pairs = np.random.default_rng(1).choice(len(indexes) ** 2, count, replace=False)
    values = {name: np.arange(count) * 7 % 1000 for name in VALUE_COLUMNS}
    level = Level("az_az", (pairs // 200).astype(np.uint32), (pairs % 200).astype(np.uint32), values)
    return SealedWindow(START_NS, START_NS + WINDOW_NS, [level], ends)


@pytest.mark.parametrize("most_bytes", [400, 1_000, 33_333, 1_000_000])
def test_requests_keep_to_their_size_and_hold_every_point_once(most_bytes: int) -> None:
    window = many_series(300)
    whole = OtlpEncoder(METRICS).encode(window)
    assert len(whole) == 1
    requests = OtlpEncoder(METRICS, most_bytes).encode(window)
    assert max(len(request.body) for request in requests) <= max(most_bytes, 700)
    assert decode(requests) == decode(whole)
    # Full, not merely small: the mean request is at least half of what it may be.
    if most_bytes >= 33_333 and len(requests) > 1:
        assert sum(len(request.body) for request in requests) / len(requests) > most_bytes / 2


def test_portions_of_series_have_the_same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    window = many_series(300)
    whole = decode(OtlpEncoder(METRICS).encode(window))
    monkeypatch.setattr(otlp, "POINTS_AT_ONCE", 70)
    assert sorted(map(repr, decode(OtlpEncoder(METRICS).encode(window)))) == sorted(map(repr, whole))


@pytest.mark.parametrize("portion", [7, 10_000])
def test_points_of_several_layouts_and_portions_are_one_metric(portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reducer.outputs.otlp.POINTS_AT_ONCE", portion)
    [request] = OtlpEncoder(METRICS).encode(many_series(20))
    message = ExportMetricsServiceRequest.FromString(request.body)
    names = [metric.name for metric in message.resource_metrics[0].scope_metrics[0].metrics]
    assert "tcp.failed_connects" in names
    assert len(names) == len(set(names))


def test_default_size_is_below_what_receivers_take() -> None:
    requests = OtlpEncoder().encode(many_series(10_000))
    assert len(requests) > 1
    assert max(len(request.body) for request in requests) <= MOST_REQUEST_BYTES < 4 << 20


def lines_run(work: Callable[[], object]) -> int:
    """Return how many lines of Python run: each iteration of a loop counts."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Callable[..., object]:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def test_no_statement_of_python_runs_once_a_point() -> None:
    encoder, few, many = OtlpEncoder(), many_series(200), many_series(2_000)
    points = [sum(request.points for request in encoder.encode(window)) for window in (few, many)]
    lines = [lines_run(lambda window=window: encoder.encode(window)) for window in (few, many)]
    assert lines[1] - lines[0] < (points[1] - points[0]) / 100
