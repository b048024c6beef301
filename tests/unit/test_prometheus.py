from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from reducer.columns.cells import CellKind
from reducer.columns.series import EndTable
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.outputs import prometheus_text
from reducer.outputs.expositions import OPENMETRICS, TEXT, Exposition
from reducer.outputs.metric import Instrument
from reducer.outputs.metrics import METRICS
from reducer.outputs.prometheus import PrometheusSeries
from tests.packages import debian_program
from tests.windows import sealed_window

if TYPE_CHECKING:
    from tests.windows import Row

WEB = {"workload.name": "web", "availability_zone": "a"}
DATABASE = {"workload.name": "db", "availability_zone": "b"}
CACHE = {"workload.name": "cache"}


HISTOGRAMS = tuple(metric.prometheus_name for metric in METRICS if metric.instrument is Instrument.HISTOGRAM)
EVERYTHING = dict.fromkeys(VALUE_COLUMNS, 5) | {(kind, 200): 5 for kind in CellKind if kind is not CellKind.COLUMN}
REASONS = [f"REASON_{number}" for number in range(256)]


class Rig:
    def __init__(self, **arguments: int) -> None:
        self.ends = EndTable()
        self.series = PrometheusSeries(METRICS, **arguments)
        self.number = 0

    def observe(self, *rows: Row, level: str = "az_az") -> None:
        self.series.observe(sealed_window(self.ends, {level: rows}, self.number, REASONS))
        self.number += 1

    def text(self, exposition: Exposition = TEXT) -> str:
        return b"".join(self.series.render(exposition)).decode()

    def samples(self, name: str) -> dict[str, float]:
        """Return the values of a metric by source and, if it has them, its own attribute."""
        return {
            "/".join(filter(None, (sample.labels["source_workload_name"], sample.labels.get("reason")))): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name
        }


def test_counters_run_and_gauges_are_the_last_windows() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {"bytes": 10, "active": 3, "srtt_sum_us": 4000, "srtt_count": 2}))
    rig.observe((WEB, DATABASE, {"bytes": 5, "active": 1}), (CACHE, WEB, {"bytes": 7}))
    assert rig.samples("tcp_bytes_total") == {"web": 15, "cache": 7}
    assert rig.samples("tcp_active") == {"web": 1}
    assert rig.samples("tcp_rtt_average_seconds") == {}
    rig.observe((WEB, DATABASE, {"srtt_sum_us": 1000, "srtt_count": 1, "failed_refused": 2}))
    assert rig.samples("tcp_rtt_average_seconds") == {"web": 0.001}
    assert rig.samples("tcp_failed_connects_total") == {"web/refused": 2}


def test_counter_stays_while_its_series_is_idle_and_gauges_do_not() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {"bytes": 10, "opened": 1, "active": 1}))
    rig.observe()
    assert rig.samples("tcp_bytes_total") == {"web": 10}
    assert rig.samples("tcp_new_sockets_total") == {"web": 1}
    assert rig.samples("tcp_active") == {}


def test_scraping_changes_nothing() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {"bytes": 10, "active": 3}))
    assert rig.text() == rig.text()


def test_labels() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {"bytes": 10}))
    (family,) = [f for f in text_string_to_metric_families(rig.text()) if f.name == "tcp_bytes"]
    assert family.samples[0].labels == {
        "source_availability_zone": "a",
        "source_workload_name": "web",
        "dest_availability_zone": "b",
        "dest_workload_name": "db",
        "az_equal": "false",
        "aggregation": "az_az",
    }


def test_hostile_names_stay_in_their_label() -> None:
    name = 'a"} 1\nfake{x="\\'
    rig = Rig()
    rig.observe(({"workload.name": name}, {"workload.name": "broken\udcff"}, {"bytes": 10}))
    (family,) = [f for f in text_string_to_metric_families(rig.text()) if f.name == "tcp_bytes"]
    assert family.samples[0].labels["source_workload_name"] == name
    assert family.samples[0].labels["dest_workload_name"] == "broken?"
    assert "\nfake" not in rig.text()


def test_series_keep_their_sums_when_the_table_of_ends_is_cleared() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {"bytes": 10}))
    rig.observe((CACHE, WEB, {"bytes": 1}))
    rig.ends.clear()  # The indexes of the first series are now those of the second.
    rig.observe((CACHE, WEB, {"bytes": 2}))
    rig.observe((WEB, DATABASE, {"bytes": 20}))
    assert rig.samples("tcp_bytes_total") == {"web": 30, "cache": 3}
    assert rig.series.statistics().series == 2


