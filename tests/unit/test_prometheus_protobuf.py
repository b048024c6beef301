from __future__ import annotations

from itertools import accumulate

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reducer.columns.cells import CellKind
from reducer.columns.series import EndTable
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.outputs import prometheus_protobuf
from reducer.outputs.expositions import PROTOBUF, TEXT
from reducer.outputs.metric import Instrument
from reducer.outputs.metrics import METRICS
from reducer.outputs.prometheus import PrometheusSeries
from reducer.outputs.prometheus_text import BOUNDS
from tests.metric_families import families
from tests.windows import sealed_window

WEB = {"workload.name": "web", "availability_zone": "a"}
DATABASE = {"workload.name": 'd"b', "availability_zone": "b"}
CACHE = {"workload.name": "cache\udcff"}
EVERYTHING = {name: 1000 * number for number, name in enumerate(VALUE_COLUMNS, 1)} | {
    (kind, code): 5 + code for kind in CellKind if kind is not CellKind.COLUMN for code in (200, 204, 205)
}
REASONS = [f"REASON_{number}" for number in range(256)]


def series_of(*rows):
    series = PrometheusSeries(METRICS)
    series.observe(sealed_window(EndTable(), {"az_az": rows}, 0, REASONS))
    return series


def read(series):
    return list(families(b"".join(series.render(PROTOBUF))))


@pytest.fixture
def whole():
    return series_of((WEB, DATABASE, EVERYTHING), (CACHE, WEB, {"bytes": 1, (CellKind.TCP_RTT, 3): 1 << 40}))


def test_it_says_what_the_text_says(whole):
    text = {f.name: f for f in text_string_to_metric_families(b"".join(whole.render(TEXT)).decode())}
    found = read(whole)
    kinds = {Instrument.COUNTER: 0, Instrument.GAUGE: 1, Instrument.HISTOGRAM: 4}
    metrics = {metric.prometheus_name: metric for metric in METRICS}
    assert list(dict.fromkeys(family.name for family in found)) == list(metrics)
    for name, metric in metrics.items():
        of_name = [family for family in found if family.name == name]
        assert {(family.help, family.type) for family in of_name} == {(metric.description, kinds[metric.instrument])}
        told = {}
        for each in (each for family in of_name for each in family.metric):
            labels = tuple(sorted((label.name, label.value) for label in each.label))
            if metric.instrument is Instrument.HISTOGRAM:
                told |= {("_count", labels): each.histogram.sample_count, ("_sum", labels): each.histogram.sample_sum}
                told |= {
                    ("_bucket", tuple(sorted((*labels, ("le", repr(bucket.upper_bound)))))): bucket.cumulative_count
                    for bucket in each.histogram.bucket
                }
            else:
                told["", labels] = (each.counter if metric.instrument is Instrument.COUNTER else each.gauge).value
        of_text = text[name.removesuffix("_total")]
        assert told == {
            (sample.name.removeprefix(name), tuple(sorted(sample.labels.items()))): sample.value
            for sample in of_text.samples
            if sample.labels.get("le") != "+Inf"
        }


def native(histogram):
    """Return the amounts by the upper bounds of their buckets, as the specification of native histograms has it."""
    amounts, index, found = accumulate(histogram.positive_delta), 0, {}
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            found[2 ** (index / 2**histogram.schema)] = next(amounts)
            index += 1
    assert list(amounts) == []
    return found


def test_native_histograms_have_the_bins():
    bins = {240: 7, 241: 2, 250: 9, 239: 4}  # bin 240 begins at 1 s
    told = {(CellKind.TCP_RTT, number): amount for number, amount in bins.items()}
    series = series_of((WEB, DATABASE, told), (CACHE, WEB, {(CellKind.TCP_RTT, 0): 3}))
    (family,) = (family for family in read(series) if family.name == "tcp_rtt_seconds")
    (first, second) = (each.histogram for each in family.metric)
    assert native(first) == pytest.approx({2 ** ((number - 239) / 8): amount for number, amount in bins.items()})
    assert native(second) == pytest.approx({2 ** (-30 + 1 / 8): 3})
    assert (first.schema, first.sample_count, len(first.positive_span)) == (3, 22, 2)
    assert [bucket.upper_bound for bucket in first.bucket] == BOUNDS


def test_a_family_of_many_series_comes_in_several_messages(monkeypatch):
    monkeypatch.setattr(prometheus_protobuf, "SERIES_A_MESSAGE", 7)
    rows = [
        ({"workload.name": f"w{number}"}, DATABASE, {"bytes": number, (CellKind.TCP_RTT, number): number})
        for number in range(1, 30)
    ]
    sent, readings = {}, {}
    for family in read(series_of(*rows)):
        assert len(family.metric) <= 7
        for each in family.metric:
            name = next(label.value for label in each.label if label.name == "source_workload_name")
            if family.name == "tcp_bytes_total":
                sent[name] = each.counter.value
            elif family.name == "tcp_rtt_seconds":
                readings[name] = sum(native(each.histogram).values())
    assert sent == readings == {f"w{number}": number for number in range(1, 30)}
