import numpy as np

from kernel_collector.columns.sorted_keys import begins_group, find


def test_keys_are_found_where_they_are():
    keys = np.array([2, 3, 5, 7], np.uint64)
    found, at = find(keys, np.array([7, 1, 3, 4, 8, 2], np.uint64))
    assert found.tolist() == [True, False, True, False, False, True]
    assert at[found].tolist() == [3, 1, 0]


def test_among_no_keys_none_is_found():
    found, at = find(np.empty(0, np.uint64), np.array([0, 1], np.uint64))
    assert found.tolist() == [False, False]
    assert at.dtype == np.intp


def test_groups_begin_where_keys_differ():
    assert begins_group(np.array([4, 4, 5, 6, 6])).tolist() == [True, False, True, True, False]
    assert begins_group(np.empty(0, np.uint64)).tolist() == []