def test_series_of_different_levels_are_different() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {"bytes": 10}))
    rig.observe((WEB, DATABASE, {"bytes": 20}), level="id_id")
    lines = [line for line in rig.text().splitlines() if line.startswith("tcp_bytes_total{")]
    assert sorted(line.split()[-1] for line in lines) == ["10", "20"]


def test_series_without_data_in_ten_windows_leaves_and_starts_anew() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {"bytes": 10}), (CACHE, WEB, {"bytes": 1}))
    for _ in range(9):
        rig.observe((CACHE, WEB, {"bytes": 1}))
    assert rig.samples("tcp_bytes_total") == {"web": 10, "cache": 10}
    rig.observe((CACHE, WEB, {"bytes": 1}))
    assert rig.samples("tcp_bytes_total") == {"cache": 11}
    rig.observe((DATABASE, WEB, {"bytes": 5}))
    rig.observe((WEB, DATABASE, {"bytes": 3}))
    assert rig.samples("tcp_bytes_total") == {"cache": 11, "db": 5, "web": 3}


def test_series_beyond_the_limit_are_left_out_and_counted() -> None:
    rig = Rig(most_series=2)
    rows = [({"workload.name": f"w{i}"}, DATABASE, {"bytes": i + 1}) for i in range(5)]
    rig.observe(*rows)
    rig.observe(*rows)
    assert rig.samples("tcp_bytes_total") == {"w0": 2, "w1": 4}
    assert rig.series.statistics() == (2, 0, 6)
    for _ in range(10):
        rig.observe()
    rig.observe(rows[4])
    assert rig.samples("tcp_bytes_total") == {"w4": 5}


def test_the_idlest_series_make_room_for_new_ones() -> None:
    rig = Rig(most_series=3)
    rows = [({"workload.name": f"w{i}"}, DATABASE, {"bytes": i + 1, (CellKind.TCP_RTT, 112): 1}) for i in range(5)]
    rig.observe(rows[0], rows[1])
    rig.observe(rows[0], rows[2])
    rig.observe(rows[0], rows[3])
    assert rig.samples("tcp_bytes_total") == {"w0": 3, "w2": 3, "w3": 4}
    rig.observe(rows[0], rows[3], rows[4])
    assert rig.samples("tcp_bytes_total") == {"w0": 4, "w3": 8, "w4": 5}
    assert rig.samples("tcp_rtt_seconds_count") == {"w0": 4, "w3": 2, "w4": 1}
    assert rig.series.statistics() == (3, 2, 0)


def test_sums_over_many_windows_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_text, "LINES_A_CHUNK", 7)
    rig, random, expected = Rig(), np.random.default_rng(2), dict.fromkeys((f"w{i}" for i in range(3000)), 0)
    for _ in range(5):
        chosen = random.choice(3000, 2000, replace=False).tolist()
        rig.observe(*(({"workload.name": f"w{i}"}, DATABASE, {"bytes": i}) for i in chosen))
        for i in chosen:
            expected[f"w{i}"] += i
    found = rig.samples("tcp_bytes_total")
    assert found == {name: expected[name] for name in found}
    assert {name for name, value in expected.items() if value} <= set(found)


def test_every_metric_is_one_block_with_help_and_type_before_it() -> None:
    rig = Rig()
    values = EVERYTHING
    rig.observe((WEB, DATABASE, values), (CACHE, WEB, values))
    kinds = []
    for line in rig.text().splitlines():
        kind = tuple(line.split()[1:3]) if line.startswith("#") else ("sample", line.split("{")[0])
        if not kinds or kinds[-1] != kind:
            kinds.append(kind)
    blocks = [(kind, metric.prometheus_name) for metric in METRICS for kind in ("HELP", "TYPE", "sample")]
    assert [kind for kind in kinds if not kind[1].startswith(HISTOGRAMS)] == [
        kind for kind in blocks if not kind[1].startswith(HISTOGRAMS)
    ]


