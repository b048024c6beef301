from __future__ import annotations

from datetime import UTC, datetime, timedelta

from reducer.outputs.flow_records import LABELS, SCHEMA, FlowRecords
from reducer.series import VALUE_COLUMNS, EndTable
from tests.windows import START_NS, sealed_window

WEB = {"workload.name": "web", "ip": "10.0.0.1", "pod": "web-1", "namespace.name": "shop"}
DATABASE = {"workload.name": "db", "ip": "10.0.0.2"}


def test_a_row_has_the_labels_of_both_ends_and_all_values():
    rows = [(WEB, DATABASE, {"bytes": 7, "packets": 2, "udp_bytes": 5}), (DATABASE, WEB, {"udp_packets": 3})]
    window = sealed_window(EndTable(), {"az_az": [(WEB, WEB, {"bytes": 1})], "id_id": rows})
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
    records.table(sealed_window(ends, {"id_id": [(WEB, DATABASE, {"bytes": 1})]}))
    cache = DATABASE | {"workload.name": "cache"}
    table = records.table(sealed_window(ends, {"id_id": [(cache, WEB, {"bytes": 1})]}))
    assert (table["source_workload_name"][0], table["dest_workload_name"][0]) == ("cache", "web")
    ends.clear()
    table = records.table(sealed_window(ends, {"id_id": [(DATABASE, cache, {"bytes": 1})]}))
    assert (table["source_workload_name"][0], table["dest_workload_name"][0]) == ("db", "cache")


def test_a_window_without_flows_is_a_table_without_rows():
    table = FlowRecords().table(sealed_window(EndTable(), {"id_id": []}))
    assert (table.schema, len(table)) == (SCHEMA, 0)


def test_every_value_column_has_one_name():
    assert len(SCHEMA) == 2 + 2 * len(LABELS) + 2 + len(VALUE_COLUMNS)
