import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import (
    TABLES,
    MalformedRowsError,
    empty_columns,
    pack_rows,
    unpack_rows,
    unpack_tables,
)


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_a_field_of_the_message_and_the_other_way_round(table):
    fields = {field.name for field in type(getattr(intake_pb2.Batch(), table)).DESCRIPTOR.fields}
    assert fields == {column.name for column in TABLES[table]} | {"rows"}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_comes_back_as_it_went(table):
    columns = empty_columns(3, table)
    for i, column in enumerate(TABLES[table]):
        raw = np.random.default_rng(i).bytes(3 * column.dtype.itemsize)
        columns[column.name] = np.frombuffer(raw, column.dtype)
    batch = intake_pb2.Batch.FromString(intake_pb2.Batch(**{table: pack_rows(table, columns)}).SerializeToString())
    assert unpack_tables(batch, 3).keys() == {table}
    for name, values in unpack_tables(batch, 3)[table].items():
        assert values.tobytes() == columns[name].tobytes(), name
        assert values.dtype == columns[name].dtype, name


def test_columns_of_zeros_cost_nothing():
    message = pack_rows("tcp", empty_columns(1_000))
    assert message.ByteSize() < 10
    assert unpack_rows("tcp", message, 1_000)["bytes_sent"].tolist() == [0] * 1_000


def test_integers_are_little_endian_on_the_wire():
    columns = empty_columns(1)
    columns["local_port"] = np.array([0x1234])
    assert pack_rows("tcp", columns).local_port == b"\x34\x12"


@pytest.mark.parametrize(
    ("rows", "socket", "told"),
    [
        (2, bytes(8), "column socket has 8 bytes: 2 rows need 16"),
        (1, bytes(9), "column socket has 9 bytes"),
        (11, bytes(88), "11 rows in a batch: at most 10"),
    ],
)
def test_what_is_no_table_is_told(rows, socket, told):
    with pytest.raises(MalformedRowsError, match=told):
        unpack_rows("tcp", intake_pb2.TcpSockets(rows=rows, socket=socket), 10)
