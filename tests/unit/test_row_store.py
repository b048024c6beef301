import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intake.columns import is_constant, unpack_rows
from intake.merge import merge_rows
from reducer.columns import row_store as module
from reducer.columns.row_store import RowStore
from reducer.windows.rows import TABLES, uniform_rows
from tests.rows import packed_rows, tcp_rows

TABLE = TABLES["sockets"]
SEED = 7


@pytest.fixture(autouse=True)
def parts_are_small(monkeypatch):
    monkeypatch.setattr(module, "_FOLD_ROWS", 4)


def told(*rows):
    return uniform_rows("tcp", tcp_rows(*rows)) | {"time": np.full(len(rows), 5, np.int64)}


ROW = st.fixed_dictionaries(
    {
        "socket": st.integers(1, 4),
        "process": st.integers(1, 2),
        "local_address": st.sampled_from(["10.0.0.1", "fd00::1"]),
        "failure": st.integers(0, 1),
        "role": st.integers(0, 2),
        "baseline": st.integers(0, 1),
        "bytes_sent": st.integers(0, 2**48),
        "min_rtt_us": st.integers(0, 3),
        "opened": st.sampled_from([0, 1, 2**32 - 1]),
    }
)


def as_rows(columns):
    return sorted(zip(*(columns[column.name].tolist() for column in TABLE), strict=True))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(ROW, min_size=1, max_size=9), min_size=1, max_size=6))
def test_rows_are_added_up_by_the_rules_of_the_table(batches):
    store, parts = RowStore(TABLE, SEED), []
    for batch in batches:
        parts.append(told(*batch))
        store.add(parts[-1])
        store.fold(1)
    by_owner = [
        merge_rows(TABLE, [{name: values[part["process"] == owner] for name, values in part.items()} for part in parts])
        for owner in (1, 2)
    ]
    assert as_rows(store.columns()) == sorted(row for merged in by_owner for row in as_rows(merged))
    assert store.rows == len(store.columns()["socket"])


def test_rows_stand_where_the_first_of_them_stood():
    store = RowStore(TABLE, SEED)
    for sockets in ([5, 3, 5, 9, 1, 3], [7, 9, 2, 5]):
        store.add(told(*({"socket": socket} for socket in sockets)))
        store.fold(1)
    assert store.columns()["socket"].tolist() == [5, 3, 9, 1, 7, 2]


def test_only_many_rows_are_added_up():
    store = RowStore(TABLE, SEED)
    store.add(told({"socket": 1}, {"socket": 1}))
    store.fold(3)
    assert store.rows == 2
    store.add(told({"socket": 1}))
    store.fold(3)
    assert store.rows == 1


def test_columns_without_a_value_take_no_memory():
    store = RowStore(TABLE, SEED)
    message = packed_rows("tcp", tcp_rows({"socket": 1, "bytes_sent": 4}))
    store.add(told() | uniform_rows("tcp", unpack_rows("tcp", message, 1)) | {"time": np.array([5])})
    columns = store.columns()
    assert is_constant(columns["closed"])
    assert not is_constant(columns["bytes_sent"])
    store.add(told({"socket": 2, "closed": 3}))
    assert store.columns()["closed"].tolist() == [0, 3]
    assert store.columns()["bytes_sent"].tolist() == [4, 0]
