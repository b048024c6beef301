import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import (
    TABLES,
    MalformedRowsError,
    stacked,
    unpack_rows,
    whole,
)


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_a_field_of_the_message_and_the_other_way_round(table):
    fields = {field.name for field in type(getattr(intake_pb2.Batch(), table)).DESCRIPTOR.fields}
    assert fields == {column.name for column in TABLES[table]} | {"rows"}


def test_columns_that_are_absent_are_0():
    rows = unpack_rows("tcp", intake_pb2.TcpSockets(rows=1_000), 1_000)
    assert rows["bytes_sent"].tolist() == [0] * 1_000


def test_integers_are_little_endian_on_the_wire():
    assert unpack_rows("tcp", intake_pb2.TcpSockets(rows=1, local_port=b"\x34\x12"), 1)["local_port"].tolist() == [
        0x1234
    ]


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


@pytest.mark.parametrize("table", TABLES)
def test_columns_that_a_table_lacks_are_0(table):
    rows = whole(table, {"socket": np.array([7, 8], np.uint64), "local_port": np.array([80, 443])})
    assert {name: column.dtype for name, column in rows.items()} == {each.name: each.dtype for each in TABLES[table]}
    assert (rows.pop("socket").tolist(), rows.pop("local_port").tolist()) == ([7, 8], [80, 443])
    assert all(column.tobytes() == bytes(column.nbytes) and len(column) == 2 for column in rows.values())


def test_rows_stand_one_after_the_other():
    parts = [whole("tcp", {"socket": np.array(sockets, np.uint64)}) for sockets in ([], [1, 2], [], [3])]
    assert stacked(parts)["socket"].tolist() == [1, 2, 3]
    assert stacked(parts[:3]) is parts[1]
    assert stacked(parts[:1]) is parts[0]
