from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reducer.columns.cells import CellKind
from reducer.columns.series import EndTable
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.outputs.flow_records import LABELS, SCHEMA, FlowRecords
from reducer.outputs.flow_values import DROPS, LATENCY_COLUMNS
from tests.windows import START_NS, sealed_window

WEB = {"workload.name": "web", "ip": "10.0.0.1", "pod": "web-1", "namespace.name": "shop"}
DATABASE = {"workload.name": "db", "ip": "10.0.0.2"}


def test_a_row_has_the_labels_of_both_ends_and_all_values():
    rows = [(WEB, DATABASE, {"bytes": 7, "packets": 2, "udp_bytes": 5}), (DATABASE, WEB, {"udp_packets": 3})]
    window = sealed_window(EndTable(), {"az_az": [(WEB, WEB, {"bytes": 1})], "flows": rows})
    table = FlowRecords().table(window)
    assert table.schema == SCHEMA
    first, second = table.to_dicts()
    start = datetime.fromtimestamp(START_NS / 1e9, UTC)
    assert (first["window_start"], first["window_end"]) == (start, start + timedelta(seconds=30))
    assert {name: first[name] for name in first if name.startswith("source_") and first[name]} == {
        "source_workload_name": "web",
        "source_ip": "10.0.0.1",
        "source_pod": "web-1",
        "source_namespace_name": "shop",
    }
    assert first["dest_pod"] is None
    assert (first["bytes"], first["tcp_bytes"], first["udp_bytes"], first["packets"]) == (12, 7, 5, 2)
    assert (second["source_workload_name"], second["dest_pod"], second["packets"]) == ("db", "web-1", 3)


def test_labels_are_kept_from_window_to_window_and_forgotten_with_the_table():
    ends, records = EndTable(), FlowRecords()
    records.table(sealed_window(ends, {"flows": [(WEB, DATABASE, {"bytes": 1})]}))
    cache = DATABASE | {"workload.name": "cache"}
    table = records.table(sealed_window(ends, {"flows": [(cache, WEB, {"bytes": 1})]}))
    assert (table["source_workload_name"][0], table["dest_workload_name"][0]) == ("cache", "web")
    ends.clear()
    table = records.table(sealed_window(ends, {"flows": [(DATABASE, cache, {"bytes": 1})]}))
    assert (table["source_workload_name"][0], table["dest_workload_name"][0]) == ("db", "cache")


def test_a_window_without_flows_is_a_table_without_rows():
    table = FlowRecords().table(sealed_window(EndTable(), {"flows": []}))
    assert (table.schema, len(table)) == (SCHEMA, 0)


def test_every_value_column_has_one_name():
    flow, derived = ["protocol", "source_port", "dest_port"], [*LATENCY_COLUMNS, *DROPS, "drops_reason"]
    assert len(SCHEMA) == 2 + 2 * len(LABELS) + len(flow) + 2 + len(VALUE_COLUMNS) + len(derived)


def test_ports_latencies_and_drops():
    sent = {"protocol": 6, "source_port": 40_000, "dest_port": 443, "bytes": 7}
    sent |= {(CellKind.TCP_RTT, 160): 99, (CellKind.TCP_RTT, 200): 1}  # from 2^-10 s and from 2^-5 s on
    dropped = {(CellKind.DROPPED_PACKETS, 1): 5, (CellKind.DROPPED_PACKETS, 0): 2, (CellKind.DROPPED_BYTES, 0): 120}
    rows = [(WEB, DATABASE, sent), (DATABASE, WEB, {"protocol": 17, "source_port": 53, **dropped})]
    table = FlowRecords().table(sealed_window(EndTable(), {"flows": rows}, drop_reasons=["NO_SOCKET", "TCP_RESET"]))
    first, second = table.to_dicts()
    assert (first["protocol"], first["source_port"], first["dest_port"]) == ("tcp", 40_000, 443)
    assert (second["protocol"], second["source_port"], second["dest_port"]) == ("udp", 53, None)
    assert (first["tcp_rtt_p50_us"], first["tcp_rtt_p90_us"]) == (1020, 1020)
    assert first["tcp_rtt_max_us"] == pytest.approx(2**-5 * 2 ** (1 / 16) * 1e6, abs=1)
    assert first["tcp_rtt_p90_us"] < first["tcp_rtt_p99_us"] < first["tcp_rtt_max_us"]
    assert (first["dns_client_p50_us"], second["tcp_rtt_p50_us"]) == (None, None)
    assert (first["drops_packets"], first["drops_reason"]) == (0, None)
    assert (second["drops_packets"], second["drops_bytes"], second["drops_reason"]) == (7, 120, "TCP_RESET")
