import numpy as np

from intake.columns import TCP_COLUMNS, empty_columns
from intake.merge import merge_rows, merge_some


def table(**columns):
    rows = len(next(iter(columns.values())))
    result = empty_columns(rows)
    for name, values in columns.items():
        result[name] = np.asarray(values, result[name].dtype)
    return result


def test_rows_of_a_socket_become_one():
    merged = merge_rows(
        TCP_COLUMNS,
        [
            table(socket=[7, 8], bytes_sent=[10, 1], min_rtt_us=[0, 5], baseline=[1, 0], process=[3, 4], role=[0, 2]),
            table(socket=[8, 7], bytes_sent=[2, 20], min_rtt_us=[0, 9], baseline=[0, 0], process=[5, 6], role=[2, 1]),
            table(socket=[7], bytes_sent=[30], min_rtt_us=[4], process=[9], role=[1]),
        ],
    )
    told = {
        name: merged[name].tolist() for name in ("socket", "bytes_sent", "min_rtt_us", "baseline", "process", "role")
    }
    assert told == {
        "socket": [7, 8],
        "bytes_sent": [60, 3],
        "min_rtt_us": [4, 5],
        "baseline": [1, 0],
        "process": [9, 5],
        "role": [1, 2],
    }
    assert {name: values.dtype for name, values in merged.items()} == {each.name: each.dtype for each in TCP_COLUMNS}


def test_a_row_stands_where_the_first_of_its_socket_stood():
    assert merge_rows(TCP_COLUMNS, [table(socket=[9, 3]), table(socket=[1, 9])])["socket"].tolist() == [9, 3, 1]


def test_rows_that_differ_in_any_key_stay_apart():
    for column in TCP_COLUMNS:
        if column.merge == "key":
            first, second = table(socket=[1], bytes_sent=[1]), table(socket=[1], bytes_sent=[2])
            raw = bytearray(column.dtype.itemsize)
            raw[-1] = 1
            second[column.name] = np.frombuffer(bytes(raw), column.dtype)
            assert merge_rows(TCP_COLUMNS, [first, second])["bytes_sent"].tolist() == [1, 2], column.name


def test_a_sum_stops_at_the_greatest_value_of_its_column():
    merged = merge_rows(TCP_COLUMNS, [table(socket=[1], retransmits=[2**32 - 1]), table(socket=[1], retransmits=[2])])
    assert merged["retransmits"].tolist() == [2**32 - 1]


def test_no_rows():
    assert len(merge_rows(TCP_COLUMNS, [empty_columns()])["socket"]) == 0


def test_of_some_rows_those_with_equal_keys_become_one_and_the_others_stay():
    rows = table(socket=[7, 8, 7, 9, 9], bytes_sent=[1, 2, 4, 8, 16])
    merged = merge_some(TCP_COLUMNS, rows, np.array([True, True, True, False, False]))
    assert merged["socket"].tolist() == [9, 9, 7, 8]
    assert merged["bytes_sent"].tolist() == [8, 16, 5, 2]
    assert merge_some(TCP_COLUMNS, rows, np.zeros(5, bool)) is rows
