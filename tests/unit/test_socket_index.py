import numpy as np

from kernel_collector.columns.socket_index import SocketIndex, with_room


def cookies(*numbers):
    return np.array(numbers, np.uint64)


def test_each_cookie_has_the_slot_that_it_was_given():
    index = SocketIndex(10)
    assert index.find(cookies(5)).tolist() == [-1]
    five, nine = index.insert(cookies(5, 9))
    (seven,) = index.insert(cookies(7))
    assert len({five, seven, nine}) == len(index) == 3
    assert index.find(cookies(9, 6, 5, 7, 10)).tolist() == [nine, -1, five, seven, -1]
    assert index.slots.tolist() == [five, seven, nine]


def test_slots_that_were_taken_back_are_given_again():
    index = SocketIndex(10)
    index.insert(cookies(1, 2, 3))
    gone = index.find(cookies(1, 3))
    index.remove(cookies(1, 3))
    assert index.find(cookies(1, 2, 3)).tolist() == [-1, 1, -1]
    assert sorted(index.insert(cookies(8, 9))) == sorted(gone)
    index.remove(cookies())
    assert len(index) == 3


def test_where_there_is_no_room_the_last_get_none():
    index = SocketIndex(3)
    index.insert(cookies(1, 2))
    assert index.insert(cookies(3, 4, 5)).tolist() == [2, -1, -1]
    assert index.find(cookies(3, 4, 5)).tolist() == [2, -1, -1]


def test_a_table_has_room_for_its_slots_and_for_none():
    table = np.arange(4)
    assert with_room(table, np.array([2, -1])) is table
    assert with_room(table, np.empty(0, np.intp)) is table
    longer = with_room(table, np.array([3]))
    assert longer[:4].tolist() == [0, 1, 2, 3]
    assert longer[-1] == 0
