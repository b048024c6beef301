import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.batches import encoded
from intake.columns import TABLES, empty_columns, unpack_tables
from intake.compression import LEAST_BYTES, parse


def noise(table, rows):
    columns = empty_columns(rows, table)
    for i, column in enumerate(TABLES[table]):
        raw = np.random.default_rng(i).bytes(rows * column.dtype.itemsize)
        columns[column.name] = np.frombuffer(raw, column.dtype)
    return columns


@pytest.mark.parametrize("rows", [1, 1_000])
def test_tables_come_back_as_they_went(rows):
    tables = {table: noise(table, rows) for table in TABLES}
    batch = intake_pb2.Batch(number=7, time_unix_ns=1)
    batch.entities.processes.add(id=1)
    message, length = encoded(batch, tables)
    back = parse(message)
    assert back.ByteSize() == length
    assert (back.batch.number, back.batch.time_unix_ns, back.batch.entities) == (7, 1, batch.entities)
    found = unpack_tables(back.batch, rows * len(TABLES))
    assert found.keys() == TABLES.keys()
    for table, columns in found.items():
        for name, values in columns.items():
            assert values.tobytes() == tables[table][name].tobytes(), (table, name)


def test_columns_may_be_strided_and_of_another_type():
    columns = empty_columns(3)
    columns["socket"] = np.array([(1, 2), (3, 4), (5, 6)], [("cookie", "u8"), ("other", "u8")])["cookie"]
    columns["opened"] = np.array([True, False, True])
    found = unpack_tables(parse(encoded(intake_pb2.Batch(), {"tcp": columns}).message).batch, 3)["tcp"]
    assert found["socket"].tolist() == [1, 3, 5]
    assert found["opened"].tolist() == [1, 0, 1]


def test_tables_without_rows_and_columns_of_zeros_cost_nothing():
    assert encoded(intake_pb2.Batch(), {"tcp": empty_columns(0), "udp": empty_columns(1_000, "udp")}).length < 10


def test_only_what_is_large_is_compressed():
    rows = empty_columns(LEAST_BYTES)
    rows["socket"][:] = 1
    message, length = encoded(intake_pb2.Batch(), {"tcp": rows})
    assert len(message) < LEAST_BYTES / 2 < length
    small = encoded(intake_pb2.Batch(number=1), {})
    assert intake_pb2.FromCollector.FromString(small.message).batch.number == 1
