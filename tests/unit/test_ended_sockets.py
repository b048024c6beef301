from __future__ import annotations

import numpy as np

from kernel_collector.tcp.ended_sockets import EndedSockets


def rows(*sockets, closed=True, process=0):
    """Rows of *sockets*, of a process that has their number if *process* is 0, in a namespace of ten times that."""
    columns = {
        "socket": np.array(sockets, np.uint64),
        "process": np.array([process or socket for socket in sockets], np.uint32),
        "closed": np.full(len(sockets), closed, np.uint32),
    }
    return columns | {"network_namespace": columns["process"] * np.uint32(10)}


def owners(ended, *sockets):
    return [column.tolist() for column in ended.owners(np.array(sockets, np.uint64))]


def test_sockets_of_several_updates_are_found_and_others_are_not():
    ended = EndedSockets(64)
    assert owners(ended, 1) == [[0], [0]]
    ended.add(rows(9, 3, 5))
    ended.add(rows(4, closed=False))
    ended.add(rows(*range(20, 40)))
    ended.add(rows(1))
    assert owners(ended, 5, 4, 1, 39, 100, 9) == [[5, 0, 1, 39, 0, 9], [50, 0, 10, 390, 0, 90]]


def test_a_socket_that_ends_again_has_its_last_owner():
    ended = EndedSockets(8)
    for process in (7, 8):
        ended.add(rows(1, process=process))
        assert owners(ended, 1) == [[process], [10 * process]]
    together = EndedSockets(64)
    together.add(rows(1, process=7))
    together.add(rows(1, process=8))
    assert owners(together, 1) == [[8], [80]]


def test_the_oldest_are_forgotten_and_as_many_as_were_promised_are_kept():
    ended = EndedSockets(80)
    for socket in range(1, 500):
        ended.add(rows(socket))
    found = np.flatnonzero(ended.owners(np.arange(500, dtype=np.uint64))[0])
    assert found.tolist() == list(range(500 - len(found), 500))
    assert 80 <= len(found) <= 90


def test_more_at_once_than_are_kept():
    ended = EndedSockets(10)
    ended.add(rows(*range(1, 101)))
    assert np.flatnonzero(ended.owners(np.arange(101, dtype=np.uint64))[0]).tolist() == list(range(91, 101))