def test_histograms_run_in_buckets_of_powers_of_four() -> None:
    rig = Rig()
    # Bins of 2^-16 s exactly, just below 2^-10 s, and far beyond the last bound.
    told = {(CellKind.TCP_RTT, 112): 2, (CellKind.TCP_RTT, 159): 3, "srtt_sum_us": 3000, "bytes": 1}
    rig.observe((WEB, DATABASE, told))
    rig.observe((WEB, DATABASE, {(CellKind.TCP_RTT, 500): 1, "srtt_sum_us": 7000}), (CACHE, WEB, {"bytes": 1}))
    (family,) = [f for f in text_string_to_metric_families(rig.text()) if f.name == "tcp_rtt_seconds"]
    assert family.type == "histogram"
    found = {(s.name.removeprefix("tcp_rtt_seconds"), s.labels.get("le")): s.value for s in family.samples}
    assert {s.labels["source_workload_name"] for s in family.samples} == {"web"}
    assert (found["_sum", None], found["_count", None], found["_bucket", "+Inf"]) == (0.01, 6, 6)
    below = {bound: found["_bucket", repr(bound)] for bound in prometheus_text.BOUNDS}
    assert below == {bound: 0 if bound < 2**-14 else 2 if bound < 2**-10 else 5 for bound in prometheus_text.BOUNDS}


def test_histograms_of_many_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_text, "LINES_A_CHUNK", 60)
    rig, expected = Rig(), {}
    for window in range(3):
        rows = []
        for series in range(window, 40):
            rows.append(({"workload.name": f"w{series}"}, DATABASE, {(CellKind.DNS_CLIENT, 150 + series): series + 1}))
            expected[f"w{series}"] = expected.get(f"w{series}", 0) + series + 1
        rig.observe(*rows)
    assert rig.samples("dns_client_duration_seconds_count") == expected


def test_bins_are_forgotten_with_their_series() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {(CellKind.TCP_RTT, 112): 2, "srtt_sum_us": 30}))
    for _ in range(10):
        rig.observe((CACHE, WEB, {"bytes": 1}))
    assert rig.samples("tcp_rtt_seconds_count") == {}
    rig.observe((DATABASE, WEB, {"bytes": 1}))  # takes the free slot
    assert rig.samples("tcp_rtt_seconds_count") == {}


def test_percentiles_are_those_of_the_last_window() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, {(CellKind.HTTP_CLIENT, 160): 2}))
    rig.observe((WEB, DATABASE, {(CellKind.HTTP_CLIENT, 240): 2}), (CACHE, WEB, {(CellKind.HTTP_CLIENT, 240): 9}))
    middle = 1000 * 2 ** (1 / 16)
    assert rig.samples("http_latency_p90") == {"web": pytest.approx(middle), "cache": pytest.approx(middle)}


def test_codes_and_reasons_have_their_label() -> None:
    rig = Rig()
    told = {(CellKind.HTTP_STATUS, 404): 2, (CellKind.HTTP_STATUS, 0): 1, (CellKind.DROPPED_PACKETS, 3): 7}
    rig.observe((WEB, DATABASE, told))
    rig.observe((WEB, DATABASE, told))
    found = {
        sample.labels.get("status_code") or sample.labels.get("reason"): sample.value
        for family in text_string_to_metric_families(rig.text())
        for sample in family.samples
        if sample.name in ("http_responses_total", "drops_packets_total")
    }
    assert found == {"404": 4, "other": 2, "REASON_3": 14}


def test_openmetrics_is_read_by_its_own_parser() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, EVERYTHING), ({"workload.name": 'q"\n\\'}, WEB, {"bytes": 1}))
    families = {f.name: f for f in openmetrics_families(rig.text(OPENMETRICS))}
    plain = {f.name: f for f in text_string_to_metric_families(rig.text())}
    assert {name: len(f.samples) for name, f in families.items()} == {name: len(f.samples) for name, f in plain.items()}
    assert families["tcp_bytes"].unit == "bytes"
    assert families["tcp_rtt_seconds"].type == "histogram"


def test_promtool_has_nothing_to_say() -> None:
    rig = Rig()
    rig.observe((WEB, DATABASE, EVERYTHING), ({"workload.name": 'q"\n\\'}, WEB, {"bytes": 1}))
    checked = subprocess.run(
        [debian_program("usr/bin/promtool", "promtool", "prometheus"), "check", "metrics"],
        input=rig.text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
